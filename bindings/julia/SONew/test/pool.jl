# Optimizers that share the threads of a pool.

pool = SONew.Pool(3)
@test isopen(pool) && repr(pool) == "SONew.Pool(open)"
models = [(W = ones(Float32, 300, 400),) for _ in 1:3]
grads = (W = reshape(Float32.(sin.(1:120_000)), 300, 400),)
rules = [SONewRule(pool = pool), SONewRule(pool = pool), SONewRule(threads = 1)]
opts = [setup(rule, model) for (rule, model) in zip(rules, models)]
plan = SONew.Plan(rules[1], models[1].W)
close(pool)
close(pool)
@test !isopen(pool) && repr(pool) == "SONew.Pool(closed)"
@test SONew.threads.(opts) == [3, 3, 1]
for _ in 1:3, (opt, model) in zip(opts, models)
    step!(opt, model, grads)
end
@test models[1] == models[2] == models[3]
foreach(close, opts)

@test refused(() -> setup(rules[1], models[1]), :SONEW_BAD_HANDLE, "the pool was closed")
@test refused(() -> SONew.Pool(1025), :SONEW_OUT_OF_RANGE)
@test refused(() -> SONew.Pool(2; processors = [8191]), :SONEW_PROCESSOR)
@test refused(() -> setup(SONewRule(pool = SONew.Pool(2), threads = 2), models[1]),
              :SONEW_OUT_OF_RANGE)
if Sys.islinux()
    first_allowed = match(r"Cpus_allowed_list:\s*(\d+)", read("/proc/self/status", String))[1]
    one = SONew.Pool(processors = [parse(Int, first_allowed)])
    @test SONew.threads(setup(SONewRule(pool = one), models[1])) == 1
end
