# Not Optimisers.jl: just so many of its functions, over named tuples of arrays, that the
# extension can be run where the real package cannot be had.

module Optimisers

abstract type AbstractRule end
const Zero = Nothing

function functor end
function init end
function apply! end
adjust(rule::AbstractRule, eta::Real) = error("no method of adjust for $(typeof(rule))")

trainable(x) = ()
maywrite(::DenseArray) = true
maywrite(_) = false

struct OptimiserChain{O<:Tuple} <: AbstractRule
    opts::O
end
OptimiserChain(opts...) = OptimiserChain(opts)
init(o::OptimiserChain, x::AbstractArray) = map(opt -> init(opt, x), o.opts)
function apply!(o::OptimiserChain, states, x, dx)
    new = ()
    for (opt, state) in zip(o.opts, states)
        state, dx = apply!(opt, state, x, dx)
        new = (new..., state)
    end
    return new, dx
end
adjust(o::OptimiserChain, eta::Real) = OptimiserChain(map(opt -> adjust(opt, eta), o.opts)...)
adjust(o::OptimiserChain; settings...) =
    OptimiserChain(map(opt -> adjust(opt; settings...), o.opts)...)

struct ClipGrad <: AbstractRule
    delta::Float64
end
init(::ClipGrad, x) = nothing
apply!(o::ClipGrad, state, x, dx) = state, Base.broadcasted(clamp, dx, -o.delta, o.delta)
adjust(o::ClipGrad, eta::Real) = o
adjust(o::ClipGrad; delta = o.delta, settings...) = ClipGrad(delta)

mutable struct Leaf{R,S}
    rule::R
    state::S
    frozen::Bool
end

setup(rule::AbstractRule, model) = leaves(rule, model)
leaves(rule, x::AbstractArray) = Leaf(rule, init(rule, x), false)
leaves(rule, model::Union{Tuple,NamedTuple}) = map(x -> leaves(rule, x), model)

function update!(tree, model, grads)
    found = IdDict{Leaf,Any}()
    _grads!(found, tree, model, grads)
    return tree, changed(found, tree, model)
end

_grads!(found::IdDict, leaf::Leaf, x, ::Zero...) = nothing
_grads!(found::IdDict, leaf::Leaf, x, dxs...) = (found[leaf] = only(dxs); nothing)
_grads!(found::IdDict, tree, x, ::Zero...) = nothing
_grads!(found::IdDict, tree, x, dxs...) =
    foreach(name -> _grads!(found, tree[name], x[name], only(dxs)[name]), keys(tree))

function changed(found, leaf::Leaf, x)
    (leaf.frozen || !haskey(found, leaf)) && return x
    leaf.state, change = apply!(leaf.rule, leaf.state, x, found[leaf])
    return maywrite(x) ? (x .-= change) : x .- change
end
changed(found, tree, x) = map((t, part) -> changed(found, t, part), tree, x)

freeze!(leaf::Leaf) = (leaf.frozen = true; nothing)

adjust!(leaf::Leaf; settings...) = (leaf.rule = adjust(leaf.rule; settings...); nothing)
adjust!(tree; settings...) = foreach(l -> adjust!(l; settings...), tree)
adjust!(leaf::Leaf, eta::Real) = (leaf.rule = adjust(leaf.rule, eta); nothing)
adjust!(tree, eta::Real) = foreach(l -> adjust!(l, eta), tree)

end
