# The extension of Optimisers.jl: against the package itself where it is installed, else
# against a stand-in that has its functions.

has_package("Optimisers") || push!(LOAD_PATH, joinpath(@__DIR__, "stand-in"))
import Optimisers
load_extension(:SONewOptimisersExt)

using Serialization

# The same trajectory as SONew's own step, up to one more rounding.
rng = MersenneTwister(2)
own = (W = randn(rng, 6, 4), b = randn(rng, 6))
theirs = deepcopy(own)
rule = SONewRule(eta = 0.1, weight_decay = 0.01, chains = :strided)
opt, tree = setup(rule, own), Optimisers.setup(rule, theirs)
for i in 1:6
    grads = (W = randn(rng, 6, 4), b = i == 3 ? nothing : randn(rng, 6))
    i == 5 && (adjust!(opt, 0.2); Optimisers.adjust!(tree, 0.2))
    step!(opt, own, grads)
    Optimisers.update!(tree, theirs, grads)
end
@test own.W ≈ theirs.W rtol = 1e-12
@test own.b ≈ theirs.b rtol = 1e-12
@test maximum(abs.(own.W)) > 0.1
# Both count the steps of each array.
@test SONew.get_settings(opt, "W").step_count == 6 && tree.W.state.step == 6
@test SONew.get_settings(opt, "b").step_count == 5 && tree.b.state.step == 5

# Pooled correlations, whose sums are one more array of the state.
for (pooling, pooled) in ((:band, (4, 4, 2)), (:rank, (4, 11)), (:all, (4, 4, 2)))
    local rule = SONewRule(eta = 0.1, pooling = pooling, band = 3, rank = 3, chains = :strided, shrink = 0.1)
    local own = (W = randn(rng, 6, 4), b = randn(rng, 6))
    local theirs = deepcopy(own)
    local opt, tree = setup(rule, own), Optimisers.setup(rule, theirs)
    @test size.(tree.W.state.planes) == ((6, 4), (6, 4), pooled)
    for i in 1:6
        grads = (W = randn(rng, 6, 4), b = randn(rng, 6))
        i == 4 && (tree = deepcopy(tree); Optimisers.adjust!(tree; shrink = 0.1))
        step!(opt, own, grads)
        Optimisers.update!(tree, theirs, grads)
    end
    @test own.W ≈ theirs.W rtol = 1e-12
    @test copy(plane(opt, "W", "pooled")) ≈ tree.W.state.planes[3] rtol = 1e-12
end

