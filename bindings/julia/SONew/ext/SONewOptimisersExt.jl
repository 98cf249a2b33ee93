# SONew as a rule of Optimisers.jl. Julia 1.9 and newer load this when both packages are
# loaded.

module SONewOptimisersExt

import Optimisers
import SONew
using Optimisers: AbstractRule, Leaf, OptimiserChain, Zero
using SONew: PlanRule, SONewError, SONewRule

# A rule must be a subtype of AbstractRule, which exists only with Optimisers.jl. What the
# library refuses is refused when the rule is made, so that no step begins with it.
struct OptimisersRule <: AbstractRule
    rule::SONewRule
    plans::PlanRule

    function OptimisersRule(rule::SONewRule)
        rule.master && throw(ArgumentError(
            "master weights need a step of SONew's own: Optimisers.jl writes the parameters"))
        rule.clip_norm == 0 || throw(ArgumentError(
            "clip_norm is the norm of all gradients together, and Optimisers.jl takes one " *
            "array at a time: use its ClipNorm, or a step of SONew's own"))
        plans = PlanRule(rule)
        SONew.check_numbers(rule, plans)
        return new(rule, plans)
    end
end

SONew.optimisers_rule(rule::SONewRule) = OptimisersRule(rule)
SONew.optimisers_rule(rule::OptimisersRule) = rule

# The hyperparameters are read as those of other rules: rule.eta.
Base.getproperty(o::OptimisersRule, name::Symbol) =
    name in fieldnames(OptimisersRule) ? getfield(o, name) : getproperty(o.rule, name)
Base.propertynames(::OptimisersRule) = fieldnames(SONewRule)
Base.show(io::IO, o::OptimisersRule) = print(io, o.rule)

# Neither is taken apart where a tree is copied.
Optimisers.functor(::Type{<:Union{OptimisersRule,SONewRule}}, rule) = (), _ -> rule

# The rule itself may be in a chain, too.
const Ours = Union{OptimisersRule,SONewRule}
plans(o::OptimisersRule) = o.plans
plans(rule::SONewRule) = OptimisersRule(rule).plans

# The state: plain arrays, the step count, and the name of the array in the model, where it
# is known; it can be copied and saved.
function Optimisers.init(o::Ours, x::AbstractArray)
    planes = of_array("", x) do
        SONew.with_plan(SONew.zero_planes, plans(o), eltype(x), size(x))
    end
    return (planes = Tuple(planes), scalars = SONew.zero_scalars(), step = 0, name = "")
end

# Updates the planes and the scalars in place, and returns the change, which Optimisers.jl
# subtracts from x.
function Optimisers.apply!(o::Ours, state, x::AbstractArray{T}, dx) where {T}
    step = state.step + 1
    change = Array{T}(undef, size(x))
    of_array(state.name, x) do
        SONew.with_plan(plans(o), T, size(x)) do plan
            SONew.direction!(change, plan, state.planes, dense(dx, x, plan.info.grad_type),
                             step; eta = o.eta, grad_scale = o.grad_scale,
                             statistics_weight = o.statistics_weight,
                             non_finite = o.non_finite, scalars = state.scalars,
                             beta1 = o.beta1, beta2 = o.beta2)
        end
    end
    eta, decay = T(o.eta), T(o.weight_decay)
    change .= decay == 0 ? eta .* change : eta .* (change .+ decay .* x)
    # An array that cannot be written becomes a new one of its kind, if its map makes one.
    return (; state..., step = step), Optimisers.maywrite(x) ? change : map((_, c) -> c, x, change)
end

# A gradient is whatever broadcasts to x, as for other rules: an array of another type, a
# lazy expression of another rule of a chain, a thunk, a number.
dense(dx::Array{G}, x, ::Type{G}) where {G} = dx
function dense(dx, x, ::Type{G}) where {G}
    value = evaluated(dx)
    value isa AbstractArray && return Array{G}(value)
    value isa Number && return fill(G(value), size(x))
    throw(ArgumentError("the gradient of \"array\" is neither array nor number but a $(typeof(dx))"))
end

evaluated(dx::Union{Number,AbstractArray}) = dx
evaluated(dx) = Base.materialize(Base.broadcastable(dx))

# Runs f, and tells in what it refuses which array is meant: a plan, which serves many arrays,
# calls them all "array".
function of_array(f, name, x)
    try
        return f()
    catch e
        e isa Union{SONewError,ArgumentError} || rethrow()
        which = isempty(name) ? "of size $(size(x))" : repr(name)
        tell(message) = replace(message, "\"array\"" => which)
        throw(e isa ArgumentError ? ArgumentError(tell(e.msg)) :
              SONewError(e.status, e.code, tell(e.message)))
    end
