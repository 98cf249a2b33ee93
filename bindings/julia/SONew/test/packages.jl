# Other packages, each where it is installed. (Extensions are loaded by Julia 1.9 and newer;
# before, the tests include their files.)

for name in ("ChainRulesCore", "Optimisers", "StaticArrays", "JLD2", "Zygote", "Flux", "Aqua")
    has_package(name) || continue
    room = Module(Symbol("test_", name))
    Core.eval(room, :(using SONew, Test, Random, Serialization, Main.Common))
    @testset "$name" begin
        Base.include(room, joinpath(@__DIR__, "packages", name * ".jl"))
    end
end
