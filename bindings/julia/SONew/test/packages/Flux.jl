import Flux
load_extension(:SONewFluxExt)
chain() = (Random.seed!(1); Flux.Chain(Flux.Dense(4 => 8, tanh), Flux.BatchNorm(8), Flux.Dense(8 => 1)))
# Running statistics are not trained, and the rule alone is enough.
@test tensor_names(setup(SONewRule(), chain())) ==
      ["layers.1.weight", "layers.1.bias", "layers.2.β", "layers.2.γ", "layers.3.weight", "layers.3.bias"]
data = [(x, sum(abs2, x; dims = 1)) for x in (randn(MersenneTwister(i), Float32, 4, 16) for i in 1:8)]
loss(m, x, y) = Flux.mse(m(x), y)
total(m) = sum(loss(Flux.testmode!(m), x, y) for (x, y) in data)
for rule in (SONewRule(eta = 0.01, chains = :strided), SONew.optimisers_rule(SONewRule(eta = 0.01)),
             Flux.OptimiserChain(Flux.ClipNorm(1), SONewRule(eta = 0.01)))
    model = chain()
    start, state = total(model), Flux.setup(rule, model)
    Flux.trainmode!(model)
    for _ in 1:30
        Flux.train!(loss, model, data, state)
        Flux.adjust!(state, 0.01)
    end
    @test total(model) < start / 2
end
# So does a step of SONew's own, with the gradients as they are.
model = chain()
start, opt = total(model), setup(SONewRule(eta = 0.01, chains = :strided), model)
Flux.trainmode!(model)
for _ in 1:30, (x, y) in data
    step!(opt, model, Flux.gradient(m -> loss(m, x, y), model)[1])
end
@test total(model) < start / 2
# The README's example, as it stands.
readme = read(joinpath(dirname(@__DIR__), "README.md"), String)
example = only(filter(block -> occursin("using Flux", block),
                      [m[1] for m in eachmatch(r"```julia\n(.*?)```"s, readme)]))
mktempdir() do dir
    cd(() -> include_string(Module(:ReadmeExample), example), dir)
    @test isfile(joinpath(dir, "model.jld2")) || isfile(joinpath(dir, "step-200.safetensors"))
end
