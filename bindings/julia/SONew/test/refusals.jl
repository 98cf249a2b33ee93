# Refused calls say why, and change nothing.

using Serialization

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
wrong(f, words...) = argument_error(f, words...) && unchanged()
@test wrong(() -> setup(SONewRule(), (a = ComplexF32[1],)), "\"a\"", "Complex")
@test wrong(() -> step!(opt, model, (W = ones(3, 2), b = good.b)),
            "the gradient of \"W\"", "Float64", "expected Float32")
@test wrong(() -> step!(opt, (W = ones(3, 2), b = model.b), good), "array \"W\"", "Float64")
@test wrong(() -> step!(opt, model, (W = 1.0f0, b = good.b)), "is no array")
# Also of the same size: the library would take the bits for what they are not.
@test wrong(() -> step!(opt, model, (W = good.W, b = Int32[1, 2])), "\"b\"", "Int32")
halves = setup(SONewRule(), [Float16(1)])
@test wrong(() -> step!(halves, [Float16(1)], [reinterpret(BFloat16, 0x3f80)]), "BFloat16")
@test wrong(() -> step!(halves, [0x3c00], [Float16(1)]), "array \"array\"", "UInt16")
@test wrong(() -> save(opt, tempname(), (W = model.W, b = [1.0, 2.0])), "array \"b\"", "Float64")
saved = tempname()
save(opt, saved, model)
@test wrong(() -> load!(opt, saved, (W = ones(Int32, 3, 2), b = model.b)), "array \"W\"", "Int32")
@test wrong(() -> save_begin(opt, tempname(), (W = model.W, b = [1.0, 2.0])), "array \"b\"")
planes_of = [[copy(plane(opt, t, p)) for p in plane_names(opt, t)] for t in 1:2]
@test wrong(() -> SONew.set_state!(opt, 9, [planes_of[1], [Float64.(p) for p in planes_of[2]]]),
            "plane momentum of \"b\"", "Float64", "expected Float32")
@test no(() -> SONew.set_state!(opt, 9, planes_of[1:1]), :SONEW_TENSOR_COUNT, "1 arrays", "2")
@test no(() -> SONew.set_state!(opt, 9, [planes_of[1], planes_of[2][1:2]]), :SONEW_PLANE_COUNT,
         "\"b\"", "2 state planes, expected 3")
@test no(() -> SONew.set_state!(opt, 9, [planes_of[1], planes_of[1]]), :SONEW_WRONG_LENGTH,
         "plane momentum of \"b\"")
@test no(() -> SONew.set_state!(opt, 9, [planes_of[1], [plane(opt, 2, p) for p in plane_names(opt, 2)]]),
         :SONEW_OVERLAP)
# Lengths and sizes.
@test no(() -> step!(opt, model, (W = ones(Float32, 3, 3), b = good.b)), :SONEW_WRONG_LENGTH,
         "the gradient of \"W\"", "(3, 3)", "expected (3, 2)")
@test no(() -> step!(opt, model, (W = ones(Float32, 2, 3), b = good.b)), :SONEW_WRONG_LENGTH)
@test no(() -> step!(opt, model, (W = ones(Float32, 6), b = good.b)), :SONEW_WRONG_LENGTH)
@test no(() -> step!(opt, (W = model.W, b = ones(Float32, 3)), good), :SONEW_WRONG_LENGTH,
         "array \"b\"", "(3,)")
# Structure.
@test argument_error(() -> step!(opt, model, (W = good.W, c = good.b)), "(W, c)") && unchanged()
@test argument_error(() -> step!(opt, model, (good.W, good.b)), "a tuple of 2") && unchanged()
@test argument_error(() -> step!(opt, model, good.W), "an array") && unchanged()
@test no(() -> step!(opt, (model.W,), (good.W,)), :SONEW_TENSOR_COUNT, "has 1 arrays")
@test no(() -> step!(opt, (model.W, model.b, [1.0f0]), nothing), :SONEW_TENSOR_COUNT, "more arrays")
# Values.
for bad in (NaN32, Inf32, 1.0f30)
    @test no(() -> step!(opt, model, (W = good.W, b = [1, bad])), :SONEW_NON_FINITE_GRADIENT, "\"b\"")
end
@test no(() -> step!(opt, model, good; eta = NaN), :SONEW_OUT_OF_RANGE, "eta is NaN")
@test no(() -> step!(opt, model, good; grad_scale = 0), :SONEW_OUT_OF_RANGE, "grad_scale")
@test no(() -> step!(opt, model, good; clip_norm = -1), :SONEW_OUT_OF_RANGE, "clip_norm")
@test argument_error(() -> step!(opt, model, good; non_finite = :skipp), "non_finite") && unchanged()
# Memory that overlaps.
@test no(() -> step!(opt, model, (W = model.W, b = good.b)), :SONEW_OVERLAP)
# Settings and names.
settings = SONew.get_settings(opt, "b")
# The last of the scalars is the largest entry of the diagonal.
without_largest(settings) = merge(settings, (scalars = settings.scalars[1:3],))
@test without_largest(settings) == (lr_scale = 1.0, weight_decay = 0.0, step_count = 1, scalars = zeros(3))
@test no(() -> SONew.set_settings!(opt, "b"; lr_scale = -1), :SONEW_OUT_OF_RANGE, "lr_scale")
@test no(() -> SONew.set_settings!(opt, 2; weight_decay = NaN), :SONEW_OUT_OF_RANGE, "weight_decay")
@test no(() -> SONew.set_settings!(opt, 2; lr_scale = 2, scalars = [-1, 0, 0, 0]), :SONEW_OUT_OF_RANGE)
@test no(() -> SONew.set_settings!(opt, "b"; lr_scale = 2, scalars = zeros(2)), :SONEW_WRONG_LENGTH,
         "\"b\"", "2 scalars, expected 4")
