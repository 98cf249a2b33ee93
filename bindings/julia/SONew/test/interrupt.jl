# After Ctrl-C in the middle of steps the optimizer is at a completed step, and works.

const SIGINT = 2
program = joinpath(@__DIR__, "interrupted.jl")
command = package_julia(`$program`; SONEW_LIBRARY = SONew.library_path())
process = open(command, "r")
rng = MersenneTwister(1)
for round in 1:5
    @test readline(process) == "stepping"
    sleep(0.1 + 0.1 * rand(rng))
    kill(process, SIGINT)
    @test readline(process) == "interrupted: all as it should be"
end
@test read(process, String) == "done\n"
@test success(process)
