# Settings of one array, and information about an optimizer.

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
function info(opt::Optimizer)
    protected(opt) do handle
        out = Ref{OptimizerInfo}()
        check(ccall(c().sonew_info, Int32, (Ptr{Cvoid}, Ptr{OptimizerInfo}, Csize_t),
                    handle, out, sizeof(OptimizerInfo)))
        return out[]
    end
end

# Calls a function of the library that has one result.
function ask(f::Symbol, ::Type{T}, opt) where {T}
    protected(opt) do handle
        out = Ref{T}()
        check(ccall(getfield(c(), f), Int32, (Ptr{Cvoid}, Ptr{T}), handle, out))
        return out[]
    end
end

"""
    step_count(opt) -> Int

Steps taken so far, without those that were refused. Loading sets it to the file's count.
Of the steps that one array took part in, [`SONew.tensor_step_count`](@ref) is the number.
"""
step_count(opt::Optimizer) = Int(info(opt).step_count)

"""
    SONew.gradient_norm(opt) -> Float64

The norm of all gradients together in the last step, before clipping; NaN if the step
did not compute it.
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
    SONew.threads(pool) -> Int

The largest number of threads that a step uses, the calling thread included: while the
threads of the pool are running, those that the system gave, otherwise those that were
asked for.
"""
threads(opt::Optimizer) = Int(info(opt).threads)
threads(pool::Pool) = Int(ask(:sonew_pool_threads, Csize_t, pool))

"""
    SONew.instruction_set(opt) -> String

The instruction set in use: `"avx512"`, `"avx2"`, `"neon"` or `"portable"`.
"""
instruction_set(opt::Optimizer) = unsafe_string(info(opt).instruction_set)

# Reads or changes a number of one array.
function get_number(f::Symbol, ::Type{T}, opt, tensor) where {T}
    protected(opt) do handle
        out = Ref{T}()
        check(ccall(getfield(c(), f), Int32, (Ptr{Cvoid}, Csize_t, Ptr{T}),
                    handle, tensor_index(opt, tensor) - 1, out))
        return out[]
    end
end

function set_number!(f::Symbol, ::Type{T}, opt, tensor, value) where {T}
    protected(opt) do handle
        check(ccall(getfield(c(), f), Int32, (Ptr{Cvoid}, Csize_t, T),
                    handle, tensor_index(opt, tensor) - 1, value))
    end
    return
end

"""
    SONew.lr_scale(opt, tensor) -> Float64

The factor on the learning rate of an array, 1 at first. `tensor` is the array's name or
number.
"""
lr_scale(opt::Optimizer, tensor) = get_number(:sonew_lr_scale, Float64, opt, tensor)

"""
    SONew.set_lr_scale!(opt, tensor, scale)

Changes the factor on the learning rate of an array; finite and not negative.
"""
set_lr_scale!(opt::Optimizer, tensor, scale::Real) =
    set_number!(:sonew_set_lr_scale, Float64, opt, tensor, scale)

"""
    SONew.weight_decay(opt, tensor) -> Float64

The decoupled weight decay of an array, at first that of the rule.
"""
weight_decay(opt::Optimizer, tensor) = get_number(:sonew_weight_decay, Float64, opt, tensor)

"""
    SONew.set_weight_decay!(opt, tensor, decay)

Changes the decoupled weight decay of an array; finite and not negative.
"""
set_weight_decay!(opt::Optimizer, tensor, decay::Real) =
    set_number!(:sonew_set_weight_decay, Float64, opt, tensor, decay)

"""
    SONew.tensor_step_count(opt, tensor) -> Int

The number of the steps that an array took part in, which its bias correction counts.
`tensor` is the array's name or number.
"""
tensor_step_count(opt::Optimizer, tensor) =
    Int(get_number(:sonew_tensor_step_count, UInt64, opt, tensor))

"""
    SONew.set_tensor_step_count!(opt, tensor, count)

Changes the number of the steps that an array took part in.
"""
set_tensor_step_count!(opt::Optimizer, tensor, count::Integer) =
    set_number!(:sonew_set_tensor_step_count, UInt64, opt, tensor, count)

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
