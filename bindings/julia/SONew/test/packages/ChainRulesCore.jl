import ChainRulesCore
using ChainRulesCore: @thunk, NoTangent, Tangent, ZeroTangent, unthunk
load_extension(:SONewChainRulesCoreExt)
# Tangents, thunks at any level, and zeros, for a step of SONew's own.
start() = (layer = (W = ones(Float32, 2, 2), b = Float32[1, 2]), head = Float32[3])
W, b, head = Float32[1 2; 3 4], Float32[5, 6], Float32[7]
expected, model = start(), start()
step!(setup(SONewRule(eta = 0.1), expected), expected, (layer = (W = W, b = b), head = nothing))
for grads in ((layer = @thunk((W = copy(W), b = @thunk(copy(b)))), head = ZeroTangent()),
              (layer = Tangent{typeof(model.layer)}(W = @thunk(copy(W)), b = b), head = NoTangent()),
              Tangent{typeof(model)}(layer = (W = W, b = b)), @thunk((layer = (W = W, b = b),)))
    local model = start()
    opt = setup(SONewRule(eta = 0.1), model)
    step!(opt, model, grads)
    @test model == expected && isempty(opt.kept)
end
# The arrays of a thunk are there during the step, whatever is collected meanwhile.
large = [zeros(Float32, 1000) for _ in 1:50]
opt = setup(SONewRule(eta = 0.1, graft = :none, band = 0, beta1 = 0, beta2 = 0, eps = 1e-12), large)
step!(opt, large, [@thunk((GC.gc(false); ones(Float32, 1000))) for _ in 1:50])
@test all(all(x .≈ -0.1f0) for x in large)
# A thunk is refused like what it holds, and nothing is changed.
opt, model = setup(SONewRule(), expected), deepcopy(expected)
@test argument_error(() -> step!(opt, expected, (head = @thunk([1.0]),)), "\"head\"", "Float64")
@test expected == model && step_count(opt) == 0