end

# As in Optimisers.jl, hyperparameters of other rules are ignored. Hyperparameters that
# the state depends on cannot be adjusted.
const ADJUSTABLE = (:eta, :weight_decay, :grad_scale, :statistics_weight, :non_finite,
                    :beta1, :beta2, :eps, :gamma, :graft_eps, :shrink)

adjusted(o, hyperparameters) = OptimisersRule(SONewRule(
    o; (name => value for (name, value) in hyperparameters if name in ADJUSTABLE)...))
Optimisers.adjust(o::OptimisersRule, eta::Real) = adjusted(o.rule, (:eta => eta,))
Optimisers.adjust(o::OptimisersRule; hyperparameters...) = adjusted(o.rule, hyperparameters)
Optimisers.adjust(rule::SONewRule, eta::Real) = adjusted(rule, (:eta => eta,)).rule
Optimisers.adjust(rule::SONewRule; hyperparameters...) = adjusted(rule, hyperparameters).rule

# Rules that end with one of this package.
const Ending = Union{Tuple{Ours},Tuple{Any,Ours},Tuple{Any,Any,Ours},Tuple{Any,Any,Any,Ours}}
const OurRule = Union{OptimisersRule,OptimiserChain{<:Ending}}

# Setup tells each leaf its name, the path to it, for messages.
Optimisers.setup(rule::SONewRule, model) = Optimisers.setup(OptimisersRule(rule), model)
function Optimisers.setup(rule::OurRule, model)
    tree = invoke(Optimisers.setup, Tuple{AbstractRule,Any}, rule, model)
    name_leaves(tree, "")
    return tree
end

name_leaves(leaf::Leaf, name) = (leaf.state = with_name(leaf.state, isempty(name) ? "array" : name); nothing)
name_leaves(tree::Union{Tuple,NamedTuple,AbstractArray,AbstractDict}, name) =
    foreach(((key, part),) -> name_leaves(part, isempty(name) ? string(key) : "$name.$key"),
            pairs(tree))
name_leaves(_, name) = nothing

with_name(state::NamedTuple, name) = merge(state, (name = name,))
with_name(states::Tuple, name) = (Base.front(states)..., with_name(last(states), name))

# Optimisers.jl collects the gradients of all leaves before it updates the first one. Those
# that a step would refuse are refused here, so that nothing has changed then. The other
# rules of a chain may make an infinity finite, but not a NaN. (The function is one of its
# own: in a version without it, a leaf is refused when its turn comes.)
if isdefined(Optimisers, :_grads!)
    function Optimisers._grads!(found::IdDict, leaf::Leaf{<:OurRule}, x, dx, others...)
        leaf.frozen && return
        dx = evaluated(dx)
        check_finite(leaf.rule, leaf.state, x, dx)
        return invoke(Optimisers._grads!, Tuple{IdDict,Leaf,Any,Vararg{Any}}, found, leaf, x,
                      dx, others...)
    end
    Optimisers._grads!(::IdDict, ::Leaf{<:OurRule}, x, ::Zero, ::Zero...) = nothing
end

check_finite(chain::OptimiserChain, states, x, dx) =
    last(chain.opts).non_finite === :unchecked || refuse_where(isnan, last(states), x, dx)
check_finite(o::OptimisersRule, state, x, dx) =
    o.non_finite === :unchecked ||
    refuse_where(Overflows(float32_or_64(eltype(x)), o.grad_scale), state, x, dx)

# Whether the square of a scaled gradient is not finite in the type of the arithmetic.
struct Overflows{T}
    scale::T
    Overflows(::Type{T}, scale) where {T} = new{T}(T(scale))
end
(o::Overflows{T})(g) where {T} = !isfinite(abs2(o.scale * T(g)))
float32_or_64(::Type{T}) where {T} = T === Float64 ? Float64 : Float32

function refuse_where(bad, state, x, dx)
    dx isa Union{Number,AbstractArray{<:Number}} && any(bad, dx) || return
    of_array(() -> SONew.refuse(SONew.NON_FINITE_GRADIENT, "tensor \"array\": the gradient is ",
                                "not finite, or its square overflows; the step was skipped"),
             state.name, x)
end

# What this package's own setup trains: of a type that Optimisers.trainable has a method for,
# the parts that this returns.
struct Trainable end
function (::Trainable)(x)
    method = which(Optimisers.trainable, Tuple{typeof(x)})
    return method === which(Optimisers.trainable, Tuple{Any}) ? nothing :
           Optimisers.trainable(x)
end

__init__() = (SONew.OTHER_TRAINABLE[] = Trainable(); nothing)

end
