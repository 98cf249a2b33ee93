# The package's workload: what a first training calls is compiled with the package. (Julia
# keeps compiled code from 1.9 on.)

if VERSION >= v"1.9"
    program = """
        using SONew
        model = (layers = ((weight = ones(Float32, 5, 4), bias = ones(Float32, 5)),), scale = ones(Float32, 3))
        grads = (layers = ((weight = ones(Float32, 5, 4), bias = nothing),), scale = ones(Float32, 3))
        opt = setup(SONewRule(eta = 0.01, chains = :strided), model)
        step!(opt, model, grads)
        save(opt, $(repr(tempname())), model)
        close(opt)
        """
    # Once to compile the package, and once more to see what is left to compile.
    other_julia(`-e $program`)
    outcome = other_julia(`--trace-compile=stderr -e $program`)
    outcome.success || println(outcome.printed)
    @test outcome.success
    left = filter(line -> occursin(r"precompile\(Tuple\{(typeof\(SONew|SONew\.)", line),
                  split(outcome.printed, '\n'))
    isempty(left) || println(join(left, '\n'))
    @test length(left) <= 6
end
