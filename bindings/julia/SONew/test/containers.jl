# Models of every structure, and their gradients.

struct Dense1{A,B}
    W::A
    b::B
    activation::Function
end
mutable struct Network
    layers::Vector{Any}
    rng::MersenneTwister
    rate::Float64
    head::Dict{Symbol,Vector{Float32}}
end
struct Partly
    trained::Vector{Float32}
    fixed::Vector{Float32}
end
SONew.trainable(p::Partly) = (trained = p.trained,)
mutable struct Ring
    next::Any
    x::Vector{Float32}
end

v(n) = collect(Float32, 1:n)
names_of(model; keywords...) = tensor_names(setup(SONewRule(), model; keywords...))

@test names_of(v(3)) == ["array"]
@test names_of((v(1), (v(2), v(3)))) == ["1", "2.1", "2.2"]
@test names_of((a = v(1), b = (c = v(2), d = nothing, e = 3.0f0))) == ["a", "b.c"]
@test names_of([v(1), [v(2), v(3)]]) == ["1", "2.1", "2.2"]
@test names_of(Dict("z" => v(1), "a" => v(2))) == ["a", "z"]
network() = Network(Any[Dense1(ones(Float32, 3, 2), v(3), tanh), sin, (W = v(2),)],
                    MersenneTwister(1), 0.5, Dict(:y => v(2), :x => v(3)))
@test names_of(network()) == ["layers.1.W", "layers.1.b", "layers.3.W", "head.x", "head.y"]
@test names_of((Partly(v(2), v(3)), fill(1.0f0))) == ["1.trained", "2"]
# Arrays of integers are passed over, and what hyperparameters returns nothing for.
@test names_of((a = v(2), b = [1, 2], c = [true], d = UInt8[3])) == ["a"]
@test names_of((a = v(2), b = v(2)); hyperparameters = (name, x) -> name == "a" ? nothing : ()) == ["b"]
@test refused(() -> setup(SONewRule(), (1, nothing, "x")), :SONEW_NO_TENSORS, "no array to train")
@test refused(() -> setup(SONewRule(), [1, 2, 3]), :SONEW_NO_TENSORS, "type Int64")
let m = (a = v(2), count = [1, 2], b = v(1))
    opt = setup(SONewRule(eta = 0.1), m)
    step!(opt, m, (a = v(2), count = nothing, b = v(1)))
    step!(opt, m, (a = v(2), count = [5.0, 5.0], b = v(1)))
    @test m.count == [1, 2] && m.a[1] < 1 && m.b[1] < 1
end
ring = Ring(nothing, v(2))
ring.next = ring
@test argument_error(() -> setup(SONewRule(), ring), "contains itself", "next")
shared = v(3)
@test refused(() -> setup(SONewRule(), (a = shared, b = (c = shared,))), :SONEW_OVERLAP,
              "\"a\"", "\"b.c\"")

# A step of a nested model is the same as that of its arrays in a list, whatever form
# the gradient has.
flat = [ones(Float32, 3, 2), v(3), v(2), v(3), v(2)]
grads_flat = [fill(2.0f0, 3, 2), 2 .* v(3), v(2), v(3), -v(2)]
opt = setup(SONewRule(eta = 0.1), flat)
step!(opt, flat, grads_flat)
W, b, W2, x, y = grads_flat
for grads in ((layers = Any[(W = W, b = b, activation = nothing), nothing, (W = W2,)],
               rng = nothing, rate = nothing, head = Dict(:x => x, :y => y)),
              Ref((layers = Any[(W = W, b = b, activation = nothing), nothing, (W = W2,)], rng = nothing,
                   rate = nothing, head = Dict(:x => x, :y => y))),
              Network(Any[Dense1(W, b, tanh), sin, (W = W2,)], MersenneTwister(1), 0.0,
                      Dict(:x => x, :y => y)))
    model = network()
    step!(setup(SONewRule(eta = 0.1), model), model, grads)
    @test [model.layers[1].W, model.layers[1].b, model.layers[3].W, model.head[:x],
           model.head[:y]] == flat
end

# Parts without arrays may be left out, at every level.
let model = network()
    gradient = (layers = Any[(W = W, b = b), nothing, (W = W2,)], head = Dict(:x => x, :y => y))
    step!(setup(SONewRule(eta = 0.1), model), model, gradient)
    @test [model.layers[1].W, model.layers[1].b, model.layers[3].W, model.head[:x],
           model.head[:y]] == flat
