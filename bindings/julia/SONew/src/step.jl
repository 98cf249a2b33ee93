# Steps.

"""
    step!(opt, model, grads; eta, grad_scale, clip_norm, statistics_weight, non_finite,
          beta1, beta2)

Takes one step: updates the arrays of `model` in place from `grads`, which has the
structure of `model` with a gradient for every array, of the array's size and of its
`grad_dtype`. `nothing`, for an array or for a whole part of the model, means that it
takes no part in the step: its parameters, its state and its own step count, which its
bias correction follows, stay as they are. A field or a key that is left out means the same,
as Zygote leaves out keys that were not used. Where ChainRulesCore.jl is loaded, its tangents,
thunks and zeros are gradients, too. Returns `opt`.

The keywords are hyperparameters of this step; those that are not given are as in
`opt.rule`. Bias correction follows the products of the betas of all steps.

A refused step changes nothing and throws a [`SONewError`](@ref), or an `ArgumentError`
if `grads` has another structure, or an array another element type. A gradient with a NaN or an infinity is refused with
`:SONEW_NON_FINITE_GRADIENT`.
"""
function step!(opt::Optimizer, model, grads; eta::Real = opt.rule.eta,
               grad_scale::Real = opt.rule.grad_scale,
               clip_norm::Real = opt.rule.clip_norm,
               statistics_weight::Real = opt.rule.statistics_weight,
               non_finite::Symbol = opt.rule.non_finite,
               beta1::Union{Nothing,Real} = nothing, beta2::Union{Nothing,Real} = nothing)
    step = step_options(eta, grad_scale, statistics_weight, clip_norm, non_finite;
                        beta1 = beta1, beta2 = beta2)
    protected(opt) do handle
        GC.@preserve opt model grads begin
            gather!(opt, model, grads)
            status = ccall(c().sonew_step, Int32,
                           (Ptr{Cvoid}, Ref{StepOptions}, Ptr{Ptr{Cvoid}}, Ptr{Ptr{Cvoid}},
                            Csize_t),
                           handle, step, opt.params, opt.grads, length(opt.params))
        end
        empty!(opt.kept)
        check(status)
        opt.generation += 1
    end
    return opt
end

"""
    update!(opt, model, grads; eta, ...) -> (opt, model)

As [`step!`](@ref), with the arguments and the result of Optimisers.jl's `update!`.
"""
update!(opt::Optimizer, model, grads; keywords...) =
    (step!(opt, model, grads; keywords...); (opt, model))

"""
    adjust!(opt, eta)
    adjust!(opt; eta, grad_scale, clip_norm, statistics_weight, non_finite)

Changes hyperparameters for all later steps. Numbers out of range are refused.
"""
adjust!(opt::Optimizer, eta::Real) = adjust!(opt; eta = eta)
function adjust!(opt::Optimizer; hyperparameters...)
    of_a_step = (:eta, :grad_scale, :clip_norm, :statistics_weight, :non_finite)
    for name in keys(hyperparameters)
        name in of_a_step || throw(ArgumentError(
            "$name cannot be adjusted; $(join(of_a_step, ", ")) can"))
    end
    rule = SONewRule(opt.rule; hyperparameters...)
    check_numbers(rule)
    opt.rule = rule
    return
end

# Keeps what the gradients of a step were made into.
keep(g, made) = (push!(g.opt.kept, made); made)

# Takes the addresses of the model's arrays, and of their gradients.
mutable struct Gatherer
    opt::Optimizer
    leaf::Int
end

function gather!(opt::Optimizer, model, grads)
    empty!(opt.kept)
    gatherer = Gatherer(opt, 0)
    visit(gatherer, model, grads)
    gatherer.leaf == length(opt.places) || refuse(
        TENSOR_COUNT, "the model has ", gatherer.leaf, " arrays, and the optimizer was set up ",
        "for ", length(opt.places))
    return
end

function (g::Gatherer)(x, grad)
    opt = g.opt
    g.leaf += 1
    g.leaf <= length(opt.places) || refuse(
        TENSOR_COUNT, "the model has more arrays than the ", length(opt.places),
        " that the optimizer was set up for")
    place = opt.places[g.leaf]
    place == 0 && return
    info = opt.tensors[place]
    opt.params[place] = fitting(x, info, info.type, "array")
    opt.grads[place] = grad === nothing ? C_NULL :
                       fitting(grad, info, info.grad_type, "the gradient of")
    return
end

# The address of an array that has the size and the type that it should have: the library
# gets no more than the address.
function fitting(x::AbstractArray, info::TensorInfo, type::DataType, what::String,
                 expected::Vector{Int} = info.size)
    eltype(x) === type || wrong_type(
        what, " \"", info.name, "\" has elements of type ", eltype(x), ", expected ", type)
    same_size(x, expected) || refuse(
        WRONG_LENGTH, what, " \"", info.name, "\" has size ", size(x), ", expected ",
        Tuple(expected))
    return address(x, () -> "$what \"$(info.name)\"")
end
fitting(x, info::TensorInfo, type, what, expected = info.size) =
    wrong_type(what, " \"", info.name, "\" is no array but a ", typeof(x))

@noinline wrong_type(message...) = throw(ArgumentError(string(message...)))

function same_size(x::AbstractArray, expected::Vector{Int})
    ndims(x) == length(expected) || return false
    for i in 1:ndims(x)
        size(x, i) == expected[i] || return false
    end
    return true
end

# Calls f with the addresses of the parameters, to save or load them.
function with_params(f, opt, ::Nothing)
    return f(C_NULL, 0)
end
function with_params(f, opt, model)
    gather!(opt, model, nothing)
    return f(pointer(opt.params), length(opt.params))
end
