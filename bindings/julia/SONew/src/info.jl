# Settings of one array, what a program keeps with an optimizer, and information about an optimizer.

"""
    SONew.version() -> VersionNumber

The version of the library in use.
"""
version() = VersionNumber(unsafe_string(ccall(c().sonew_version, Ptr{UInt8}, ())))

"""
    SONew.library_path() -> String

The path of the library in use.
"""
library_path() = Libdl.dlpath(LIBRARY[].path)

"""
    tensor_names(opt) -> Vector{String}

The names of the arrays that an optimizer was set up for.
"""
tensor_names(opt::Optimizer) = [t.name for t in opt.tensors]

# What there is to know of an optimizer as a whole.
info(opt::Optimizer) =
    protected(handle -> filled(c().sonew_info, OptimizerInfo, handle), opt)

"""
    step_count(opt) -> Int

Steps taken so far, without those that were refused. Loading sets it to the file's count.
The number of the steps that one array took part in is among [`SONew.get_settings`](@ref).
"""
step_count(opt::Optimizer) = Int(info(opt).step_count)

"""
    SONew.gradient_norm(opt) -> Float64

The norm of all gradients together in the last step, before clipping; NaN if the step
did not compute it or was skipped, and before the first step.
"""
gradient_norm(opt::Optimizer) = info(opt).gradient_norm

"""
    SONew.state_bytes(opt) -> Int

Size of the state in bytes.
"""
state_bytes(opt::Optimizer) = Int(info(opt).state_bytes)

"""
    SONew.memory_bytes(opt) -> Int

Bytes of memory that the library holds for the optimizer in all.
"""
memory_bytes(opt::Optimizer) = Int(info(opt).memory_bytes)

"""
    SONew.threads(opt) -> Int

The largest number of threads that a step uses, the calling thread included: while the
threads of the pool are running, those that the system gave, otherwise those that were
asked for.
"""
threads(opt::Optimizer) = Int(info(opt).threads)

"""
    SONew.instruction_set(opt) -> String

The instruction set in use: `"avx512"`, `"avx2"`, `"neon"` or `"portable"`.
"""
instruction_set(opt::Optimizer) = unsafe_string(info(opt).instruction_set)

"""
    SONew.get_settings(opt, tensor) -> NamedTuple

The settings of an array, whose name or number `tensor` is:

- `lr_scale`: the factor on the learning rate, 1 at first;
- `weight_decay`: the decoupled weight decay, at first that of the rule;
- `step_count`: the number of the steps that the array took part in, which its bias
  correction counts;
- `scalars`: the four numbers of the array's state besides its planes, zeros before its
  first step: `|a| / |u|` of its last step, with `lagged_norms`; what momentum and
  statistics were divided by in it, where betas have differed from those of the rule
  (otherwise 0); and the largest entry of its bias-corrected diagonal after it, with the
  damping `:relative_lagged`. For programs that keep state in arrays of their own.
"""
get_settings(opt::Optimizer, tensor) = protected(opt) do handle
    index = tensor_index(opt, tensor)
    return named(filled(c().sonew_get_settings, Settings, handle, index - 1))
end

named(s::Settings) = (lr_scale = s.lr_scale, weight_decay = s.weight_decay,
                      step_count = Int(s.step_count), scalars = collect(s.scalars))

"""
    SONew.set_settings!(opt, tensor; lr_scale, weight_decay, step_count, scalars)

Changes settings of an array; those that are not given stay. `lr_scale` and `weight_decay`
are finite and not negative, `step_count` is not negative, and `scalars` are four numbers,
as from [`SONew.get_settings`](@ref).
"""
function set_settings!(opt::Optimizer, tensor; lr_scale::Union{Nothing,Real} = nothing,
                       weight_decay::Union{Nothing,Real} = nothing,
                       step_count::Union{Nothing,Integer} = nothing, scalars = nothing)
    scalars === nothing || check_scalars(scalars, tensor)
    protected(opt) do handle
        index = tensor_index(opt, tensor)
        now = filled(c().sonew_get_settings, Settings, handle, index - 1)
        settings = Settings(sizeof(Settings), something(lr_scale, now.lr_scale),
                            something(weight_decay, now.weight_decay),
                            as(UInt64, something(step_count, now.step_count), "step_count"),
                            Tuple(something(scalars, now.scalars)))
        check(ccall(c().sonew_set_settings, Int32, (Ptr{Cvoid}, Csize_t, Ref{Settings}),
                    handle, index - 1, settings))
    end
    return
end

check_scalars(scalars, tensor) = length(scalars) == SCALARS || refuse(
    WRONG_LENGTH, "array ", repr(tensor), " is given ", length(scalars), " scalars, expected ",
    SCALARS)

"""
    SONew.reset_master!(opt)

Discards the master weights, so that the next step copies them from the arrays again.
Call this after changing arrays between steps; otherwise the next step overwrites the
change.
"""
function reset_master!(opt::Optimizer)
    protected(opt) do handle
        check(ccall(c().sonew_reset_master, Int32, (Ptr{Cvoid},), handle))
        opt.generation += 1
    end
    return
end

"""
    SONew.reset!(opt)

Makes the optimizer what it was when it was set up: all state zero, step counts 0, the first
settings of arrays, no texts. What [`adjust!`](@ref) has changed stays. Views of the state
become invalid; a live file that held the state is closed. Returns `opt`.
"""
function reset!(opt::Optimizer)
    protected(opt) do handle
        check(ccall(c().sonew_reset, Int32, (Ptr{Cvoid},), handle))
        opt.generation += 1
    end
    return opt
end
