# Copies, texts, checkpoints in memory, and the state at the beginning.

rng = MersenneTwister(21)
start() = (W = numbers(MersenneTwister(22), Float32, 3, 4), b = numbers(MersenneTwister(23), Float32, 5))
grads = [(W = numbers(rng, Float32, 3, 4), b = numbers(rng, Float32, 5)) for _ in 1:6]
same(a, b) = all(map(same_bits, values(a), values(b)))
state(opt) = [copy(plane(opt, t, p)) for t in tensor_names(opt) for p in plane_names(opt, t)]
rule = SONewRule(eta = 0.1, lagged_norms = true)
train!(opt, model, steps) = foreach(i -> step!(opt, model, grads[i]), steps)

never = start()
train!(setup(rule, never), never, 1:6)

# A copy and its original go on with the same bits, apart from each other.
for copied in (copy, deepcopy, opt -> deepcopy(Dict("opt" => [opt]))["opt"][1])
    model = start()
    opt = setup(rule, model)
    train!(opt, model, 1:3)
    SONew.set_settings!(opt, "b"; lr_scale = 1.0)
    SONew.set_text!(opt, "epoch", "1")
    view = plane(opt, "W", "momentum")
    other, twin = deepcopy(model), copied(opt)
    @test view[1] == plane(twin, "W", "momentum")[1] # It is still valid.
    @test twin isa SONew.Optimizer && twin !== opt && twin.rule == opt.rule
    @test tensor_names(twin) == ["W", "b"] && step_count(twin) == 3
    @test SONew.get_text(twin, "epoch") == "1"
    @test SONew.get_settings(twin, "b") == SONew.get_settings(opt, "b")
    train!(opt, model, 4:6)
    @test step_count(twin) == 3
    close(opt)
    train!(twin, other, 4:6)
    @test same(model, never) && same(other, never)
end
# In one deepcopy it is copied once.
let opt = setup(rule, start()), both = deepcopy((opt, opt))
    @test both[1] === both[2] && both[1] !== opt
end
# The state of the copy of a live optimizer is in memory.
let dir = mktempdir(), model = start(), opt = setup(SONewRule(rule; master = true), model)
    make_live!(opt, joinpath(dir, "live"))
    train!(opt, model, 1:3)
    other, twin = deepcopy(model), copy(opt)
    close(opt)
    train!(twin, other, 4:6)
    @test same(other, never)
end

# In memory a checkpoint has the bytes of the file.
model = start()
opt = setup(rule, model)
train!(opt, model, 1:3)
path = tempname()
save(opt, path, model)
bytes = SONew.save_to_memory(opt, model)
@test bytes isa Vector{UInt8} && bytes == read(path)
io = IOBuffer()
@test save(opt, io, model) === nothing && take!(io) == bytes
for from in (bytes, IOBuffer(bytes))
    local other = map(zero, start())
    local again = load(from, rule, other)
    @test same(other, model)
    train!(again, other, 4:6)
    @test same(other, never)
end
for from in (bytes, IOBuffer(bytes))
    local again = setup(rule, start())
    @test load!(again, from) === again && state(again) == state(opt)
end
@test length(SONew.save_to_memory(opt)) < length(bytes)
before = state(opt)
for wrong in (UInt8[], bytes[1:end-9], zeros(UInt8, 100))
    @test refusal(() -> load!(opt, wrong, model)) isa SONewError
end
@test refused(() -> load!(opt, bytes; mode = :map_private), :SONEW_MEMORY, "cannot be mapped")
@test refused(() -> load(bytes, SONewRule(rule; beta1 = 0.5), start()), :SONEW_OPTION_DIFFERS, "beta1")
@test state(opt) == before

# Texts are saved with the state, and read without an optimizer.
@test SONew.get_text(opt, "epoch") === nothing && isempty(SONew.contents(path).texts)
save(opt, path, model; texts = Dict("epoch" => "3", "sampler" => "{\"seed\": 1}\nä"))
@test SONew.contents(path).texts == Dict("epoch" => "3", "sampler" => "{\"seed\": 1}\nä")
@test SONew.get_text(opt, "epoch") == "3"
again = load(path, rule, start())
@test SONew.get_text(again, "sampler") == "{\"seed\": 1}\nä"
# Every later save has them; they are replaced, and removed.
@test SONew.set_text!(opt, "epoch", "4") === opt && SONew.set_text!(opt, "sampler", nothing) === opt
save_finish(save_begin(opt, path, model; texts = ["loader" => "here"]))
@test SONew.contents(path).texts == Dict("epoch" => "4", "loader" => "here")
@test SONew.get_text(load(SONew.save_to_memory(opt; texts = ("epoch" => "5",)), rule, start(); parameters = false),
                     "epoch") == "5"
# A load replaces all by those of the file.
load!(again, path)
@test SONew.get_text(again, "sampler") === nothing && SONew.get_text(again, "epoch") == "4"
# Where a save fails, the optimizer has the texts that it had.
texts() = [SONew.get_text(opt, key) for key in ("epoch", "loader", "new")]
kept = texts()
@test refused(() -> save(opt, joinpath(path, "none"), model; texts = ["epoch" => "9", "new" => "1"]), :SONEW_IO)
@test refused(() -> save(opt, path; texts = ["epoch" => "9", "a\nb" => "1"]), :SONEW_TEXT)
@test refused(() -> SONew.set_text!(opt, "", "1"), :SONEW_TEXT)
@test argument_error(() -> save(opt, path; texts = Dict("epoch" => 9)), "texts has 9 under \"epoch\"")
@test argument_error(() -> save(opt, path; texts = Dict(:epoch => "9")), "texts has :epoch")
@test argument_error(() -> SONew.set_text!(opt, "a", "b\0c"), "NUL")
@test argument_error(() -> SONew.get_text(opt, "a\0"), "NUL")
@test texts() == kept == ["5", "here", nothing]
# A live file has none.
let dir = mktempdir(), live = make_live!(setup(rule, start()), joinpath(dir, "live"))
    @test refused(() -> SONew.set_text!(live, "epoch", "1"), :SONEW_LIVE_TEXT)
end

# As at the beginning.
model = start()
opt = setup(rule, model)
train!(opt, model, 1:3)
SONew.set_settings!(opt, "b"; lr_scale = 0.5)
SONew.set_text!(opt, "epoch", "1")
view = plane(opt, "W", "momentum")
@test SONew.reset!(opt) === opt
@test argument_error(() -> view[1], "ended")
@test step_count(opt) == 0 && all(x -> all(iszero, x), state(opt)) && SONew.get_text(opt, "epoch") === nothing
@test SONew.get_settings(opt, "b") == (lr_scale = 1.0, weight_decay = 0.0, step_count = 0, scalars = zeros(4))
model = start()
train!(opt, model, 1:6)
@test same(model, never)
