# The optimizer: a handle of the library, and the description of its arrays.

struct TensorInfo
    name::String
    size::Vector{Int}
    type::DataType
    grad_type::DataType
end

"""
    SONew.Optimizer

An optimizer, made by [`setup`](@ref) or [`load`](@ref). It holds the state of a list of
arrays, but not the arrays. It is freed when it is garbage collected, or at once by
`close(opt)`; after that it is refused with `:SONEW_BAD_HANDLE`.

Several tasks and threads may use it: each call waits for the one before. Ctrl-C during a
call takes effect after the call, so that a step is taken completely or not at all.
"""
mutable struct Optimizer
    handle::Ptr{Cvoid}
    rule::SONewRule
    tensors::Vector{TensorInfo}
    # For every array of the model: the number of its tensor, or 0 if it is left out.
    places::Vector{Int}
    params::Vector{Ptr{Cvoid}}
    grads::Vector{Ptr{Cvoid}}
    lock::ReentrantLock
    # Increases whenever views of the state become invalid.
    generation::Int
    # What was made of the gradients of a step, and is needed until the step is taken.
    kept::Vector{Any}
    self::UInt
end

"""
    setup(rule, model; hyperparameters = (name, array) -> NamedTuple())

Creates an optimizer for the arrays of `model`, with zero state. `model` is an array, or
a tuple, named tuple, `Dict`, array or struct of models, to any depth (of a struct all
fields, or those that [`SONew.trainable`](@ref) returns). The optimizer does not keep
`model`, which must have the same structure, sizes and element types in every call.

Arrays are `Float32`, `Float64`, `Float16` or bfloat16 and contiguous in memory: an
`Array`, or a view or reshape of one that leaves no gaps. Others are refused. Two arrays
that share memory are refused as well, because they are one parameter: leave one of them
out. Values that are not arrays (numbers, functions, strings) are ignored, and so are arrays
of integers. With Optimisers.jl loaded, what `Optimisers.trainable` leaves out is not trained.

Each array is a tensor whose name is the path to it in the model, as in `"layers.1.W"`
(`"array"` if the model is a single array); files identify it by that name.
`hyperparameters` is called with every name and array. It returns a named tuple of those
(of `chains`, `update`, `state_dtype`, `grad_dtype`, `master`, `shard`) that differ for this array,
or `nothing`, which leaves the array out:

    setup(SONewRule(chains = :strided), model;
          hyperparameters = (name, x) -> ndims(x) == 1 ? (update = :adam,) : NamedTuple())

Throws a [`SONewError`](@ref) if the library refuses something, and an `ArgumentError` for
an array of a type that it does not take.
"""
function setup(rule::SONewRule, model; hyperparameters = (name, array) -> NamedTuple())
    tensors, rules, places = TensorInfo[], SONewRule[], Int[]
    arrays = named_arrays(model)
    for (name, array, trained) in ((a.name, a.array, a.trained) for a in arrays)
        own = trained ? hyperparameters(name, array) : nothing
        if own === nothing
            push!(places, 0)
            continue
        end
        tensor_rule = with_hyperparameters(rule, own, name)
        check_array(name, array)
        push!(tensors, TensorInfo(name, collect(Int, size(array)), eltype(array),
                                  something(tensor_rule.grad_dtype, eltype(array))))
        push!(rules, tensor_rule)
        push!(places, length(tensors))
    end
    isempty(tensors) && refuse(NO_TENSORS, "the model has no array to train: it is ",
                               outline(model))
    check_apart(tensors, [a.array for (place, a) in zip(places, arrays) if place != 0])
    list = [tensor(t.name, Tuple(t.size), t.type, r) for (t, r) in zip(tensors, rules)]
    opt = optimizer(rule, tensors, places)
    GC.@preserve tensors create!(opt, c().sonew_create, list)
    return opt
end

# One that has no handle yet.
function optimizer(rule, tensors, places)
    n = length(tensors)
    return owner_of(:sonew_free, Optimizer(C_NULL, rule, tensors, places, fill(C_NULL, n),
                                           fill(C_NULL, n), ReentrantLock(), 0, Any[], 0))
end

const PER_TENSOR = (:chains, :update, :state_dtype, :grad_dtype, :master, :shard)

function with_hyperparameters(rule, own, name)
    own isa Union{NamedTuple,Tuple{}} || throw(ArgumentError(
        "hyperparameters(\"$name\", ...) is $(repr(own)), which is neither a named tuple nor nothing"))
    own isa Tuple{} && return rule
    for key in keys(own)
        key in PER_TENSOR || throw(ArgumentError(
            "hyperparameters(\"$name\", ...) has $key, which is none of a tensor; " *
            "those are $(join(PER_TENSOR, ", "))"))
    end
    return SONewRule(rule; own...)
end

function check_array(name, x)
    check_kind(name, eltype(x), ndims(x))
    address(x, () -> "array \"$name\"")
end

function check_kind(name, type, ndims)
    dtype(type) == 0 && wrong_type(
        "array \"", name, "\" has elements of type ", type, "; the library takes Float32, ",
        "Float64, Float16 and bfloat16 (the keyword hyperparameters can leave an array out)")
    ndims <= MAX_DIMS || refuse(
        TOO_MANY_DIMENSIONS, "array \"", name, "\" has ", ndims, " dimensions, at most ",
        MAX_DIMS, " are allowed")
end

# Refuses arrays that share memory. The library does, too, but only in the first step.
function check_apart(tensors, arrays)
    GC.@preserve arrays begin
        starts = [UInt(address(x, () -> t.name)) for (t, x) in zip(tensors, arrays)]
    end
    order = sortperm(starts)
    for (a, b) in zip(order, order[2:end])
        starts[a] + sizeof(eltype(arrays[a])) * length(arrays[a]) <= starts[b] && continue
        refuse(OVERLAP, "arrays \"", tensors[a].name, "\" and \"", tensors[b].name,
               "\" share memory; they are one parameter, whose gradient is the sum of both: ",
               "leave one of them out by the keyword hyperparameters")
    end
end

"""
    close(opt)

Frees the optimizer and its state, and its threads if no other optimizer or plan has used
them. If the state is in a live file, writes
the last step to disk first. Views of the state become invalid. Closing an optimizer
again does nothing.
"""
function Base.close(opt::Optimizer)
    opt.handle == C_NULL && return
    protected(opt) do _
        opt.generation += 1
        check(release(opt, :sonew_free))
    end
    return
end

Base.isopen(opt::Optimizer) = is_itself(opt) && opt.handle != C_NULL

function Base.show(io::IO, opt::Optimizer)
    n = length(opt.tensors)
    elements = sum(prod(t.size) for t in opt.tensors)
    print(io, "SONew.Optimizer(", opt.rule, ", ", n, n == 1 ? " array" : " arrays", ", ",
          elements, " parameters, ", isopen(opt) ? "step $(step_count(opt))" : "closed", ")")
end
