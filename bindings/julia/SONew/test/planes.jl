# Views of the state.

x = Float32[1 2 3; 4 5 6]
g = Float32[1 2 3; 4 5 7]
opt = setup(SONewRule(band = 1, beta1 = 0.5, beta2 = 0.75, graft = :normalized_rmsprop), x)
step!(opt, x, g)
@test plane_names(opt, 1) == ["momentum", "diagonal", "band.1", "rms"]
m = plane(opt, "array", "momentum")
# By hand: (1 - beta1) g and (1 - beta2) g^2.
@test m == 0.5f0 .* g && size(m) == (2, 3) && eltype(m) === Float32
@test plane(opt, 1, "diagonal") == 0.25f0 .* g .^ 2
@test Set(keys(planes(opt, 1))) == Set(plane_names(opt, 1))

# Not copied: the address is the library's, twice the same.
@test pointer(m) == pointer(plane(opt, 1, "momentum")) && UInt(pointer(m)) % 64 == 0
@test strides(m) == (1, 2) && m isa DenseArray
@test m[2, 3] == 3.5f0 && m[end] == 3.5f0 && sum(m) == sum(g) / 2
@test m * ones(Float32, 3) == Matrix(m) * ones(Float32, 3)
@test_throws BoundsError m[7]
@test argument_error(() -> (m[1] = 2), "read only", "array/momentum")
kept = copy(m)
@test kept isa Matrix{Float32} && Array(m) == kept && float32(m) == kept

# It ends with the next step.
step!(opt, x, g)
for use in (() -> m[1], () -> copy(m), () -> pointer(m), () -> sum(m))
    @test argument_error(use, "view of array/momentum ended")
end
@test occursin("ended", sprint(show, MIME("text/plain"), m))
@test kept == 0.5f0 .* g && plane(opt, 1, "momentum") == 0.75f0 .* g
@test occursin("2×3", sprint(show, MIME("text/plain"), plane(opt, 1, "momentum")))
# And with close.
m = plane(opt, 1, "momentum")
close(opt)
@test argument_error(() -> m[1], "ended")

# A view keeps its optimizer.
view_alone() = (o = setup(SONewRule(), x); step!(o, x, g); plane(o, 1, "momentum"))
views = [view_alone() for _ in 1:50]
GC.gc()
@test all(v ≈ 0.1f0 .* g for v in views)

# 16 bits.
opt = setup(SONewRule(state_dtype = BFloat16), x)
step!(opt, x, g)
m = plane(opt, 1, "momentum")
@test eltype(m) === BFloat16 && maximum(abs.(float32(m) .- 0.1f0 .* g)) < 3e-3
@test occursin("0.1", sprint(show, MIME("text/plain"), m))

# What an optimizer tells of itself.
@test SONew.state_bytes(opt) == 6 * 3 * 2 && SONew.memory_bytes(opt) >= SONew.state_bytes(opt)
@test SONew.threads(setup(SONewRule(threads = 3), x)) == 3
@test SONew.instruction_set(setup(SONewRule(instruction_set = :portable), x)) == "portable"
opt = setup(SONewRule(clip_norm = 100), x)
@test isnan(SONew.gradient_norm(opt))
step!(opt, x, g)
@test SONew.gradient_norm(opt) ≈ sqrt(sum(abs2, g))
