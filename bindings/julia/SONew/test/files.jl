# Checkpoints and live files.

dir = mktempdir()
path(name) = joinpath(dir, name)
rng = MersenneTwister(7)
start() = (rng = MersenneTwister(8); (W = numbers(rng, Float32, 3, 4), b = numbers(rng, Float32, 5)))
grads = [(W = numbers(rng, Float32, 3, 4), b = numbers(rng, Float32, 5)) for _ in 1:9]
same(a, b) = all(map(same_bits, values(a), values(b)))
function train!(opt, model, steps)
    for i in steps
        step!(opt, model, grads[i])
    end
end
rule = SONewRule(eta = 0.1)

# Continuing from a file is the same as never having stopped, in each mode.
never = start()
train!(setup(rule, never), never, 1:9)
model = start()
opt = setup(rule, model)
train!(opt, model, 1:4)
save(opt, path("a"), model)
close(opt)
verify(path("a"))
for mode in (:read, :map_private)
    other = map(zero, start())
    before = read(path("a"))
    again = load(path("a"), rule, other; mode = mode)
    @test same(other, model) && step_count(again) == 4
    train!(again, other, 5:9)
    @test same(other, never)
    close(again)
    @test read(path("a")) == before
end
# Into an optimizer that is there, without the parameters.
other = deepcopy(model)
opt = setup(rule, map(zero, start()))
ended = plane(opt, "W", "momentum")
@test load!(opt, path("a")) === opt && step_count(opt) == 4
@test argument_error(() -> ended[1], "ended")
train!(opt, other, 5:9)
@test same(other, never)

# What is in the file, by a reader that does not know the library.
file = read_safetensors(path("a"))
@test file.tensors["W/parameter"].shape == [4, 3]
@test same_bits(array(file, "W/parameter"), model.W) && same_bits(array(file, "b/parameter"), model.b)
opt = load(path("a"), rule, deepcopy(model))
for name in plane_names(opt, "W")
    @test same_bits(array(file, "W/$name"), copy(plane(opt, "W", name)))
end

# A live file, with the parameters as master weights.
live_rule = SONewRule(rule; master = true)
model = start()
opt = setup(live_rule, model)
train!(opt, model, 1:2)
view_before = plane(opt, "W", "momentum")
@test make_live!(opt, path("live")) === opt
@test argument_error(() -> view_before[1], "ended")
train!(opt, model, 3:5)
@test refused(() -> load(path("live"), live_rule, start(); mode = :map_shared), :SONEW_FILE_LOCKED)
sync(opt)
close(opt)
verify(path("live"))
other = map(zero, start())
opt = load(path("live"), live_rule, other; mode = :map_shared)
@test same(other, model) && step_count(opt) == 5
train!(opt, other, 6:9)
@test same(other, never)
# Views are of the copy that the last step wrote.
before = copy(plane(opt, "W", "momentum"))
train!(opt, other, 1:1)
@test plane(opt, "W", "momentum") == 0.9f0 .* before .+ (1 - 0.9f0) .* grads[1].W ||
      plane(opt, "W", "momentum") ≈ 0.9f0 .* before .+ 0.1f0 .* grads[1].W
# One that is not closed but collected is closed, too.
opt = nothing
GC.gc()
close(load(path("live"), live_rule, start(); mode = :map_shared))
# A file that was saved is no live one.
@test refused(() -> load(path("a"), rule, start(); mode = :map_shared), :SONEW_NOT_A_LIVE_FILE)
@test refused(() -> sync(setup(rule, start())), :SONEW_NOT_LIVE)

# In the background: what is saved is what was there when it began.
model = start()
opt = setup(rule, model)
train!(opt, model, 1:4)
saving = save_begin(opt, path("background"), model)
train!(opt, model, 5:9)
save_finish(saving)
@test refused(() -> save_finish(saving), :SONEW_BAD_HANDLE, "saving")
other = map(zero, start())
again = load(path("background"), rule, other)
@test step_count(again) == 4
train!(again, other, 5:9)
@test same(other, never)
save_begin(opt, path("forgotten"))
GC.gc()
@test step_count(load(path("forgotten"), rule, start(); parameters = false)) == 9
@test refused(() -> save_finish(save_begin(opt, joinpath(dir, "none", "x"))), :SONEW_IO, "none")

# Differences are refused, or allowed.
@test refused(() -> load(path("a"), SONewRule(rule; beta1 = 0.5), start()), :SONEW_OPTION_DIFFERS,
              "beta1")
@test load(path("a"), SONewRule(rule; beta1 = 0.5), start(); override_options = true) isa SONew.Optimizer
more = (W = zeros(Float32, 3, 4), b = zeros(Float32, 5), c = ones(Float32, 2))
@test refused(() -> load(path("a"), rule, more), :SONEW_TENSOR_MISSING, "\"c\"")
load(path("a"), rule, more; common_tensors_only = true)
@test same_bits(more.W, array(file, "W/parameter")) && more.c == ones(Float32, 2)
renamed = (V = zeros(Float32, 3, 4), b = zeros(Float32, 5))
load(path("a"), rule, renamed; renames = ["W" => "V"])
@test same_bits(renamed.V, array(file, "W/parameter"))
@test refused(() -> load(path("a"), rule, (W = zeros(Float32, 4, 3), b = zeros(Float32, 5))),
              :SONEW_TENSOR_DIFFERS, "W")
@test refused(() -> load(path("a"), rule, (W = zeros(3, 4), b = zeros(5))), :SONEW_DTYPE_DIFFERS)
@test argument_error(() -> load(path("a"), rule, start(); mode = :mapped), "mode is :mapped",
                     ":map_shared")