@test no(() -> SONew.get_settings(opt, "c"), :SONEW_UNKNOWN_TENSOR, "no array \"c\"", "W, b")
@test no(() -> SONew.set_settings!(opt, 3; step_count = 1), :SONEW_UNKNOWN_TENSOR, "1 to 2")
@test argument_error(() -> SONew.set_settings!(opt, 1; lr_scale = 2, step_count = -1),
                     "step_count is -1") && unchanged()
@test argument_error(() -> SONew.set_state!(opt, -1, planes_of), "step_count is -1") && unchanged()
@test unchanged() && SONew.get_settings(opt, "b") == settings == SONew.get_settings(opt, 1)
@test no(() -> plane(opt, 3, "momentum"), :SONEW_UNKNOWN_TENSOR, "1 to 2")
@test no(() -> plane(opt, 0, "momentum"), :SONEW_UNKNOWN_TENSOR)
@test no(() -> plane(opt, "W", "rms"), :SONEW_UNKNOWN_PLANE, "\"W\"", "\"rms\"",
         "momentum, diagonal, band.1")

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
SONew.set_settings!(opt, "b"; lr_scale = 0.5)
SONew.set_settings!(opt, "b"; weight_decay = 0.25)
@test without_largest(SONew.get_settings(opt, 2)) ==
      (lr_scale = 0.5, weight_decay = 0.25, step_count = 3, scalars = zeros(3))
@test SONew.get_settings(opt, "W").lr_scale == 1
close(opt)
close(opt)
@test !isopen(opt) && occursin("closed", sprint(show, opt))
for use in (() -> step!(opt, model, good), () -> step_count(opt), () -> plane(opt, 1, "momentum"),
            () -> plane_names(opt, 1), () -> save(opt, tempname()), () -> load!(opt, tempname()),
            () -> SONew.get_settings(opt, 1), () -> SONew.set_settings!(opt, 1; lr_scale = 1),
            () -> SONew.set_state!(opt, 9, planes_of),
            () -> make_live!(opt, tempname()), () -> sync(opt), () -> save_begin(opt, tempname()),
            () -> SONew.reset_master!(opt), () -> SONew.instruction_set(opt),
            () -> SONew.reset!(opt), () -> copy(opt), () -> deepcopy(opt),
            () -> SONew.save_to_memory(opt), () -> save(opt, IOBuffer()),
            () -> SONew.set_text!(opt, "a", "b"), () -> SONew.get_text(opt, "a"))
    @test refused(use, :SONEW_BAD_HANDLE, "closed")
end
@test argument_error(() -> serialize(IOBuffer(), opt2), "an optimizer cannot be serialized",
                     "save(opt, path")
# Nor as a part of something else, nor what belongs to it.
@test argument_error(() -> serialize(IOBuffer(), Dict("opt" => (1, [opt2]))), "an optimizer")
let pool = SONew.Pool(1), plan = SONew.Plan(SONewRule(), [1.0f0]), saving = save_begin(opt2, tempname())
    for (owner, what) in ((pool, "a pool"), (plan, "a plan"), (saving, "a save"),
                          (SONewRule(pool = pool), "a pool"))
        @test argument_error(() -> serialize(IOBuffer(), owner), what, "serialized")
        @test argument_error(() -> deepcopy(owner), what, "copied")
    end
    for owner in (pool, plan, saving)
        @test argument_error(() -> copy(owner), "cannot be copied")
    end
    view = plane(opt2, 1, "momentum")
    @test argument_error(() -> serialize(IOBuffer(), view), "an optimizer", "serialized")
    @test argument_error(() -> deepcopy(view), "the view of W/momentum", "copy(view)")
    save_finish(saving)
end
# A rule without a pool is a plain struct.
let io = IOBuffer(), rule = SONewRule(band = 3)
    serialize(io, rule)
    @test deserialize(seekstart(io)) == rule
end
# A copy that another package makes by the fields, and in another process by the numbers in
# memory, does not use the handle.
let by_fields = ccall(:jl_new_structv, Any, (Any, Ptr{Any}, UInt32), typeof(opt2),
                      Any[getfield(opt2, i) for i in 1:nfields(opt2)], nfields(opt2))
    @test by_fields.handle == opt2.handle && !isopen(by_fields) && isopen(opt2)
    @test refused(() -> step!(by_fields, other, good), :SONEW_BAD_HANDLE, "is a copy", "save(opt")
    close(opt2)
    @test refused(() -> step!(by_fields, other, good), :SONEW_BAD_HANDLE, "is a copy")
end