# The rule alone: init and apply!.
x, dx = ones(Float32, 3), Float32[1, 2, 3]
r = SONew.optimisers_rule(SONewRule(eta = 0.5))
@test r isa Optimisers.AbstractRule
state = Optimisers.init(r, x)
@test state.step == 0 && all(iszero, state.planes[1])
state, change = Optimisers.apply!(r, state, x, dx)
@test state.step == 1 && x == ones(Float32, 3) && all(change .> 0)
expected = ones(Float32, 3)
step!(setup(SONewRule(eta = 0.5), expected), expected, dx)
@test x .- change ≈ expected
# What chains and automatic differentiation give: lazy, of another type, of another kind.
for lazy in (Base.broadcasted(*, 1.0f0, dx), Float64.(dx), view(dx, :), reshape(dx', 3))
    _, same = Optimisers.apply!(r, Optimisers.init(r, x), x, lazy)
    @test same == change
end
_, same = Optimisers.apply!(SONewRule(eta = 0.5), Optimisers.init(SONewRule(eta = 0.5), x), x, dx)
@test same == change
# The state is plain arrays and numbers, which are saved as they are.
let io = IOBuffer()
    serialize(io, state)
    @test deserialize(seekstart(io)) == state
end
# Copies of the state are independent.
first_state = deepcopy(state)
Optimisers.apply!(r, state, x, dx)
@test first_state.planes != state.planes

# Hyperparameters that change with every step need no new plan, and are those of a step of
# SONew's own; of those of the method the last few plans are kept, and the others freed.
kept = SONew.kept_plans
all_plans() = Set(plan for plans in values(SONew.PLANS) for plan in plans)
model = (W = randn(rng, 7, 3), b = randn(rng, 7))
own = deepcopy(model)
tree, opt = Optimisers.setup(SONewRule(eta = 0.1), model), setup(SONewRule(eta = 0.1), own)
grads() = (W = randn(rng, 7, 3), b = randn(rng, 7))
own_grads = grads()
Optimisers.update!(tree, model, own_grads)
step!(opt, own, own_grads)
before = all_plans()
for i in 1:50
    of_step = (grad_scale = 1 / i, beta1 = 0.9 - 0.001 * i, beta2 = 0.99 - 0.002 * i)
    Optimisers.adjust!(tree, 0.1 / i)
    Optimisers.adjust!(tree; non_finite = isodd(i) ? :skip : :unchecked, of_step...)
    both = grads()
    Optimisers.update!(tree, model, both)
    step!(opt, own, both; eta = 0.1 / i, of_step...)
end
@test all_plans() == before
@test model.W ≈ own.W rtol = 1e-9
@test model.b ≈ own.b rtol = 1e-9
freed = Set{SONew.Plan}()
for i in 1:50
    Optimisers.adjust!(tree; eps = 1e-6 / i, weight_decay = 0.01 * i)
    Optimisers.update!(tree, model, grads())
    union!(freed, all_plans())
end
@test kept() <= length(before) + 3 * (SONew.KEPT_PLANS - 1) && all(isopen, all_plans())
@test length(freed) >= 100 && count(isopen, freed) == kept()
# So is the number of all plans, however many sizes there are.
for n in 1:SONew.MOST_PLANS+20
    Optimisers.setup(SONewRule(band = 0), zeros(Float32, n))
end
@test kept() == SONew.MOST_PLANS && all(isopen, all_plans())
SONew.forget_plans()
@test kept() == 0
# Each step had the numbers that it was to have: the gradient is multiplied by grad_scale.
x = [1.0, 2.0]
of = (; settings...) -> begin
    r = SONew.optimisers_rule(SONewRule(eta = 0.5, graft = :sgd; settings...))
    Optimisers.apply!(r, Optimisers.init(r, x), x, [3.0, 4.0])[2]
end
@test of(grad_scale = 0.5) ≈ 0.5 .* of() rtol = 1e-5 # eps is the same
@test of(beta1 = 0.5) ≈ of(beta1 = 0.9) # bias-corrected, in the first step

# What the library refuses is refused when a rule is made or adjusted: no step begins.
for (wrong, words) in ((eta = -0.1,) => "eta is -0.1", (eta = NaN,) => "eta is NaN",
                       (eta = Inf,) => "eta is inf", (weight_decay = -1,) => "weight_decay is -1",
                       (weight_decay = NaN,) => "weight_decay is NaN",
                       (grad_scale = 0,) => "grad_scale is 0", (beta1 = 1,) => "beta1 is 1",
                       (beta2 = -1,) => "beta2 is -1", (eps = -1,) => "eps is -1",
                       (gamma = 2,) => "gamma is 2", (graft_eps = -1,) => "graft_eps is -1",
                       (statistics_weight = 2,) => "statistics_weight is 2")
    @test refused(() -> SONew.optimisers_rule(SONewRule(; wrong...)), :SONEW_OUT_OF_RANGE, words)
    @test refused(() -> Optimisers.setup(SONewRule(; wrong...), model), :SONEW_OUT_OF_RANGE, words)
    for rule in (SONewRule(), SONew.optimisers_rule(SONewRule()))
        @test refused(() -> Optimisers.adjust(rule; wrong...), :SONEW_OUT_OF_RANGE, words)
        haskey(wrong, :eta) && @test refused(() -> Optimisers.adjust(rule, wrong.eta),
                                             :SONEW_OUT_OF_RANGE, words)
    end
end
tree = Optimisers.setup(SONewRule(eta = 0.1), model)
@test refused(() -> Optimisers.adjust!(tree, Inf), :SONEW_OUT_OF_RANGE, "eta")
@test tree.W.rule.eta == 0.1 && tree.b.rule.eta == 0.1
@test argument_error(() -> SONew.optimisers_rule(SONewRule(chains = "rows")), "chains")

# A gradient that is not finite is refused before anything is changed, and the message names
# the array, not only where a rule stands alone.
for rule in (SONewRule(eta = 0.1), Optimisers.OptimiserChain(Optimisers.ClipGrad(1.0), SONewRule()),
             Optimisers.OptimiserChain(Optimisers.ClipGrad(1.0), SONew.optimisers_rule(SONewRule())))
    nested = (layers = (deepcopy(model), deepcopy(model)),)
    local tree = Optimisers.setup(rule, nested)
    local untouched, state = deepcopy(nested), deepcopy(tree)
    good, bad = grads(), grads()
    bad.b[3] = NaN
    for wrong in ((layers = (good, bad),), (layers = (bad, good),))
        place = wrong.layers[1] === good ? 2 : 1
        @test refused(() -> Optimisers.update!(tree, nested, wrong), :SONEW_NON_FINITE_GRADIENT,
                      "\"layers.$place.b\"")
        @test nested == untouched
        @test tree.layers[1].W.state == state.layers[1].W.state
    end
    Optimisers.freeze!(tree.layers[2].b)
    Optimisers.update!(tree, nested, (layers = (good, bad),))
    @test nested.layers[1].W != untouched.layers[1].W && nested.layers[2].b == untouched.layers[2].b
end
# So is one whose square overflows; another rule of a chain may make it finite.
let big = ([1.0f0], [1.0f0]), g = ([1.0f0], [1.0f30])
    tree = Optimisers.setup(SONewRule(), big)
    @test refused(() -> Optimisers.update!(tree, big, g), :SONEW_NON_FINITE_GRADIENT, "\"2\"")
    @test big == ([1.0f0], [1.0f0])
    Optimisers.adjust!(tree; grad_scale = 1e-20)
    Optimisers.update!(tree, big, g)
    @test big[2][1] < 1
    clipped = Optimisers.setup(Optimisers.OptimiserChain(Optimisers.ClipGrad(1.0), SONewRule()), big)
    Optimisers.update!(clipped, big, (nothing, [Inf32]))
    @test isfinite(big[2][1])
end
@test refused(() -> Optimisers.apply!(r, Optimisers.init(r, [1.0f0 2]), [1.0f0 2], [NaN32 1]),
              :SONEW_NON_FINITE_GRADIENT, "of size (1, 2)")
@test refused(() -> Optimisers.apply!(r, Optimisers.init(r, x), x, [1.0]), :SONEW_WRONG_LENGTH,
              "of size (2,)")
@test argument_error(() -> Optimisers.init(r, ComplexF32[1 2 3]), "of size (1, 3)")

# A number is a gradient, as for other rules; what is neither number nor array is not.
@test Optimisers.apply!(r, Optimisers.init(r, x), x, 2)[2] ==
      Optimisers.apply!(r, Optimisers.init(r, x), x, [2.0, 2.0])[2]
@test argument_error(() -> Optimisers.apply!(r, Optimisers.init(r, x), x, :up), "of size (2,)", "Symbol")

# A rule in a chain, whether bare or not, is adjusted and read as others are.
for rule in (SONewRule(eta = 0.5), SONew.optimisers_rule(SONewRule(eta = 0.5)))
    chain = Optimisers.OptimiserChain(Optimisers.ClipGrad(100.0), rule)
    local tree, y = Optimisers.setup(chain, copy(x)), copy(x)
    Optimisers.adjust!(tree, 0.25)
    @test tree.rule.opts[2].eta == 0.25 && tree.rule.opts[1].delta == 100
    Optimisers.adjust!(tree; delta = 50.0, beta1 = 0.5)
    @test tree.rule.opts[2].beta1 == 0.5 && tree.rule.opts[1].delta == 50
    Optimisers.update!(tree, y, [1.0, -2.0])
    local expected = copy(x)
    step!(setup(SONewRule(eta = 0.25, beta1 = 0.5), expected), expected, [1.0, -2.0])
    @test y ≈ expected
end
r = SONew.optimisers_rule(SONewRule(eta = 0.5, band = 3))
@test r.eta == 0.5 && r.band == 3 && :weight_decay in propertynames(r) && r.rule isa SONewRule
@test SONew.optimisers_rule(r) === r && repr(r) == repr(r.rule)

# Two tasks at once, and one that throws, leave the plans usable.
@sync for _ in 1:4
    @async for _ in 1:20
        of(beta2 = 0.5)
        yield()
    end
end
r = SONew.optimisers_rule(SONewRule())
@test refused(() -> Optimisers.apply!(r, Optimisers.init(r, x), x, [NaN, 1.0]),
              :SONEW_NON_FINITE_GRADIENT)
@test all(isfinite, of()) && all(isopen, all_plans())

@test argument_error(() -> SONew.optimisers_rule(SONewRule(master = true)), "master")
@test argument_error(() -> SONew.optimisers_rule(SONewRule(clip_norm = 1)), "ClipNorm")
adjusted = Optimisers.adjust(r; eta = 0.25, beta1 = 0.5, delta = 11)
@test adjusted.rule == SONewRule(eta = 0.25, beta1 = 0.5)
