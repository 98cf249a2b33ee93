# Pooled correlations. That steps are those of C is in same_bits.jl.

rng = MersenneTwister(11)
start() = (W = numbers(MersenneTwister(12), Float32, 6, 9), b = numbers(MersenneTwister(13), Float32, 9))
grads = [(W = numbers(rng, Float32, 6, 9), b = numbers(rng, Float32, 9)) for _ in 1:6]
# W[in, out]: each column is a unit.
rule = SONewRule(eta = 0.1, pooling = :band, band = 2, shrink = 0.1, beta1 = 0.5, beta2 = 0.75)
vectors(name, x) = ndims(x) == 1 ? (update = :adam,) : NamedTuple()

# The sums are those of the products of neighbouring inputs over all units, by hand: after the
# first step g^2 is the diagonal, so that z is the sign of g. Lagged, they are those of the step
# alone; without, all there are.
signs = sign.(grads[1].W)
sums = [i + j <= 6 ? 0.25 * sum(signs[j, :] .* signs[j+i, :]) : 0.0 for j in 1:6, i in 0:2]
for lagged in (nothing, false)
    model = start()
    opt = setup(SONewRule(rule; lagged_norms = lagged, eps = 0), model; hyperparameters = vectors)
    step!(opt, model, grads[1])
    @test plane_names(opt, "W") == ["momentum", "diagonal", "pooled"]
    @test plane_names(opt, "b") == ["momentum", "diagonal"]
    pooled = plane(opt, "W", "pooled")
    @test eltype(pooled) === Float32 && size(pooled) == (lagged === nothing ? (6, 3, 2) : (6, 3))
    @test (lagged === nothing ? pooled[:, :, 2] : pooled) ≈ sums rtol = 1e-5
    lagged === nothing && @test all(iszero, pooled[:, :, 1])
end
# Along the other dimension, the chains are rows.
let x = start().W, opt = setup(SONewRule(rule; chains = :strided), x)
    step!(opt, x, grads[1].W)
    @test size(plane(opt, 1, "pooled")) == (9, 3, 2)
end
# The sums of state of 16 bits are Float32.
let x = start().W, opt = setup(SONewRule(rule; state_dtype = BFloat16), x)
    step!(opt, x, grads[1].W)
    @test eltype(plane(opt, 1, "momentum")) === BFloat16 && eltype(plane(opt, 1, "pooled")) === Float32
end

# A run goes on from a file, from the state in arrays of the program, and with the
# hyperparameters that the file has.
never, model = start(), start()
opt, whole = [setup(rule, m; hyperparameters = vectors) for m in (model, never)]
foreach(g -> step!(whole, never, g), grads)
foreach(g -> step!(opt, model, g), grads[1:3])
path = tempname()
save(opt, path, model)
@test SONew.contents(path).rule == SONewRule(rule; eta = SONewRule().eta)
@test SONew.contents(path).tensors[1].arrays == ["momentum", "diagonal", "pooled", "parameter"]
@test same_bits(SONew.read_array(path, "W", "pooled"), copy(plane(opt, "W", "pooled")))
other = start()
again = load(path, other)
adjust!(again, 0.1)
foreach(g -> step!(again, other, g), grads[4:6])
@test same_bits(other.W, never.W) && same_bits(other.b, never.b)
@test refused(() -> load(path, SONewRule(rule; shrink = 0.2), start(); hyperparameters = vectors),
              :SONEW_OPTION_DIFFERS, "shrink")
@test refused(() -> SONew.set_state!(again, 9, [[copy(plane(again, t, p)) for p in ("momentum", "diagonal", "diagonal")[1:n]]
                                                for (t, n) in ((1, 3), (2, 2))]),
              :SONEW_WRONG_LENGTH, "plane pooled of \"W\"", "(6, 9)", "expected (6, 3, 2)")

# A plan's state has the plane, too.
plan = SONew.Plan(rule, start().W)
state, scalars = SONew.zero_planes(plan), SONew.zero_scalars()
@test size.(state) == [(6, 9), (6, 9), (6, 3, 2)] && plan.plane_names[3] == "pooled"
x = start().W
for (i, g) in enumerate(grads[1:3])
    u = SONew.direction!(similar(x), plan, state, g.W, i; scalars = scalars)
    x .-= 0.1f0 .* u
