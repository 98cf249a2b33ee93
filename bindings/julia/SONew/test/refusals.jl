# Refused calls say why, and change nothing.

start() = (W = Float32[1 2; 3 4; 5 6], b = Float32[1, 2])
good = (W = ones(Float32, 3, 2), b = ones(Float32, 2))
model = start()
opt = setup(SONewRule(), model)
step!(opt, model, good)
before = deepcopy(model)
state() = [copy(plane(opt, t, p)) for t in 1:2 for p in plane_names(opt, t)]
state_before = state()
unchanged() = model == before && state() == state_before && step_count(opt) == 1
no(f, status, words...) = refused(f, status, words...) && unchanged()

# Element types.
@test refused(() -> setup(SONewRule(), [1, 2, 3]), :SONEW_WRONG_DTYPE, "Int64")
@test refused(() -> setup(SONewRule(), (a = ComplexF32[1],)), :SONEW_WRONG_DTYPE, "\"a\"", "Complex")
@test no(() -> step!(opt, model, (W = ones(3, 2), b = good.b)), :SONEW_WRONG_DTYPE,
         "the gradient of \"W\"", "Float64", "expected Float32")
@test no(() -> step!(opt, (W = ones(3, 2), b = model.b), good), :SONEW_WRONG_DTYPE, "array \"W\"")
@test no(() -> step!(opt, model, (W = 1.0f0, b = good.b)), :SONEW_WRONG_DTYPE, "is no array")
# Lengths and sizes.
@test no(() -> step!(opt, model, (W = ones(Float32, 3, 3), b = good.b)), :SONEW_WRONG_LENGTH,
         "the gradient of \"W\"", "(3, 3)", "expected (3, 2)")
@test no(() -> step!(opt, model, (W = ones(Float32, 2, 3), b = good.b)), :SONEW_WRONG_LENGTH)
@test no(() -> step!(opt, model, (W = ones(Float32, 6), b = good.b)), :SONEW_WRONG_LENGTH)
@test no(() -> step!(opt, (W = model.W, b = ones(Float32, 3)), good), :SONEW_WRONG_LENGTH,
         "array \"b\"", "(3,)")
# Structure.
@test argument_error(() -> step!(opt, model, (W = good.W,)), "another structure", "(W)") && unchanged()
@test argument_error(() -> step!(opt, model, (W = good.W, c = good.b)), "(W, c)") && unchanged()
@test argument_error(() -> step!(opt, model, (good.W, good.b)), "a tuple of 2") && unchanged()
@test argument_error(() -> step!(opt, model, good.W), "an array") && unchanged()
@test no(() -> step!(opt, (model.W,), (good.W,)), :SONEW_TENSOR_COUNT, "has 1 arrays")
@test no(() -> step!(opt, (model.W, model.b, [1.0f0]), nothing), :SONEW_TENSOR_COUNT, "more arrays")
# Values.
for bad in (NaN32, Inf32, 1.0f30)
    @test no(() -> step!(opt, model, (W = good.W, b = [1, bad])), :SONEW_NON_FINITE_GRADIENT, "\"b\"")
end
@test no(() -> step!(opt, model, good; eta = NaN), :SONEW_OUT_OF_RANGE, "lr")
@test no(() -> step!(opt, model, good; grad_scale = 0), :SONEW_OUT_OF_RANGE, "grad_scale")
@test no(() -> step!(opt, model, good; clip_norm = -1), :SONEW_OUT_OF_RANGE, "clip_norm")
@test argument_error(() -> step!(opt, model, good; non_finite = :skipp), "non_finite") && unchanged()
# Memory that overlaps.
@test no(() -> step!(opt, model, (W = model.W, b = good.b)), :SONEW_OVERLAP)
# Settings and names.
@test no(() -> SONew.set_lr_scale!(opt, "b", -1), :SONEW_OUT_OF_RANGE, "lr_scale")
@test no(() -> SONew.set_weight_decay!(opt, 2, NaN), :SONEW_OUT_OF_RANGE, "weight_decay")
@test no(() -> SONew.lr_scale(opt, "c"), :SONEW_UNKNOWN_TENSOR, "no array \"c\"", "W, b")
@test no(() -> SONew.tensor_step_count(opt, "c"), :SONEW_UNKNOWN_TENSOR, "no array \"c\"")
@test no(() -> SONew.set_tensor_step_count!(opt, 3, 1), :SONEW_UNKNOWN_TENSOR, "1 to 2")
@test_throws InexactError SONew.set_tensor_step_count!(opt, 1, -1)
@test unchanged()
@test no(() -> plane(opt, 3, "momentum"), :SONEW_UNKNOWN_TENSOR, "1 to 2")
@test no(() -> plane(opt, 0, "momentum"), :SONEW_UNKNOWN_TENSOR)
@test no(() -> plane(opt, "W", "rms"), :SONEW_UNKNOWN_NAME, "rms")

# After all refusals the optimizer still works.
other = start()
opt2 = setup(SONewRule(), other)
step!(opt2, other, good)
@test step!(opt, model, good) === opt
step!(opt2, other, good)
@test model == other && step_count(opt) == 2

# A skipped step is told by its status, and can be taken with a smaller scale.
e = refusal(() -> step!(opt, model, (W = fill(1.0f20, 3, 2), b = good.b)))
@test e.status === :SONEW_NON_FINITE_GRADIENT && e.code == 1
@test occursin("(SONEW_NON_FINITE_GRADIENT)", sprint(showerror, e))
step!(opt, model, (W = fill(1.0f20, 3, 2), b = good.b); grad_scale = 1e-10)
@test step_count(opt) == 3

# A closed optimizer.
SONew.set_lr_scale!(opt, "b", 0.5)
@test SONew.lr_scale(opt, 2) == 0.5
SONew.set_weight_decay!(opt, "W", 0.25)
@test SONew.weight_decay(opt, 1) == 0.25
close(opt)
close(opt)
@test !isopen(opt) && occursin("closed", sprint(show, opt))
for use in (() -> step!(opt, model, good), () -> step_count(opt), () -> plane(opt, 1, "momentum"),
            () -> plane_names(opt, 1), () -> save(opt, tempname()), () -> load!(opt, tempname()),
            () -> SONew.tensor_step_count(opt, 1),
            () -> SONew.set_tensor_step_count!(opt, 1, 1),
            () -> SONew.lr_scale(opt, 1), () -> SONew.set_lr_scale!(opt, 1, 1),
            () -> make_live!(opt, tempname()), () -> sync(opt), () -> save_begin(opt, tempname()),
            () -> SONew.reset_master!(opt), () -> SONew.instruction_set(opt))
    @test refused(use, :SONEW_BAD_HANDLE, "closed")
end
@test argument_error(() -> deepcopy(opt2), "cannot be copied")
