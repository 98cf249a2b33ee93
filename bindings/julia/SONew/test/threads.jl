# Several threads of Julia at once.

program = joinpath(@__DIR__, "in_threads.jl")
outcome = other_julia(`$program`; threads = 4,
                      SONEW_LIBRARY = SONew.library_path())
outcome.success || println(outcome.printed)
@test outcome.success
@test occursin("4 threads: all as they should be", outcome.printed)
