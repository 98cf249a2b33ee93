# Arrays that are not plain ones: taken if they are one piece of memory.

using SONew: address

whole = reshape(collect(Float32, 1:24), 4, 6)
same_step(part, grad) = begin
    plain, target = copy(part), part
    step!(setup(SONewRule(eta = 0.1), plain), plain, copy(grad))
    step!(setup(SONewRule(eta = 0.1), target), target, grad)
    plain == target
end
grad = reshape(collect(Float32, 24:-1:1), 4, 6)
# Whole columns, a reshape of a view, a reinterpretation, a single row of a single column.
@test same_step(view(copy(whole), :, 2:3), view(grad, :, 2:3))
@test same_step(reshape(view(copy(whole), :, 2:3), 2, 4), reshape(view(grad, :, 2:3), 2, 4))
@test same_step(view(copy(whole), 2:3, 4), view(grad, 2:3, 4))
@test same_step(reinterpret(Float32, zeros(UInt32, 8)), grad[1:8])
# The rest of the array stays.
target = copy(whole)
step!(setup(SONewRule(), view(target, :, 2)), view(target, :, 2), grad[:, 2])
@test target[:, 2] != whole[:, 2] && target[:, [1, 3, 4, 5, 6]] == whole[:, [1, 3, 4, 5, 6]]

# Gaps, another order, no memory at all: refused, with the reason.
@test refused(() -> setup(SONewRule(), view(whole, 1:2, :)), :SONEW_MISALIGNED,
              "SubArray", "not contiguous", "strides (1, 4)", "copy")
@test refused(() -> setup(SONewRule(), view(whole, :, 1:2:5)), :SONEW_MISALIGNED, "not contiguous")
@test refused(() -> setup(SONewRule(), (a = [1.0f0], b = whole')), :SONEW_MISALIGNED, "\"b\"",
              "Adjoint")
@test refused(() -> setup(SONewRule(), 1.0:3.0), :SONEW_MISALIGNED, "without a place in memory")
@test refused(() -> setup(SONewRule(), Any[reshape(1:4, 2, 2) .* 1.0, 0.5:0.5:2.0]), :SONEW_MISALIGNED,
              "array \"2\"", "without a place in memory")
@test refused(() -> setup(SONewRule(), PermutedDimsArray([1.0 2; 3 4], (2, 1))), :SONEW_MISALIGNED,
              "not contiguous")
x = copy(whole)
opt = setup(SONewRule(), x)
@test refused(() -> step!(opt, x, PermutedDimsArray(ones(Float32, 6, 4), (2, 1))),
              :SONEW_MISALIGNED, "the gradient of \"array\"")
@test x == whole && step_count(opt) == 0

# Arrays that live on only in the model are kept during the call.
big() = [rand(Float32, 1000) for _ in 1:50]
model = big()
opt = setup(SONewRule(), model)
for _ in 1:20
    step!(opt, model, (GC.gc(false); big()))
end
@test all(all(isfinite, x) for x in model)
