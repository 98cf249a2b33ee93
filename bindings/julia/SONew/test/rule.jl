# Hyperparameters.

rule = SONewRule()
# The defaults that the header documents.
@test rule.eta == 1e-3 && rule.band == 1 && rule.beta1 == 0.9 && rule.beta2 == 0.99
@test rule.eps == 1e-3 && rule.gamma == 0.01 && rule.graft === :adam
@test rule.graft_eps == 0 && rule.weight_decay == 0 && rule.seed == 0
@test rule.threads == 0 && rule.bias_correction && rule.graft_bias_correction
@test rule.statistics === :moving_average && rule.damping === :relative_lagged
@test rule.rounding === :nearest && rule.instruction_set === :auto
@test rule.grad_scale == 1 && rule.clip_norm == 0 && rule.statistics_weight == 1
@test rule.non_finite === :skip && !rule.master
@test rule.pooling === :none && rule.shrink == 0.04 && rule.rank == 16 && rule.lagged_norms === nothing

@test SONewRule(0.5).eta == 0.5 && SONewRule(0.5; band = 3).band == 3
@test SONewRule(SONewRule(eta = 2, band = 4); eta = 3) == SONewRule(eta = 3, band = 4)
@test sprint(show, SONewRule(eta = 0.5, graft = :none)) == "SONewRule(eta = 0.5, graft = :none)"
@test argument_error(() -> SONewRule(grafts = :adam), "no hyperparameter grafts")
@test argument_error(() -> SONewRule(graft = :adamm), "graft is :adamm", ":adam,")
@test argument_error(() -> SONewRule(state_dtype = Int32), "state_dtype is Int32")
@test argument_error(() -> SONewRule(pooling = :ranks), "pooling is :ranks", ":none, :band, :rank, :all")
@test argument_error(() -> SONewRule(rank = 2.5), "rank is 2.5", "whole number")
@test argument_error(() -> SONewRule(lagged_norms = 2), "lagged_norms is 2")
# What cannot be a hyperparameter is refused with its name, here and wherever else a number is
# taken.
@test argument_error(() -> SONewRule(band = 2^40), "band is 1099511627776", "whole number")
@test argument_error(() -> SONewRule(band = 1.5), "band is 1.5", "whole number")
@test argument_error(() -> SONewRule(seed = -1), "seed is -1", "from 0")
@test argument_error(() -> SONewRule(eta = "fast"), "eta is \"fast\"", "a number")
@test argument_error(() -> SONewRule(master = 2), "master is 2", "true or false")
@test argument_error(() -> SONewRule(chains = "strided"), "chains is \"strided\"", ":strided")
@test argument_error(() -> SONewRule(grad_dtype = "Float32"), "grad_dtype is \"Float32\"")
@test argument_error(() -> SONewRule(state_dtype = AbstractFloat), "state_dtype is AbstractFloat")
@test argument_error(() -> SONewRule(pool = 3), "pool is 3")
@test argument_error(() -> SONew.Pool(1.5), "threads is 1.5")
@test argument_error(() -> SONew.Pool(2; processors = [-1]), "processors", "-1")

@test argument_error(() -> SONew.optimisers_rule(rule), "needs Optimisers.jl", "using Optimisers")

