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
    self::UInt
end

function Pool(threads::Real = 0; processors = Int[])
    pool = owner_of(:sonew_pool_free, Pool(C_NULL, ReentrantLock(), 0))
    count = as(Int32, threads, "threads")
    numbers = Csize_t[as(Csize_t, number, "a number of processors") for number in processors]
    disable_sigint() do
        handle = Ref{Ptr{Cvoid}}(C_NULL)
        check(ccall(c().sonew_pool_create, Int32,
                    (Int32, Ptr{Csize_t}, Csize_t, Ptr{Ptr{Cvoid}}),
                    count, numbers, length(numbers), handle))
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

Base.isopen(pool::Pool) = is_itself(pool) && pool.handle != C_NULL
Base.show(io::IO, pool::Pool) =
    print(io, "SONew.Pool(", isopen(pool) ? "open" : "closed", ")")
