import Optimisers
load_extension(:SONewOptimisersExt)
# With real leaves: thunks, ties, what is not trained, a chain with SONew in the middle.
x = Float32[1, 2]
r = SONew.optimisers_rule(SONewRule(eta = 0.5))
const Thunk = parentmodule(Optimisers.ZeroTangent).Thunk
_, change = Optimisers.apply!(r, Optimisers.init(r, x), x, Float32[3, 4])
_, same = Optimisers.apply!(r, Optimisers.init(r, x), x, Thunk(() -> Float32[3, 4]))
@test same == change
tree = Optimisers.setup(r, (a = copy(x), b = copy(x)))
model = (a = copy(x), b = copy(x))
Optimisers.update!(tree, model, (a = Thunk(() -> Float32[3, 4]), b = Optimisers.ZeroTangent()))
@test model.a ≈ x .- change && model.b == x
@test refused(() -> Optimisers.update!(tree, model, (a = Float32[1, 1], b = Thunk(() -> [NaN32, 1]))),
              :SONEW_NON_FINITE_GRADIENT, "\"b\"")
@test model.a ≈ x .- change && model.b == x
shared = copy(x)
tied = (a = shared, b = shared)
tree = Optimisers.setup(r, tied)
@test tree.a === tree.b && tree.a.state.name in ("a", "b")
Optimisers.update!(tree, tied, (a = Float32[1, 1], b = Float32[2, 3]))
_, change = Optimisers.apply!(r, Optimisers.init(r, x), x, Float32[3, 4])
@test shared ≈ x .- change
for rule in (Optimisers.OptimiserChain(Optimisers.ClipNorm(1.0), SONewRule(), Optimisers.WeightDecay(0.1)),
             Optimisers.OptimiserChain(Optimisers.AccumGrad(2), SONewRule()),
             Optimisers.OptimiserChain(SONewRule(eta = 0.1)))
    local model = (W = ones(Float32, 3, 2), f = tanh)
    local tree = Optimisers.setup(rule, model)
    for _ in 1:4
        Optimisers.update!(tree, model, (W = ones(Float32, 3, 2), f = nothing))
    end
    @test all(model.W .< 1)
end
# A new tree and a new model, and the old ones as they were.
for rule in (r, Optimisers.OptimiserChain(Optimisers.ClipNorm(1.0), SONewRule(eta = 0.5)))
    local model = (a = copy(x), b = (copy(x), copy(x)))
    local tree = Optimisers.setup(rule, model)
    grads = (a = Float32[1, 1], b = (Float32[3, 4], nothing))
    new_tree, new_model = Optimisers.update(tree, model, grads)
    @test model == (a = x, b = (x, x)) && new_model.a != x && new_model.b[2] == x
    own = deepcopy(model)
    Optimisers.update!(deepcopy(tree), own, grads)
    @test new_model == own
    Optimisers.update!(new_tree, new_model, grads)
    Optimisers.update!(tree, model, grads)
    @test model == own
    cooler = Optimisers.adjust(tree, 0.25)
    rule === r && @test cooler.a.rule.eta == 0.25 && tree.a.rule.eta == 0.5
end
# Neither a model's integers nor what Optimisers.trainable leaves out is trained.
struct Normed
    scale::Vector{Float32}
    mean::Vector{Float32}
    ticks::Vector{Int}
end
Optimisers.trainable(n::Normed) = (scale = n.scale,)
model = (norm = Normed([1, 2], [3, 4], [5]), b = Float32[6])
opt = setup(SONewRule(eta = 0.1), model)
@test tensor_names(opt) == ["norm.scale", "b"]
step!(opt, model, (norm = (scale = Float32[1, 1], mean = nothing), b = Float32[1]))
@test model.norm.scale[1] < 1 && model.norm.mean == [3, 4] && model.b[1] < 6
@test tensor_names(setup(SONewRule(), (norm = Normed([1], [2], [3]),))) == ["norm.scale"]
# The tree is copied and saved with the state. (A module of a test cannot be found again.)
if extended(:SONewOptimisersExt)
    tree = Optimisers.setup(r, (a = copy(x),))
    io = IOBuffer()
    serialize(io, tree)
    for again in (deserialize(seekstart(io)), deepcopy(tree))
        now, first_model, second_model = deepcopy(tree), (a = copy(x),), (a = copy(x),)
        Optimisers.update!(now, first_model, (a = Float32[3, 4],))
        Optimisers.update!(again, second_model, (a = Float32[3, 4],))
        @test first_model == second_model && again.a.state == now.a.state
    end
end