@test argument_error(() -> load(path("a"), rule, start(); renames = ["W\0" => "V"]), "NUL")
@test_throws ArgumentError save(opt, "a\0b")
@test refused(() -> load(path("none"), rule, start()), :SONEW_IO)
save(opt, path("state_only"))
@test refused(() -> load(path("state_only"), rule, start()), :SONEW_PLANE_MISSING)

# What is in a file, without an optimizer.
found = SONew.contents(path("a"))
@test found.step_count == 4 && found.format == 4 && found.file_bytes == filesize(path("a"))
@test found.parameters && !found.live && !found.unsynced
@test found.rule == SONewRule(rule; eta = SONewRule().eta)
@test [t.name for t in found.tensors] == ["W", "b"]
W = found.tensors[1]
@test W.size == (3, 4) && W.type == Float32
@test merge(W.settings, (scalars = W.settings.scalars[1:3],)) ==
      (lr_scale = 1.0, weight_decay = 0.0, step_count = 4, scalars = zeros(3))
@test W.settings.scalars[4] > 0
@test W.hyperparameters == (chains = :contiguous, update = :sonew, state_dtype = Float32,
                            grad_dtype = Float32, master = false, shard = nothing)
@test W.arrays == ["momentum", "diagonal", "band.1", "parameter"]
@test SONew.contents(path("live")).tensors[1].arrays == ["momentum", "diagonal", "band.1", "master"]
for name in W.arrays
    @test same_bits(SONew.read_array(path("a"), "W", name), array(file, "W/$name"))
end
@test !SONew.contents(path("state_only")).parameters && SONew.contents(path("live")).live
@test refused(() -> SONew.read_array(path("a"), "V", "momentum"), :SONEW_UNKNOWN_TENSOR, "\"V\"")
@test refused(() -> SONew.read_array(path("a"), "W", "rms"), :SONEW_PLANE_MISSING, "rms")
@test refused(() -> SONew.contents(path("none")), :SONEW_IO)

# An optimizer with the hyperparameters of the file.
other = map(zero, start())
again = load(path("a"), other; threads = 1)
@test step_count(again) == 4 && SONew.threads(again) == 1
adjust!(again, 0.1)
train!(again, other, 5:9)
@test same(other, never)
@test refused(() -> load(path("a"), more), :SONEW_TENSOR_MISSING, "\"c\"")

# One from the file alone, for arrays with other names, in each mode.
for (file, mode) in (("a", :read), ("a", :map_private), ("live", :map_shared))
    inside = SONew.contents(path(file))
    steps = inside.step_count
    array = file == "live" ? "master" : "parameter"
    list = [SONew.read_array(path(file), name, array) for name in ("W", "b")]
    opened = SONew.open(path(file); mode = mode)
    @test tensor_names(opened) == ["W", "b"] && step_count(opened) == steps
    @test opened.rule == inside.rule
    @test argument_error(() -> step!(opened, list, [zeros(3, 4), zeros(5)]), "\"W\"", "Float64")
    @test refused(() -> step!(opened, list[[2, 1]], list[[2, 1]]), :SONEW_WRONG_LENGTH, "\"W\"")
    for i in steps+1:9
        step!(opened, list, [grads[i].W, grads[i].b]; eta = 0.1)
    end
    file == "a" && @test same(list, never)
    close(opened)
end
@test argument_error(() -> SONew.open(path("a"); mode = :mapped), "mode is :mapped")
@test refused(() -> SONew.open(path("a"); mode = :map_shared), :SONEW_NOT_A_LIVE_FILE)
@test refused(() -> SONew.open(path("none")), :SONEW_IO)

# The older of the two copies in a live file is the state before its last step.
model = start()
opt = make_live!(setup(live_rule, model), path("older"))
train!(opt, model, 1:3)
before = deepcopy(model)
train!(opt, model, 4:4)
close(opt)
for mode in (:read, :map_shared)
    local other = map(zero, start())
    local again = load(path("older"), live_rule, other; older_copy = true, mode = mode)
    @test step_count(again) == 3 && same(other, before)
    train!(again, other, 4:9)
    @test same(other, never)
end

# State of another type is converted on request, and back.
small_rule = SONewRule(rule; state_dtype = SONew.BFloat16)
@test refused(() -> load(path("a"), small_rule, start()), :SONEW_DTYPE_DIFFERS, "BF16")
small = load(path("a"), small_rule, start(); convert_state = true)
save(small, path("small"))
@test SONew.contents(path("small")).tensors[1].hyperparameters.state_dtype == SONew.BFloat16
momentum = SONew.read_array(path("a"), "W", "momentum")
@test SONew.float32(SONew.read_array(path("small"), "W", "momentum")) ≈ momentum rtol = 1/256
@test load(path("small"), rule, start(); convert_state = true, parameters = false) isa SONew.Optimizer

# A damaged file is named, and changes nothing.
bytes = read(path("a"))
bytes[file.tensors["W/diagonal"].place+5] ⊻= 0x10
write(path("damaged"), bytes)
@test refused(() -> verify(path("damaged")), :SONEW_CHECKSUM, "W/diagonal")
model = start()
opt = setup(rule, model)
train!(opt, model, 1:1)
before, state = deepcopy(model), copy(plane(opt, "W", "diagonal"))
@test refused(() -> load!(opt, path("damaged"), model), :SONEW_CHECKSUM)
@test same(model, before) && plane(opt, "W", "diagonal") == state && step_count(opt) == 1
