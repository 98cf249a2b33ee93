# Optimizers come and go: no memory is left behind, whoever frees them.

resident_bytes() = parse(Int, split(read("/proc/self/statm", String))[2]) * 4096

function cycle(i, model, grads)
    opt = setup(SONewRule(threads = 1), model)
    step!(opt, model, grads)
    isodd(i) && close(opt)
    GC.gc(i % 100 == 0)
end

model, grads = (W = ones(Float32, 40, 50), b = ones(Float32, 50)), (W = ones(Float32, 40, 50), b = nothing)
foreach(i -> cycle(i, model, grads), 1:500)
before = resident_bytes()
foreach(i -> cycle(i, model, grads), 1:10_000)
grown = resident_bytes() - before
# One optimizer has 33 kB of state, all of them 330 MB.
@test grown < 16_000_000
@test all(isfinite, model.W)

# The same with steps that throw, and with plans.
function failing_cycle(i, model)
    opt = setup(SONewRule(threads = 1), model)
    refused(() -> step!(opt, model, (W = [NaN32], b = nothing)), :SONEW_WRONG_LENGTH) || error("taken")
    SONew.Plan(SONewRule(threads = 1), model.W)
    GC.gc(i % 100 == 0)
end
foreach(i -> failing_cycle(i, model), 1:200)
before = resident_bytes()
foreach(i -> failing_cycle(i, model), 1:1000)
@test resident_bytes() - before < 16_000_000
