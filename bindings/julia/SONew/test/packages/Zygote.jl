import Zygote
struct Affine
    W::Matrix{Float32}
    b::Vector{Float32}
    unused::Vector{Float32}
end
mutable struct Holder
    inner::Any
end
model = (affine = Affine([1 2; 3 4], [1, 1], [1]), dict = Dict(:used => Float32[1], :not => Float32[2]),
         holder = Holder(Float32[1, 2]), list = [Float32[1], Float32[2]], idle = (x = Float32[1],))
loss(m) = sum(abs2, m.affine.W * Float32[1, 2] .+ m.affine.b) + sum(m.dict[:used]) +
          sum(abs2, m.holder.inner) + sum(abs2, m.list[1])
opt = setup(SONewRule(eta = 0.01), model)
before, value = deepcopy(model.affine), loss(model)
for _ in 1:10
    grads, = Zygote.gradient(loss, model)
    # The gradient of a sum is a lazy array, which is to be copied.
    grads = merge(grads, (dict = Dict(k => collect(g) for (k, g) in grads.dict),))
    step!(opt, model, grads)
end
@test loss(model) < value && model.affine.W != before.W && model.affine.unused == [1]
@test model.dict[:not] == [2] && model.list[2] == [2] && model.idle.x == [1]
@test SONew.get_settings(opt, "affine.W").step_count == 10
