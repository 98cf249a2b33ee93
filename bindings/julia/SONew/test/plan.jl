# The stateless step gives the state of an optimizer, and the direction of its update.

using SONew: Plan, zero_planes, direction!

for (T, state) in ((Float32, Float32), (Float64, Float64), (Float32, BFloat16))
    rng = MersenneTwister(4)
    x = numbers(rng, T, 7, 5)
    # Damping that needs no scalars.
    rule = SONewRule(eta = 0.5, band = 2, state_dtype = state, chains = :strided,
                     damping = :absolute)
    opt, p = setup(rule, x), Plan(rule, x)
    @test p.plane_names == plane_names(opt, 1)
    state_planes, u = zero_planes(p), similar(x)
    for step in 1:4
        grad, old = numbers(rng, T, 7, 5), copy(x)
        step!(opt, x, grad)
        @test direction!(u, p, state_planes, grad, step) === u
        @test all(same_bits(a, copy(plane(opt, 1, name)))
                  for (a, name) in zip(state_planes, p.plane_names))
        # p - lr u, rounded once or twice.
        @test maximum(abs.(x .- (old .- T(0.5) .* u))) <= 4 * eps(maximum(abs.(old)))
        @test maximum(abs.(u)) > 0.1
    end
end

x = ones(Float32, 3)
plan = Plan(SONewRule(damping = :absolute), x)
planes = zero_planes(plan)
before = deepcopy(planes)
@test refused(() -> direction!(zeros(Float32, 4), plan, planes, x, 1), :SONEW_WRONG_LENGTH)
@test argument_error(() -> direction!(zeros(3), plan, planes, x, 1), "the direction of", "Float64")
@test argument_error(() -> direction!(zeros(Float32, 3), plan, planes, zeros(3), 1),
                     "the gradient of", "Float64", "expected Float32")
@test argument_error(() -> direction!(zeros(Float32, 3), plan, [planes[1:2]; [zeros(3)]], x, 1),
                     "state plane band.1 of", "Float64", "expected Float32")
@test refused(() -> direction!(zeros(Float32, 3), plan, planes[1:2], x, 1), :SONEW_PLANE_COUNT)
@test refused(() -> direction!(zeros(Float32, 3), plan, planes, x, 0), :SONEW_OUT_OF_RANGE)
@test refused(() -> direction!(zeros(Float32, 3), plan, planes, [NaN32, 0, 0], 1),
              :SONEW_NON_FINITE_GRADIENT)
@test planes == before
@test argument_error(() -> Plan(SONewRule(), [1, 2]), "Int64")
@test argument_error(() -> deepcopy(plan), "cannot be copied")
@test argument_error(() -> direction!(zeros(Float32, 3), plan, planes, x, -1), "step_number is -1")
@test repr(plan) == "SONew.Plan($(SONewRule(damping = :absolute)), Float32, (3,), open)"
close(plan)
close(plan)
@test !isopen(plan) && endswith(repr(plan), "(3,), closed)")
@test refused(() -> direction!(zeros(Float32, 3), plan, planes, x, 1), :SONEW_BAD_HANDLE, "plan")

# With lagged norms the caller keeps the scalars, too, and betas of a step are corrected by
# their product.
lagged_rule = SONewRule(eta = 0.5, lagged_norms = true, nesterov = true, chains = :strided)
x = numbers(MersenneTwister(5), Float32, 7, 5)
lagged, p = setup(lagged_rule, x), Plan(lagged_rule, x)
state_planes, scalars, u = zero_planes(p), SONew.zero_scalars(), similar(x)
@test scalars == zeros(4)
for step in 1:4
    local grad = numbers(MersenneTwister(step), Float32, 7, 5)
    local old = copy(x)
    local betas = step == 3 ? (beta1 = 0.5,) : ()
    step!(lagged, x, grad; betas...)
    @test refused(() -> direction!(u, p, state_planes, grad, step; betas...),
                  :SONEW_NULL_POINTER, "the scalars")
    direction!(u, p, state_planes, grad, step; scalars = scalars, betas...)
    @test all(same_bits(a, copy(plane(lagged, 1, name)))
              for (a, name) in zip(state_planes, p.plane_names))
    @test maximum(abs.(x .- (old .- 0.5f0 .* u))) <= 4 * eps(maximum(abs.(old)))
    @test scalars[1] > 0 && (step < 3) == (scalars[2] == 0)
end
@test scalars[2] ≈ 1 - 0.9^3 * 0.5
@test SONew.get_settings(lagged, 1).scalars == scalars
# An optimizer goes on from there.
continued, y = setup(lagged_rule, x), copy(x)
SONew.set_state!(continued, 4, [state_planes])
@test SONew.get_settings(continued, 1) ==
      (lr_scale = 1.0, weight_decay = 0.0, step_count = 4, scalars = zeros(4))
SONew.set_settings!(continued, 1; scalars = scalars)
for step in 5:6
    local grad = numbers(MersenneTwister(step), Float32, 7, 5)
    step!(lagged, x, grad)
    step!(continued, y, grad)
end
@test same_bits(x, y) && step_count(continued) == 6
@test SONew.get_settings(continued, 1) == SONew.get_settings(lagged, 1)
@test refused(() -> direction!(u, p, state_planes, x, 5; scalars = zeros(2)),
              :SONEW_WRONG_LENGTH, "2 scalars")
@test refused(() -> step!(lagged, x, copy(x); beta2 = -1), :SONEW_OUT_OF_RANGE, "beta2 is -1, must")

# An array that has had no gradient for long begins as with a fresh optimizer, in an
# optimizer and in a plan, and its count comes back from a file.
for graft in (:none, :adam), band in (0, 1, 4)
    rule = SONewRule(eta = 0.1, graft = graft, band = band)
    model = (a = zeros(Float32, 5), b = zeros(Float32, 5))
    g = Float32[1, 2, -1, 1, 3]
    opt = setup(rule, model)
    for _ in 1:1000
        step!(opt, model, (a = g, b = nothing))
    end
    counts(opt) = [SONew.get_settings(opt, name).step_count for name in ("a", "b")]
    @test counts(opt) == [1000, 0]
    step!(opt, model, (a = g, b = g))
    fresh = zeros(Float32, 5)
    step!(setup(rule, fresh), fresh, g)
    @test same_bits(model.b, fresh) && fresh != zeros(Float32, 5)
    @test step_count(opt) == 1001 && SONew.get_settings(opt, 2).step_count == 1
    path = tempname()
    save(opt, path, model)
    again = load(path, rule, deepcopy(model))
    @test counts(again) == [1001, 1]
    SONew.set_settings!(again, "b"; step_count = 1001)
    @test counts(again) == [1001, 1001]
end
