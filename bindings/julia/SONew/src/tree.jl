# Models: arrays in nested containers. Every function here visits the arrays of a model
# in the same order, in which setup() numbers them.

"""
    SONew.trainable(x)

The parts of a struct that may contain arrays to be trained, as a named tuple: all its
fields, unless there is a method for its type. Numbers, strings, functions without
fields, random number generators and similar values have no parts. Where Optimisers.jl is
loaded, a method of `Optimisers.trainable` says which of them [`setup`](@ref) trains, so that
the running statistics of Flux's `BatchNorm` are left out.
"""
@generated function trainable(x)
    names = fieldnames(x)
    parts = [:(getfield(x, $(QuoteNode(name)))) for name in names]
    return :(NamedTuple{$names}(($(parts...),)))
end
trainable(::Union{Number,AbstractString,AbstractChar,Symbol,Nothing,Missing,Type,Module,Ptr,
                  IO,Task,Regex,Random.AbstractRNG,Base.AbstractLock,Array}) = NamedTuple()

const Leaf = AbstractArray{<:Number}

# The parts of the gradient that belong to the parts of the model. `nothing` for a
# container means `nothing` for all its arrays, and so does a part that is left out, as
# Zygote does with keys that were not used. A part that the model has not is a mistake.
parts(x::Tuple, ::Nothing) = map(_ -> nothing, x)
parts(x::Tuple, g::Tuple) = length(g) == length(x) ? g : other_parts(x, g)
parts(x::NamedTuple{names}, ::Nothing) where {names} = map(_ -> nothing, values(x))
parts(x::NamedTuple{names}, g::NamedTuple{names}) where {names} = values(g)
function parts(x::NamedTuple{names}, g::NamedTuple) where {names}
    issubset(keys(g), names) || other_parts(x, g)
    return by_name(x, g)
end
parts(x, g) = other_parts(x, g)

# The parts of g in the order of x.
by_name(::NamedTuple{names}, g::NamedTuple) where {names} =
    issubset(names, keys(g)) ? values(NamedTuple{names}(g)) :
    map(name -> haskey(g, name) ? g[name] : nothing, names)

@noinline other_parts(x, g) = throw(ArgumentError(
    "the gradient has another structure than the model: $(outline(g)) for $(outline(x)); " *
    "where there is no gradient, pass nothing"))

outline(x::NamedTuple) = "a named tuple with ($(join(keys(x), ", ")))"
outline(x::Tuple) = "a tuple of $(length(x))"
outline(x::AbstractDict) = "a dictionary with ($(join(sort(collect(map(string, collect(keys(x))))), ", ")))"
outline(x::Leaf) = "an array of size $(size(x)) with elements of type $(eltype(x))"
outline(x::AbstractArray) = "a list of $(length(x))"
outline(x) = "a $(nameof(typeof(x)))"

# Calls f(array, gradient) for every array of the model. f is a callable struct and not a
# closure, so that it can count without allocating.
visit(f, x, g) = walk(f, x, plain(f, g))

# A gradient of another package as arrays, tuples and so on: the extension of ChainRulesCore
# has methods for its types. What is made for that must be kept by f until its arrays are used.
plain(f, g) = g

walk(f, x::Leaf, g) = f(x, g)
walk(f, x::Tuple, g) = visit_each(f, x, parts(x, g))
walk(f, x::NamedTuple, g) = visit_each(f, values(x), parts(x, g))
function walk(f, x::AbstractArray, g)
    g === nothing || g isa AbstractArray && axes(g) == axes(x) || other_parts(x, g)
    for i in eachindex(x)
        visit(f, x[i], g === nothing ? nothing : g[i])
    end
end
function walk(f, x::AbstractDict, g)
    g === nothing || g isa AbstractDict && issubset(keys(g), keys(x)) || other_parts(x, g)
    for key in sorted_keys(x)
        visit(f, x[key], g === nothing ? nothing : get(g, key, nothing))
    end
end
function walk(f, x, g)
    inner = trainable(x)
    isempty(inner) || visit_each(f, values(inner), parts_of_struct(x, inner, g))
    return
end

# The gradient of a struct is a struct of its type, or a named tuple of fields, as Zygote
# makes it; for a mutable struct it is in a Ref.
parts_of_struct(x, inner, ::Nothing) = parts(inner, nothing)
function parts_of_struct(x, inner, g::NamedTuple)
    all(key -> key in keys(inner) || key in fieldnames(typeof(x)), keys(g)) || other_parts(x, g)
    return by_name(inner, g)
end
parts_of_struct(x, inner, g::Base.RefValue) =
    g isa typeof(x) ? values(trainable(g)) : parts_of_struct(x, inner, g[])
parts_of_struct(x, inner, g) = g isa typeof(x) ? values(trainable(g)) : other_parts(x, g)

visit_each(f, ::Tuple{}, ::Tuple{}) = nothing
function visit_each(f, xs::Tuple, gs::Tuple)
    visit(f, first(xs), first(gs))
    visit_each(f, Base.tail(xs), Base.tail(gs))
end

sorted_keys(x::AbstractDict) = sort!(collect(keys(x)); by = string)

# All arrays of a model in the order of visit: each with its name, the path to it joined by
# dots, and whether it is one to train.
struct FoundArray
    name::String
    array::Any
    trained::Bool
end

function named_arrays(x)
    found = FoundArray[]
    collect_arrays!(found, x, "", true, Any[])
    return found
end

function collect_arrays!(found, x, name, trained, above)
    if x isa Leaf
        # Integers are no parameters, but indices, counts or flags.
        push!(found, FoundArray(isempty(name) ? "array" : name, x,
                                trained && !(eltype(x) <: Integer)))
        return
    end
    if ismutable_container(x)
        any(y -> y === x, above) &&
            throw(ArgumentError("the model contains itself at \"$name\""))
        push!(above, x)
    end
    chosen = OTHER_TRAINABLE[](x)
    for (key, part) in named_parts(x)
        collect_arrays!(found, part, isempty(name) ? string(key) : "$name.$key",
                        trained && is_chosen(chosen, key, part), above)
    end
    ismutable_container(x) && pop!(above)
    return
end

# What Optimisers.trainable returns for a struct of a type that has a method of it, otherwise
# `nothing`: set by the extension of Optimisers.jl.
const OTHER_TRAINABLE = Ref{Any}(x -> nothing)

is_chosen(::Nothing, key, part) = true
is_chosen(chosen::NamedTuple, key, part) = haskey(chosen, key)
# An old method returns the parts without their names.
is_chosen(chosen, key, part) = any(y -> y === part, chosen)

ismutable_container(x) = !(x isa Union{Tuple,NamedTuple}) && ismutable(x)

named_parts(x::Union{Tuple,NamedTuple}) = pairs(x)
named_parts(x::AbstractArray) = (i => x[i] for i in eachindex(x))
named_parts(x::AbstractDict) = (key => x[key] for key in sorted_keys(x))
named_parts(x) = pairs(trainable(x))
