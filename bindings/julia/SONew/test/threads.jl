# Several threads of Julia at once.

program = joinpath(@__DIR__, "in_threads.jl")
outcome = other_julia(`$program`; threads = 4,
                      SONEW_LIBRARY = SONew.library_path())
outcome.success || println(outcome.printed)
@test outcome.success
# (Julia 1.5 gives no more threads than the machine has cores.)
@test occursin(r"^[234] threads: all as they should be$"m, outcome.printed) ||
      Sys.CPU_THREADS == 1