end
@test x ≈ model.W rtol = 1e-5
@test refused(() -> SONew.direction!(similar(x), plan, [state[1:2]; [zeros(Float32, 6, 3)]], grads[1].W, 4;
                                     scalars = scalars),
              :SONEW_WRONG_LENGTH, "state plane pooled", "(6, 3)", "expected (6, 3, 2)")
# A rank and all correlations: sizes, sums by hand, and a run that goes on from a file.
products = [i <= j ? 0.25 * sum(signs[j, :] .* signs[i, :]) : 0.0 for j in 1:6, i in 1:6]
for (pooling, rank, lagged, expected) in (
        (:rank, 3, nothing, (6, 11)), (:rank, 3, false, (6, 7)), (:rank, 16, nothing, (6, 20)),
        (:all, 16, nothing, (6, 6, 2)), (:all, 16, false, (6, 6)))
    local rule = SONewRule(eta = 0.1, pooling = pooling, rank = rank, shrink = 0.1, beta1 = 0.5,
                           beta2 = 0.75, eps = 0, lagged_norms = lagged)
    local model, opt = start(), setup(rule, start(); hyperparameters = vectors)
    step!(opt, model, grads[1])
    pooled = copy(plane(opt, "W", "pooled"))
    @test size(pooled) == expected
    last = lagged === nothing
    if pooling === :all
        @test (last ? pooled[:, :, 2] : pooled) ≈ products rtol = 1e-5
    else
        k = min(rank, 6)
        U = pooled[:, end-k+1:end]
        @test U' * U ≈ [Float32(i == j) for i in 1:k, j in 1:k] atol = 1e-6
        @test pooled[:, last ? k + 2 : 1] ≈ fill(0.25 * 9, 6) rtol = 1e-5
        all_products = products .+ products' .* [i != j for i in 1:6, j in 1:6]
        last && @test pooled[:, k+3:2k+2] ≈ all_products * U rtol = 1e-5
    end
    local path = tempname()
    save(opt, path, model)
    @test same_bits(SONew.read_array(path, "W", "pooled"), pooled)
    @test SONew.contents(path).rule == SONewRule(rule; eta = SONewRule().eta)
    local other = start()
    local again = load(path, other)
    adjust!(again, 0.1)
    for g in grads[2:3]
        step!(opt, model, g)
        step!(again, other, g)
    end
    @test same_bits(other.W, model.W) && all(isfinite, model.W)
    # A plan knows the size from its length, too.
    @test size.(SONew.zero_planes(SONew.Plan(rule, start().W)))[3] == expected
end
# Shards have only a part of the sums, which are added up between steps: not in one.
at_once = SONewRule(rule; lagged_norms = false)
@test refused(() -> setup(at_once, x; hyperparameters = (n, x) -> (shard = (first = 1, whole = 20),)),
              :SONEW_SHARD)
let rule = SONewRule(eta = 0.1, pooling = :band, band = 2, graft = :none, damping = :absolute,
                     eps = 1e-3)
    whole = (W = randn(Float32, 5, 300),)
    cuts = (1:101, 102:300)
    parts = map(c -> (W = whole.W[:, c],), cuts)
    opts = map(parts, cuts) do part, c
        setup(rule, part; hyperparameters = (n, x) -> (shard = (first = first(c), whole = 300),))
    end
    opt = setup(rule, whole)
    @test SONew.partial_sums(opt, "W") == zeros(Float32, 15)
    for number in 1:4
        g = randn(Float32, 5, 300)
        step!(opt, whole, (W = g,))
        for (own, part, c) in zip(opts, parts, cuts)
            step!(own, part, (W = g[:, c],))
            @test refused(() -> step!(own, part, (W = g[:, c],)), :SONEW_PARTIAL_SUMS)
        end
        sums = sum(own -> SONew.partial_sums(own, "W"), opts)
        @test length(sums) == 15 && all(sums[1:5] .> 0)
        @test_throws ArgumentError SONew.set_reduced_sums!(opts[1], "W", Float64.(sums))
        @test refused(() -> SONew.set_reduced_sums!(opts[1], 1, sums[1:14]), :SONEW_WRONG_LENGTH)
        foreach(own -> SONew.set_reduced_sums!(own, "W", sums), opts)
        @test SONew.partial_sums(opts[1], 1) == zeros(Float32, 15)
        @test hcat(parts[1].W, parts[2].W) ≈ whole.W rtol = 1e-5
    end
end
