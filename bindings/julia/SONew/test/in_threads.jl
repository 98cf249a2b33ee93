# Run by threads.jl with several threads.

using SONew, Base.Threads

holds(condition, what) = condition || error("not so: $what")
in_all(f) = foreach(wait, [Threads.@spawn f(i) for i in 1:2*nthreads()])
grads = ones(Float32, 50, 40)

# One optimizer for all: each step is taken once, one after the other.
model = ones(Float32, 50, 40)
opt = setup(SONewRule(eta = 1e-3), model)
in_all() do _
    for _ in 1:100
        step!(opt, model, grads)
        step_count(opt)
    end
end
holds(step_count(opt) == 200 * nthreads(), "every step counts")
alone = ones(Float32, 50, 40)
other = setup(SONewRule(eta = 1e-3), alone)
for _ in 1:200*nthreads()
    step!(other, alone, grads)
end
holds(model == alone, "the same as by one thread")

# One optimizer for each, with garbage collected meanwhile and optimizers left to it.
models = [ones(Float32, 50, 40) for _ in 1:2*nthreads()]
in_all() do i
    mine = setup(SONewRule(eta = 1e-3), models[i])
    for k in 1:200
        step!(mine, models[i], grads)
        step!(setup(SONewRule(), copy(grads)), copy(grads), grads)
        k % 50 == 0 && GC.gc(false)
    end
end
holds(all(==(models[1]), models), "threads do not disturb each other")

# Closed by one thread while others step: they are refused, from some step on.
refusals = Atomic{Int}(0)
in_all() do i
    i == 1 && (sleep(0.05); close(opt))
    mine = copy(model)
    try
        while true
            step!(opt, mine, grads)
        end
    catch e
        e isa SONewError && e.status === :SONEW_BAD_HANDLE || rethrow()
        atomic_add!(refusals, 1)
    end
end
holds(refusals[] == 2 * nthreads(), "all are told")
println(nthreads(), " threads: all as they should be")
