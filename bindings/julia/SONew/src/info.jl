# Settings of one array, and what an optimizer tells of itself.

"""
    SONew.version() -> VersionNumber

The version of the library in use.
"""
version() = VersionNumber(unsafe_string(ccall(c().sonew_version, Ptr{UInt8}, ())))

"""
    SONew.library_path() -> String

Where the library in use is.
"""
library_path() = Libdl.dlpath(LIBRARY[].path)

"""
    tensor_names(opt) -> Vector{String}

The names of the arrays that an optimizer was set up for.
"""
tensor_names(opt::Optimizer) = [t.name for t in opt.tensors]

# Asks a function of the library that has one result.
function ask(f::Symbol, ::Type{T}, opt) where {T}
    protected(opt) do handle
        out = Ref{T}()
        check(ccall(getfield(c(), f), Int32, (Ptr{Cvoid}, Ptr{T}), handle, out))
        return out[]
    end
end

"""
    step_count(opt) -> Int

Steps taken so far: those that were not refused. Loading sets it to the file's.
"""
step_count(opt::Optimizer) = Int(ask(:sonew_step_count, UInt64, opt))

"""
    SONew.gradient_norm(opt) -> Float64

The length of all gradients together in the last step, before clipping; NaN where
the step did not need it.
"""
gradient_norm(opt::Optimizer) = ask(:sonew_gradient_norm, Float64, opt)

"""
    SONew.state_bytes(opt) -> Int

Bytes of state.
"""
state_bytes(opt::Optimizer) = Int(ask(:sonew_state_bytes, Csize_t, opt))

"""
    SONew.memory_bytes(opt) -> Int

Bytes that the library holds for the optimizer in all.
"""
memory_bytes(opt::Optimizer) = Int(ask(:sonew_memory_bytes, Csize_t, opt))

"""
    SONew.threads(opt) -> Int

The largest number of threads that a step uses, the calling one included.
"""
threads(opt::Optimizer) = Int(ask(:sonew_threads, Csize_t, opt))

"""
    SONew.instruction_set(opt) -> String

The instruction set in use: `"avx512"`, `"avx2"`, `"neon"` or `"portable"`.
"""
function instruction_set(opt::Optimizer)
    protected(opt) do handle
        out = Ref{Ptr{UInt8}}()
        check(ccall(c().sonew_instruction_set, Int32, (Ptr{Cvoid}, Ptr{Ptr{UInt8}}), handle, out))
        return unsafe_string(out[])
    end
end

# Reads or changes a number of one array.
function get_number(f::Symbol, opt, tensor)
    protected(opt) do handle
        out = Ref{Float64}()
        check(ccall(getfield(c(), f), Int32, (Ptr{Cvoid}, Csize_t, Ptr{Float64}),
                    handle, tensor_index(opt, tensor) - 1, out))
        return out[]
    end
end

function set_number!(f::Symbol, opt, tensor, value)
    protected(opt) do handle
        check(ccall(getfield(c(), f), Int32, (Ptr{Cvoid}, Csize_t, Float64),
                    handle, tensor_index(opt, tensor) - 1, value))
    end
    return
end

"""
    SONew.lr_scale(opt, tensor) -> Float64

What the learning rate of an array is multiplied with, 1 at first. `tensor` is its
name or its number.
"""
lr_scale(opt::Optimizer, tensor) = get_number(:sonew_lr_scale, opt, tensor)

"""
    SONew.set_lr_scale!(opt, tensor, scale)

Changes what the learning rate of an array is multiplied with; finite and not
negative.
"""
set_lr_scale!(opt::Optimizer, tensor, scale::Real) =
    set_number!(:sonew_set_lr_scale, opt, tensor, scale)

"""
    SONew.weight_decay(opt, tensor) -> Float64

The decoupled weight decay of an array, that of the rule at first.
"""
weight_decay(opt::Optimizer, tensor) = get_number(:sonew_weight_decay, opt, tensor)

"""
    SONew.set_weight_decay!(opt, tensor, decay)

Changes the decoupled weight decay of an array; finite and not negative.
"""
set_weight_decay!(opt::Optimizer, tensor, decay::Real) =
    set_number!(:sonew_set_weight_decay, opt, tensor, decay)

"""
    SONew.reset_master!(opt)

Forgets the master weights: the next step takes them anew from the arrays. For a
caller who has changed arrays between steps; without it the change is lost.
"""
function reset_master!(opt::Optimizer)
    protected(opt) do handle
        check(ccall(c().sonew_reset_master, Int32, (Ptr{Cvoid},), handle))
        opt.generation += 1
    end
    return
end
