# Not Optimisers.jl: just so many of its documented functions, over named tuples of
# arrays, that the extension can be run where the real package cannot be had.

module Optimisers

abstract type AbstractRule end

function init end
function apply! end
adjust(rule::AbstractRule, eta::Real) = error("no method of adjust for $(typeof(rule))")

mutable struct Leaf{R,S}
    rule::R
    state::S
end

setup(rule::AbstractRule, x::AbstractArray) = Leaf(rule, init(rule, x))
setup(rule::AbstractRule, model::NamedTuple) = map(x -> setup(rule, x), model)

function update!(leaf::Leaf, x::AbstractArray, dx)
    leaf.state, change = apply!(leaf.rule, leaf.state, x, dx)
    x .-= change
    return leaf, x
end
update!(leaf::Leaf, x::AbstractArray, ::Nothing) = (leaf, x)
function update!(tree::NamedTuple, model::NamedTuple, grads::NamedTuple)
    map((l, x, dx) -> update!(l, x, dx), tree, model, grads)
    return tree, model
end

adjust!(leaf::Leaf; settings...) = (leaf.rule = adjust(leaf.rule; settings...); nothing)
adjust!(tree::NamedTuple; settings...) = foreach(l -> adjust!(l; settings...), tree)
adjust!(leaf::Leaf, eta::Real) = (leaf.rule = adjust(leaf.rule, eta); nothing)
adjust!(tree::NamedTuple, eta::Real) = foreach(l -> adjust!(l, eta), tree)

end
