# Models: arrays in nested containers. Every function here visits the arrays of a model
# in the same order, in which setup() numbers them.

"""
    SONew.trainable(x)

The parts of a struct that may contain arrays to be trained, as a named tuple: all its
fields, unless there is a method for its type. Numbers, strings, functions without
fields, random number generators and similar values have no parts.
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
# container means `nothing` for all its arrays. Parts without arrays, such as an
# activation function, may be left out.
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
function by_name(x::NamedTuple{names}, g::NamedTuple) where {names}
    issubset(names, keys(g)) && return values(NamedTuple{names}(g))
    return map(name -> haskey(g, name) ? g[name] : left_out(x, g, name), names)
end

# In place of a part that the gradient leaves out.
left_out(x, g, name) = has_arrays(x[name]) ? other_parts(x, g) : nothing

has_arrays(::Leaf) = true
has_arrays(x::Union{Tuple,NamedTuple,AbstractArray}) = any(has_arrays, x)
has_arrays(x::AbstractDict) = any(has_arrays, values(x))
has_arrays(x) = any(has_arrays, trainable(x))

@noinline other_parts(x, g) = throw(ArgumentError(
    "the gradient has another structure than the model: $(outline(g)) for $(outline(x)); " *
    "where there is no gradient, pass nothing"))

outline(x::NamedTuple) = "a named tuple with ($(join(keys(x), ", ")))"
outline(x::Tuple) = "a tuple of $(length(x))"
outline(x::AbstractDict) = "a dictionary with ($(join(sort(collect(map(string, collect(keys(x))))), ", ")))"
outline(x::Leaf) = "an array of size $(size(x))"
outline(x::AbstractArray) = "a list of $(length(x))"
outline(x) = "a $(nameof(typeof(x)))"

# Calls f(array, gradient) for every array of the model. f is a callable struct and not a
# closure, so that it can count without allocating.
visit(f, x::Leaf, g) = f(x, g)
visit(f, x::Tuple, g) = visit_each(f, x, parts(x, g))
visit(f, x::NamedTuple, g) = visit_each(f, values(x), parts(x, g))
function visit(f, x::AbstractArray, g)
    g === nothing || g isa AbstractArray && axes(g) == axes(x) || other_parts(x, g)
    for i in eachindex(x)
        visit(f, x[i], g === nothing ? nothing : g[i])
    end
end
function visit(f, x::AbstractDict, g)
    g === nothing || g isa AbstractDict && issubset(keys(g), keys(x)) || other_parts(x, g)
    for key in sorted_keys(x)
        part = g === nothing ? nothing : haskey(g, key) ? g[key] : left_out(x, g, key)
        visit(f, x[key], part)
    end
end
function visit(f, x, g)
    inner = trainable(x)
    isempty(inner) || visit_each(f, values(inner), parts_of_struct(x, inner, g))
    return
end

# The gradient of a struct is a struct of its type, or a named tuple of at least the
# fields with arrays, as Zygote makes it; for a mutable struct it is in a Ref.
parts_of_struct(x, inner, ::Nothing) = parts(inner, nothing)
parts_of_struct(x::T, inner, g::T) where {T} = values(trainable(g))
function parts_of_struct(x, inner::NamedTuple{names}, g::NamedTuple) where {names}
    return by_name(inner, g)
end
parts_of_struct(x, inner, g::Base.RefValue) = parts_of_struct(x, inner, g[])
parts_of_struct(x, inner, g) = other_parts(x, g)

visit_each(f, ::Tuple{}, ::Tuple{}) = nothing
function visit_each(f, xs::Tuple, gs::Tuple)
    visit(f, first(xs), first(gs))
    visit_each(f, Base.tail(xs), Base.tail(gs))
end

sorted_keys(x::AbstractDict) = sort!(collect(keys(x)); by = string)

# All arrays of a model with their names: the path to each, joined by dots.
function named_arrays(x)
    found = Pair{String,Any}[]
    collect_arrays!(found, x, "", Any[])
    return found
end

function collect_arrays!(found, x, name, above)
    if x isa Leaf
        push!(found, (isempty(name) ? "array" : name) => x)
        return
    end
    if ismutable_container(x)
        any(y -> y === x, above) &&
            throw(ArgumentError("the model contains itself at \"$name\""))
        push!(above, x)
    end
    for (key, part) in named_parts(x)
        collect_arrays!(found, part, isempty(name) ? string(key) : "$name.$key", above)
    end
    ismutable_container(x) && pop!(above)
    return
end

ismutable_container(x) = !(x isa Union{Tuple,NamedTuple}) && ismutable(x)

named_parts(x::Union{Tuple,NamedTuple}) = pairs(x)
named_parts(x::AbstractArray) = (i => x[i] for i in eachindex(x))
named_parts(x::AbstractDict) = (key => x[key] for key in sorted_keys(x))
named_parts(x) = pairs(trainable(x))
