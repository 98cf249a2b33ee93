# Run by interrupt.jl, which sends SIGINT after each "stepping".

using SONew

Base.exit_on_sigint(false)
const N = 300_000
start() = (W = ones(Float32, N), b = ones(Float32, 3))
grads(step) = (W = fill(Float32(1 + step % 3), N), b = fill(1.0f0, 3))

function steps_until_interrupted(opt, model)
    step = step_count(opt)
    try
        println("stepping")
        flush(stdout)
        while true
            # Interrupted before or after it, it has not been taken or has.
            step!(opt, model, grads(step_count(opt) + 1))
        end
    catch e
        e isa InterruptException || rethrow()
    end
    step_count(opt) > step || error("no step was taken")
end

model = start()
opt = setup(SONewRule(eta = 1e-3, threads = 2), model)
for round in 1:5
    steps_until_interrupted(opt, model)
    alone = start()
    other = setup(SONewRule(eta = 1e-3, threads = 2), alone)
    for step in 1:step_count(opt)
        step!(other, alone, grads(step))
    end
    alone == model || error("not at a completed step")
    println("interrupted: all as it should be")
    flush(stdout)
end
close(opt)
println("done")
