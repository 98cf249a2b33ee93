using StaticArrays
if has_package("Optimisers")
    import Optimisers
    r = SONew.optimisers_rule(SONewRule(eta = 0.5))
    for x in (SVector(1.0f0, 2.0f0), SMatrix{2,2}(1.0, 2.0, 3.0, 4.0), MVector(1.0f0, 2.0f0))
        plain, g = Array(x), map(v -> v + 1, x)
        state, change = Optimisers.apply!(r, Optimisers.init(r, x), x, g)
        @test change isa (x isa MVector ? AbstractArray : StaticArray)
        tree, new = Optimisers.update!(Optimisers.setup(r, (x = x,)), (x = x,), (x = g,))
        @test typeof(new.x) === typeof(x)
        step!(setup(SONewRule(eta = 0.5), plain), plain, Array(g))
        @test new.x ≈ plain
    end
end
# A step of SONew's own writes to the array.
m, expected = MVector(1.0f0, 2.0f0), Float32[1, 2]
step!(setup(SONewRule(eta = 0.5), (m,)), (m,), (MVector(3.0f0, 4.0f0),))
step!(setup(SONewRule(eta = 0.5), (expected,)), (expected,), (Float32[3, 4],))
@test m == expected
@test refused(() -> setup(SONewRule(), (SVector(1.0f0, 2.0f0),)), :SONEW_MISALIGNED, "SArray",
              "without a place in memory")
