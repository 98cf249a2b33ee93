# SONew as a rule of Optimisers.jl. Julia 1.9 and newer load this when both packages are
# loaded.

module SONewOptimisersExt

import Optimisers
import SONew
using SONew: SONewRule

# A rule must be a subtype of AbstractRule, which exists only with Optimisers.jl.
struct OptimisersRule <: Optimisers.AbstractRule
    rule::SONewRule

    function OptimisersRule(rule::SONewRule)
        rule.master && throw(ArgumentError(
            "master weights need a step of SONew's own: Optimisers.jl writes the parameters"))
        rule.clip_norm == 0 || throw(ArgumentError(
            "clip_norm is the norm of all gradients together, and Optimisers.jl takes one " *
            "array at a time: use its ClipNorm, or a step of SONew's own"))
        return new(rule)
    end
end

SONew.optimisers_rule(rule::SONewRule) = OptimisersRule(rule)
Optimisers.setup(rule::SONewRule, model) = Optimisers.setup(OptimisersRule(rule), model)

# The state: plain arrays and the step count, which can be copied and saved; with lagged
# norms the scalars, too.
function Optimisers.init(o::OptimisersRule, x::AbstractArray)
    planes = SONew.with_plan(SONew.zero_planes, o.rule, eltype(x), size(x))
    start = (planes = Tuple(planes), step = 0)
    return o.rule.lagged_norms ? (; start..., scalars = SONew.zero_scalars()) : start
end

# Updates the planes in place and returns the change, which Optimisers.jl subtracts from x.
function Optimisers.apply!(o::OptimisersRule, state, x::AbstractArray{T}, dx) where {T}
    step = state.step + 1
    change = Array{T}(undef, size(x))
    SONew.with_plan(o.rule, T, size(x)) do plan
        SONew.direction!(change, plan, state.planes, dense(dx, plan.info.grad_type), step;
                         grad_scale = o.rule.grad_scale, non_finite = o.rule.non_finite,
                         statistics_weight = o.rule.statistics_weight,
                         scalars = get(state, :scalars, nothing))
    end
    eta, decay = T(o.rule.eta), T(o.rule.weight_decay)
    change .= decay == 0 ? eta .* change : eta .* (change .+ decay .* x)
    return (; state..., step = step), change
end

# A gradient may be a lazy expression, as from another rule of a chain, or any array.
dense(dx, ::Type{G}) where {G} = dense(Base.materialize(dx), G)
dense(dx::Array{G}, ::Type{G}) where {G} = dx
dense(dx::AbstractArray, ::Type{G}) where {G} = Array{G}(dx)

Optimisers.init(rule::SONewRule, x::AbstractArray) = Optimisers.init(OptimisersRule(rule), x)
Optimisers.apply!(rule::SONewRule, state, x::AbstractArray, dx) =
    Optimisers.apply!(OptimisersRule(rule), state, x, dx)

# As in Optimisers.jl, hyperparameters of other rules are ignored. Hyperparameters that
# the state depends on cannot be adjusted.
const ADJUSTABLE = (:eta, :weight_decay, :grad_scale, :statistics_weight, :non_finite,
                    :beta1, :beta2, :eps, :gamma, :graft_eps)

Optimisers.adjust(o::OptimisersRule, eta::Real) = OptimisersRule(SONewRule(o.rule; eta = eta))
function Optimisers.adjust(o::OptimisersRule; hyperparameters...)
    known = [name => value for (name, value) in hyperparameters if name in ADJUSTABLE]
    return OptimisersRule(SONewRule(o.rule; known...))
end

Base.show(io::IO, o::OptimisersRule) = print(io, o.rule)

end
