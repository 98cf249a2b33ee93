# The extension of Optimisers.jl: against the package itself where it is installed, else
# against a stand-in that has its documented functions.

if Base.find_package("Optimisers") === nothing
    @info "The extension of Optimisers.jl is NOT TESTED against the real package, which is not " *
          "installed, but against a stand-in with its documented functions"
    push!(LOAD_PATH, joinpath(@__DIR__, "stand-in"))
end
import Optimisers
isdefined(Base, :get_extension) && Base.get_extension(SONew, :SONewOptimisersExt) !== nothing ||
    Base.include(@__MODULE__, joinpath(dirname(@__DIR__), "ext", "SONewOptimisersExt.jl"))

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
# Copies of the state are independent.
first_state = deepcopy(state)
Optimisers.apply!(r, state, x, dx)
@test first_state.planes != state.planes

# Hyperparameters that change with every step: the numbers of a step need no new plan,
# those of the method one each, of which the last few are kept and the others freed.
kept() = sum(Int[length(plans) for plans in values(SONew.PLANS)])
all_open() = all(plans -> all(isopen, plans), values(SONew.PLANS))
model = (W = randn(rng, 7, 3), b = randn(rng, 7))
grads = (W = randn(rng, 7, 3), b = randn(rng, 7))
own = deepcopy(model)
tree = Optimisers.setup(SONewRule(eta = 0.1), model)
Optimisers.update!(tree, model, grads)
before = kept()
for i in 1:50
    Optimisers.adjust!(tree, 0.1 / i)
    Optimisers.adjust!(tree; grad_scale = 1 / i, weight_decay = 0.01 * i,
                       non_finite = isodd(i) ? :skip : :unchecked)
    Optimisers.update!(tree, model, grads)
end
@test kept() == before
plans = Set{SONew.Plan}()
for i in 1:50
    Optimisers.adjust!(tree; beta1 = 0.9 - 0.001 * i, eps = 1e-6 / i)
    Optimisers.update!(tree, model, grads)
    foreach(p -> union!(plans, p), values(SONew.PLANS))
end
@test kept() <= before + 2 * (SONew.KEPT_PLANS - 1) && all_open()
@test length(plans) >= 100 && count(isopen, plans) == kept()
# Each step had the numbers that it was to have: the gradient is multiplied by grad_scale.
x = [1.0, 2.0]
of = (; settings...) -> begin
    r = SONew.optimisers_rule(SONewRule(eta = 0.5, graft = :sgd; settings...))
    Optimisers.apply!(r, Optimisers.init(r, x), x, [3.0, 4.0])[2]
end
@test of(grad_scale = 0.5) ≈ 0.5 .* of() rtol = 1e-5 # eps is the same
@test of(beta1 = 0.5) ≈ of(beta1 = 0.9) # bias-corrected, in the first step
@test refused(() -> of(grad_scale = 0.0), :SONEW_OUT_OF_RANGE, "grad_scale is 0")
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
@test all(isfinite, of()) && all_open()

@test argument_error(() -> SONew.optimisers_rule(SONewRule(master = true)), "master")
@test argument_error(() -> SONew.optimisers_rule(SONewRule(clip_norm = 1)), "ClipNorm")
adjusted = Optimisers.adjust(r; eta = 0.25, beta1 = 0.5, delta = 11)
@test adjusted.rule == SONewRule(eta = 0.25, beta1 = 0.5)