# What the library refuses, at setup and at the step.
x, g = ones(Float32, 4), ones(Float32, 4)
@test refused(() -> setup(SONewRule(beta1 = 1), x), :SONEW_OUT_OF_RANGE, "beta1 is 1")
@test refused(() -> setup(SONewRule(band = 17), x), :SONEW_OUT_OF_RANGE, "band is 17")
@test refused(() -> setup(SONewRule(pooling = :band, band = 65), x), :SONEW_OUT_OF_RANGE, "band is 65")
@test refused(() -> setup(SONewRule(pooling = :rank, rank = 0), x), :SONEW_OUT_OF_RANGE, "rank is 0", "1 to 64")
@test refused(() -> setup(SONewRule(pooling = :rank, rank = 65), x), :SONEW_OUT_OF_RANGE, "rank is 65", "1 to 64")
@test refused(() -> setup(SONewRule(pooling = :all), zeros(Float32, 4097, 2)), :SONEW_OUT_OF_RANGE, "chains of 4097", "4096")
@test refused(() -> setup(SONewRule(pooling = :band, shrink = 1), x), :SONEW_OUT_OF_RANGE, "shrink is 1")
@test refused(() -> setup(SONewRule(state_dtype = Float16), x), :SONEW_STATE_DTYPE)
@test refused(() -> step!(setup(SONewRule(eta = -1), x), x, g), :SONEW_OUT_OF_RANGE, "eta is -1")
@test x == ones(Float32, 4)

# Every hyperparameter of the library is passed on: each changes the outcome, or
# what the library says of itself.
function outcome(; hyperparameters...)
    rng = MersenneTwister(1)
    x = numbers(rng, Float32, 6, 5)
    opt = setup(SONewRule(eta = 0.1; hyperparameters...), x)
    for _ in 1:3
        step!(opt, x, 3 .* numbers(rng, Float32, 6, 5))
    end
    return (x, SONew.threads(opt), SONew.instruction_set(opt))
end
plain = outcome()
for changed in ((eta = 0.2,), (band = 2,), (beta1 = 0.8,), (beta2 = 0.9,), (eps = 1e-2,),
                (gamma = 0.3,), (graft = :sgd,), (graft_eps = 0.1,), (weight_decay = 0.1,),
                (bias_correction = false,), (graft_bias_correction = false,),
                (damping = :relative,), (statistics = :weighted_sum,), (chains = :strided,),
                (chains = :contiguous_lines,), (chains = :strided_lines,), (update = :adam,), (threads = 3,),
                (instruction_set = :portable,), (grad_scale = 1e-6,), (clip_norm = 1e-6,),
                (state_dtype = BFloat16,), (state_dtype = Float64,))
    @test outcome(; changed...) != plain
end
# Rows and columns are four different ways of reading a matrix.
@test length(unique(first(outcome(; chains = c)) for c in keys(SONew.CHAINS))) == 4
weighted(w) = first(outcome(; statistics = :weighted_sum, graft = :none, statistics_weight = w))
@test weighted(1) != weighted(2)
stochastic(seed) = first(outcome(; rounding = :stochastic, state_dtype = BFloat16, seed = seed))
@test stochastic(1) != stochastic(2) && stochastic(1) == stochastic(1)
@test stochastic(1) != first(outcome(; state_dtype = BFloat16))

# Keywords of a step are for that step; adjust! is for those to come.
a, b = copy(x), copy(x)
opt_a, opt_b = setup(SONewRule(eta = 0.1), a), setup(SONewRule(eta = 0.3), b)
step!(opt_a, a, g; eta = 0.3)
step!(opt_b, b, g)
@test a == b && opt_a.rule.eta == 0.1
adjust!(opt_a, 0.5)
adjust!(opt_b; eta = 0.5)
@test update!(opt_a, a, g) === (opt_a, a)
step!(opt_b, b, g)
@test a == b && opt_a.rule.eta == 0.5
@test argument_error(() -> adjust!(opt_a; band = 2), "band cannot be adjusted")
# What no step would take is refused at once.
@test refused(() -> adjust!(opt_a, -0.1), :SONEW_OUT_OF_RANGE, "eta is -0.1")
@test refused(() -> adjust!(opt_a, NaN), :SONEW_OUT_OF_RANGE, "eta is NaN")
@test refused(() -> adjust!(opt_a; eta = 0.1, grad_scale = 0), :SONEW_OUT_OF_RANGE, "grad_scale is 0")
@test refused(() -> adjust!(opt_a; clip_norm = -1), :SONEW_OUT_OF_RANGE, "clip_norm is -1")
@test opt_a.rule == SONewRule(eta = 0.5)
