# Threads that optimizers and plans share.

"""
    SONew.Pool(threads = 0; processors = Int[])

A pool of threads that any number of optimizers and plans share, as the hyperparameter
`pool` of their rules. Without one, all that ask for the same number of threads share
one, so that a pool is for keeping groups of them apart, or for running their threads on
the given processors only, numbered as the system does, from 0.

`threads` includes the thread that calls a step; 0 means one for each of the
processors, or for each one that the process may run on. The threads start when a step
first needs them, and end with the last optimizer or plan that has used them. A pool is
freed when it is garbage collected, or at once by `close(pool)`, also before those that use
it.
"""
mutable struct Pool
    handle::Ptr{Cvoid}
    lock::ReentrantLock
end

function Pool(threads::Integer = 0; processors = Int[])
    pool = finalizer(p -> release(p, :sonew_pool_free), Pool(C_NULL, ReentrantLock()))
    numbers = collect(Csize_t, processors)
    disable_sigint() do
        handle = Ref{Ptr{Cvoid}}(C_NULL)
        check(ccall(c().sonew_pool_create, Int32,
                    (Int32, Ptr{Csize_t}, Csize_t, Ptr{Ptr{Cvoid}}),
                    threads, numbers, length(numbers), handle))
        pool.handle = handle[]
    end
    return pool
end

"""
    close(pool)

Frees the pool; the optimizers and plans that use it keep its threads. Closing a pool
again does nothing.
"""
function Base.close(pool::Pool)
    pool.handle == C_NULL && return
    protected(_ -> check(release(pool, :sonew_pool_free)), pool)
    return
end

Base.isopen(pool::Pool) = pool.handle != C_NULL
Base.deepcopy_internal(::Pool, ::IdDict) = throw(ArgumentError("a pool cannot be copied"))
Base.show(io::IO, pool::Pool) =
    print(io, "SONew.Pool(", isopen(pool) ? "open" : "closed", ")")
