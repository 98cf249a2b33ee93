# Tests of the package. They need the repository that it is part of: its golden
# trajectories, its header, and a C compiler.

using Test

include("safetensors.jl")
include("common.jl")

@testset "SONew" begin
    @testset "$name" for name in ("header", "rule", "golden", "same_bits", "types",
                                  "containers", "arrays", "refusals", "planes", "pooled",
                                  "files", "copies", "shards", "lifecycle", "plan", "pool", "packages",
                                  "optimisers", "library", "workload", "threads",
                                  "interrupt", "pages")
        # Each in a module of its own, so that names do not meet.
        room = Module(Symbol("test_", name))
        Core.eval(room, :(using SONew, Test, Random, Main.Common, Main.Safetensors))
        Core.eval(room, :(using SONew: BFloat16, float32))
        Base.include(room, joinpath(@__DIR__, name * ".jl"))
    end
end
