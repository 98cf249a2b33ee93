# Element types.

# A few steps of each type agree with those in Float64, to its precision. With this much
# damping all windows are well conditioned and no edge is near its removal, which is a jump:
# so that this holds of any numbers.
convert_to(::Type{T}, v) where {T} = T(v)
convert_to(::Type{BFloat16}, v) =
    reinterpret(BFloat16, (reinterpret(UInt32, Float32(v)) + 0x8000) >> 16 % UInt16)
for seed in 1:10
    rng = MersenneTwister(seed)
    start, grads = randn(rng, 8, 9), [randn(rng, 8, 9) for _ in 1:4]
    function ends(T; G = T, hyperparameters...)
        x = map(v -> convert_to(T, v), start)
        opt = setup(SONewRule(eta = 0.05, eps = 1, grad_dtype = G; hyperparameters...), x)
        for g in grads
            step!(opt, x, map(v -> convert_to(G, v), g))
        end
        return float32(x), opt
    end
    exact, _ = ends(Float64)
    @test maximum(abs.(exact .- start)) > 0.1
    for (T, tolerance) in ((Float32, 1e-4), (Float16, 5e-3), (BFloat16, 4e-2))
        ended, opt = ends(T)
        @test maximum(abs.(ended .- exact)) < tolerance
        @test eltype(plane(opt, 1, "momentum")) === Float32
    end
    # Gradients of another type than the parameters.
    @test maximum(abs.(first(ends(Float32; G = BFloat16)) .- exact)) < 3e-2
    @test maximum(abs.(first(ends(Float64; G = Float32)) .- exact)) < 1e-4
    # State of another type.
    x, opt = ends(Float32; state_dtype = BFloat16)
    @test eltype(plane(opt, 1, "diagonal")) === BFloat16
    @test maximum(abs.(x .- exact)) < 5e-2
    x, opt = ends(Float32; state_dtype = Float64)
    @test eltype(plane(opt, 1, "band.1")) === Float64
    @test maximum(abs.(x .- exact)) < 1e-4
end
# Master weights keep what 16-bit parameters would lose.
steps_of(master) = begin
    x = ones(Float16, 4)
    opt = setup(SONewRule(eta = 1e-4, graft = :none, band = 0, beta1 = 0, beta2 = 0,
                          master = master), x)
    for _ in 1:100
        step!(opt, x, ones(Float16, 4))
    end
    return x, opt
end
x, opt = steps_of(false)
@test x == ones(Float16, 4)
x, opt = steps_of(true)
@test all(abs.(x .- 0.99) .< 1e-3)
@test eltype(plane(opt, 1, "master")) === Float32
@test maximum(abs.(plane(opt, 1, "master") .- 0.99)) < 2e-5
x .= 2
SONew.reset_master!(opt)
step!(opt, x, ones(Float16, 4))
@test all(x .> 1.99)
@test refused(() -> setup(SONewRule(master = true), ones(2)), :SONEW_MASTER_DTYPE)

# The package's own bfloat16, where Julia has none.
if !isdefined(Core, :BFloat16)
    @test Float32(BFloat16(1.0f0)) == 1 && BFloat16(1 / 3) == BFloat16(0.333984375)
    @test BFloat16(1.00390625) == BFloat16(1.0) && BFloat16(1.01171875) == BFloat16(1.015625)
    @test isnan(BFloat16(NaN)) && !isfinite(BFloat16(3.4f38)) && -BFloat16(2) == BFloat16(-2)
    @test BFloat16(2) + BFloat16(3) == BFloat16(5) && BFloat16(2) * 1.5f0 === 3.0f0
    @test BFloat16(2) < BFloat16(3) && sprint(show, BFloat16(0.5)) == "BFloat16(0.5)"
end