end
let m = (W = v(2), activation = tanh, inner = (rate = 0.5, name = "x", k = (1, 2)), b = v(3)),
    same = deepcopy(m)
    step!(setup(SONewRule(eta = 0.1), m), m, (b = v(3), W = v(2)))
    step!(setup(SONewRule(eta = 0.1), same), same,
          (W = v(2), activation = nothing, inner = nothing, b = v(3)))
    @test m.W == same.W && m.b == same.b && m.W[1] < 1
    # So may those with arrays, which take no part then.
    opt, before = setup(SONewRule(eta = 0.1), m), copy(m.b)
    step!(opt, m, (W = v(2),))
    @test m.b == before && m.W != same.W && SONew.get_settings(opt, "b").step_count == 0
    # There may be no others.
    for wrong in ((W = v(2), b = v(3), c = v(1)), (inner = (rates = 1,),), (w = v(2), b = v(3)))
        @test argument_error(() -> step!(opt, m, wrong), "another structure")
    end
    @test step_count(opt) == 1
end
let d = Dict(:a => v(2), :rate => 0.5, :b => v(1))
    opt = setup(SONewRule(eta = 0.1), d)
    step!(opt, d, Dict(:a => v(2)))
    @test d[:a][1] < 1 && d[:b] == v(1)
    step!(opt, d, Dict())
    @test SONew.get_settings(opt, "a").step_count == 1 && step_count(opt) == 2
    @test argument_error(() -> step!(opt, d, Dict(:a => v(2), :c => v(1))), "another structure")
end
let m = Dense1(ones(Float32, 2, 2), v(2), tanh)
    step!(setup(SONewRule(eta = 0.1), m), m, (b = v(2),))
    @test m.W == ones(2, 2) && m.b[1] < 1
    @test argument_error(() -> step!(setup(SONewRule(), m), m, (bias = v(2),)), "another structure")
end

# A named tuple in another order means the same.
m = (a = v(2), b = v(3))
opt = setup(SONewRule(eta = 0.1), m)
step!(opt, m, (b = -v(3), a = v(2)))
@test m.a[1] < 1 && m.b[1] > 1

# nothing: no part in the step.
before = deepcopy(m)
state = copy(plane(opt, "a", "diagonal"))
step!(opt, m, (a = nothing, b = v(3)))
@test m.a == before.a && m.b != before.b && plane(opt, "a", "diagonal") == state
step!(opt, m, nothing)
@test step_count(opt) == 3

# Settings of single arrays.
opt = setup(SONewRule(band = 2), (W = ones(Float32, 2, 3), b = v(2)); hyperparameters = (name, x) ->
    name == "b" ? (update = :adam, state_dtype = BFloat16) : ())
@test plane_names(opt, "W") == ["momentum", "diagonal", "band.1", "band.2"]
@test plane_names(opt, "b") == ["momentum", "diagonal"]
@test eltype(plane(opt, "b", "diagonal")) === BFloat16
@test argument_error(() -> setup(SONewRule(), m; hyperparameters = (n, x) -> (eta = 1,)),
                     "has eta", "none of a tensor")
@test argument_error(() -> setup(SONewRule(), m; hyperparameters = (n, x) -> 3), "is 3")

# Chains, as seen from Julia: the sub-diagonal tells which coordinates are neighbours.
grad = Float32[1 10 100; 2 20 200]
neighbours(chains) = begin
    x = zeros(Float32, 2, 3)
    opt = setup(SONewRule(chains = chains, beta2 = 0), x)
    step!(opt, x, grad)
    copy(plane(opt, 1, "band.1"))
end
# Neighbours down the first dimension: 1 2 10 20 100 200.
@test neighbours(:contiguous) == Float32[1*2 10*20 100*200; 2*10 20*100 0]
# Along the last one: 1 10 100 2 20 200.
@test neighbours(:strided) == Float32[1*10 10*100 100*2; 2*20 20*200 0]
@test neighbours(:contiguous_lines) == Float32[1*2 10*20 100*200; 0 0 0]
@test neighbours(:strided_lines) == Float32[1*10 10*100 0; 2*20 20*200 0]

# Many dimensions, and none.
deep = ones(Float32, 2, 1, 3, 1, 2, 1, 2, 2)
opt = setup(SONewRule(), (deep, fill(1.0f0)))
step!(opt, (deep, fill(1.0f0)), (deep .* 1, fill(2.0f0)))
@test size(plane(opt, 1, "momentum")) == size(deep) && size(plane(opt, 2, "momentum")) == ()
@test refused(() -> setup(SONewRule(), ones(Float32, ntuple(_ -> 1, 9)...)),
              :SONEW_TOO_MANY_DIMENSIONS, "9 dimensions")

# Arrays without elements take part in nothing, and appear in files.
model = (none = zeros(Float32, 0, 3), some = ones(Float32, 2))
opt = setup(SONewRule(), model)
step!(opt, model, (none = zeros(Float32, 0, 3), some = ones(Float32, 2)))
@test model.some != ones(Float32, 2)
@test [SONew.get_settings(opt, name).step_count for name in ("none", "some")] == [0, 1]
path = tempname()
save(opt, path, model)
again = load(path, SONewRule(), deepcopy(model))
@test size(plane(again, "none", "momentum")) == (0, 3)
@test same_bits(copy(plane(again, "some", "band.1")), copy(plane(opt, "some", "band.1")))
