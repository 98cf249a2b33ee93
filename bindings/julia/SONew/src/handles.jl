# What owns a handle of the library: optimizers, plans, pools and saves. Each has the fields
# handle, lock and self, and is freed by the garbage collector at the latest.

# What an owner knows itself by: its place in this process. A copy, as packages make it that
# write any object to a file, is at another place and must not use the handle.
const PROCESS = Ref{UInt}(0)
place_of(owner) = UInt(pointer_from_objref(owner)) ⊻ PROCESS[]
is_itself(owner) = owner.self == place_of(owner)

# An owner that has no handle yet, and frees it with this function of the library. A
# finalizer must not wait for the lock, and need not: nothing else uses the handle.
function owner_of(free::Symbol, owner)
    owner.self = place_of(owner)
    return finalizer(o -> release(o, free), owner)
end

# Creates the handle of an owner. The owner has its finalizer already, so that a Ctrl-C
# cannot lose the handle.
create!(owner, f, list) = disable_sigint() do
    handle = Ref{Ptr{Cvoid}}(C_NULL)
    check(ccall(f, Int32, (Ref{Options}, Ptr{Tensor}, Csize_t, Ptr{Ptr{Cvoid}}),
                options(owner.rule), list, length(list), handle))
    owner.handle = handle[]
end

# Runs f(handle) while no other task uses the handle, and delays Ctrl-C until it is done.
function protected(f, owner)
    is_itself(owner) || refuse(BAD_HANDLE, copied(owner))
    disable_sigint() do
        lock(owner.lock)
        try
            owner.handle == C_NULL && closed(owner)
            return f(owner.handle)
        finally
            unlock(owner.lock)
        end
    end
end

@noinline closed(owner) =
    refuse(BAD_HANDLE, "the ", lowercase(string(nameof(typeof(owner)))), " was closed")

# Frees a handle, unless it is in use, which the lock prevents.
function release(owner, f)
    owner.handle == C_NULL && return
    status = ccall(getfield(c(), f), Int32, (Ptr{Cvoid},), owner.handle)
    status == BUSY || (owner.handle = C_NULL)
    return status
end

const BUSY = Int32(102)
