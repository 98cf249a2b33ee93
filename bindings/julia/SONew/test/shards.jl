# Arrays that are parts of larger ones, and the files of several machines.

dir = mktempdir()
path(name) = joinpath(dir, name)
rng = MersenneTwister(11)
# A matrix that is divided along its last dimension, and a vector that everybody has.
whole = (W = numbers(rng, Float32, 3, 5), b = numbers(rng, Float32, 2))
grads = [(W = numbers(rng, Float32, 3, 5), b = numbers(rng, Float32, 2)) for _ in 1:4]
part(x, columns) = (W = x.W[:, columns], b = copy(x.b))
same(a, b) = all(map(same_bits, values(a), values(b)))
# Without grafting, whose norm would be that of the whole matrix, and with a damping that needs
# nothing of it.
rule = SONewRule(eta = 0.1, graft = :none, damping = :absolute, chains = :contiguous_lines)
shard_from(first) = (name, x) -> name == "W" ? (shard = (first = first, whole = 5),) : NamedTuple()

model = deepcopy(whole)
opt = setup(rule, model)
for i in 1:2
    step!(opt, model, grads[i])
end
save(opt, path("whole"), model)
parts = (1:2, 3:5)
for (machine, columns) in enumerate(parts)
    own = part(whole, columns)
    of_machine = setup(rule, own; hyperparameters = shard_from(first(columns)))
    for i in 1:2
        step!(of_machine, own, part(grads[i], columns))
    end
    save(of_machine, path("part$machine"), own)
    close(of_machine)
end

# Files say which part an array is.
inside = [SONew.contents(path("part$machine")).tensors for machine in 1:2]
@test [t[1].hyperparameters.shard for t in inside] == [(first = 1, whole = 5), (first = 3, whole = 5)]
@test [t[1].size for t in inside] == [(3, 2), (3, 3)] && inside[1][2].hyperparameters.shard === nothing
@test close(SONew.open(path("part2"))) === nothing

# The whole is what one machine would have saved, and goes on with the same bits; with the
# hyperparameters of the file or of the program.
before = deepcopy(model)
for i in 3:4
    step!(opt, model, grads[i])
end
for again in (other -> load(path("part2"), other; paths = [path("part1")]),
              other -> load(path("part1"), rule, other; paths = (path("part2"),)),
              other -> load!(setup(rule, other), path("part1"), other; paths = [path("part2")]))
    other = map(zero, whole)
    merged = again(other)
    @test same(other, before) && step_count(merged) == 2
    adjust!(merged, 0.1)
    save(merged, path("merged"), other)
    @test read(path("merged")) == read(path("whole"))
    for i in 3:4
        step!(merged, other, grads[i])
    end
    @test same(other, model)
end

# Other machines take other parts, of the parts or of the whole.
both = ["part1", "part2"]
for (columns, files) in ((2:4, both), (1:2, both[1:1]), (5:5, ["whole"]), (1:0, both))
    other = map(zero, part(whole, columns))
    again = load(path(files[1]), rule, other; paths = path.(files[2:end]),
                 hyperparameters = shard_from(max(first(columns), 1)))
    @test same(other, part(before, columns))
    for i in 3:4
        step!(again, other, part(grads[i], columns))
    end
    isempty(columns) || @test same(other, part(model, columns))
end
# The same part as in the file, without being told.
other = map(zero, part(whole, 3:5))
again = load(path("part2"), other)
@test same(other, part(before, 3:5))
save(again, path("again"), other)
@test read(path("again")) == read(path("part2"))

# Refusals.
other = map(zero, whole)
@test refused(() -> load(path("part1"), other), :SONEW_ROWS_MISSING, "\"W\"", "[2, 5)")
save(opt, path("later"), model)
@test refused(() -> load(path("part1"), rule, other; paths = [path("later")]), :SONEW_STEPS_DIFFER,
              "step 2", "step 4")
@test refused(() -> load(path("part1"), other; paths = [path("part2")], mode = :map_private),
              :SONEW_MAPPED_ROWS, "paths")
@test refused(() -> load(path("part1"), other; mode = :map_private), :SONEW_MAPPED_ROWS, "\"W\"")
@test refused(() -> load(path("part1"), other; paths = [path("none")]), :SONEW_IO, "none")
@test argument_error(() -> load(path("part1"), other; paths = ["a\0b"]), "NUL")
@test other == map(zero, whole)
@test refused(() -> setup(rule, part(whole, 3:5); hyperparameters = shard_from(4)), :SONEW_SHARD,
              "\"W\"", "3 rows from row 3 on", "5 rows")
@test refused(() -> setup(SONewRule(shard = (first = 1, whole = 1)), fill(1.0f0)), :SONEW_SHARD)
for bad in ((first = 0, whole = 5), (first = 1, whole = 0), (first = 1,), 3:5)
    @test argument_error(() -> SONewRule(shard = bad), "shard is $(repr(bad))", "first = i")
end
@test SONewRule(shard = (whole = 5, first = 3)) == SONewRule(shard = (first = 0x03, whole = 5))
@test occursin("shard = (first = 3, whole = 5)", sprint(show, SONewRule(shard = (first = 3, whole = 5))))
