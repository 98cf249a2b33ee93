# The same inputs give the same bits from Julia and from a C program.

dir = mktempdir()
library = SONew.library_path()
# The library under the name that the program looks for.
symlink(library, joinpath(dir, "libsonew.so.0.2"))
program, source = joinpath(dir, "steps"), joinpath(@__DIR__, "steps.c")
run(`$CC -std=c99 -Wall -Werror -I$(joinpath(REPOSITORY, "include")) $source
     $library -Wl,-rpath,$dir -o $program`)

# An optimizer with the state of another one, as a program has it that keeps the state
# itself.
function handed_over(opt, model)
    other = setup(opt.rule, model)
    SONew.set_state!(other, step_count(opt), [[copy(plane(opt, tensor, name))
                     for name in plane_names(opt, tensor)] for tensor in 1:2])
    for tensor in 1:2
        SONew.set_settings!(other, tensor; SONew.get_settings(opt, tensor)...)
    end
    return other
end

function bytes_from_julia(input, T, rule, betas; hands_over)
    open(input) do file
        take(size...) = read!(file, Array{T}(undef, size...))
        model = (take(13, 7), take(11))
        opt = setup(rule, model)
        number = 1
        while !eof(file)
            grads = (take(13, 7), take(11))
            step!(opt, model, number == 3 ? (grads[1], nothing) : grads;
                  (betas && number == 4 ? (beta1 = 0.5, beta2 = 0.75) : ())...)
            hands_over && (opt = handed_over(opt, model))
            number += 1
        end
        @test number == 8
        out = IOBuffer()
        write(out, model[1], model[2])
        for tensor in 1:2, name in plane_names(opt, tensor)
            write(out, copy(plane(opt, tensor, name)))
        end
        settings = [SONew.get_settings(opt, tensor) for tensor in 1:2]
        foreach(s -> write(out, s.lr_scale, s.weight_decay, s.step_count, s.scalars), settings)
        return take!(out), settings
    end
end

@testset "$T state $state band $band $graft lagged $lagged betas $betas pooling $pooling" for
        (T, state, band, graft, master, rounding, lagged, nesterov, betas, pooling) in (
            (Float32, Float32, 1, :adam, false, :nearest, false, false, false, :none),
            (Float32, Float32, 1, :adam, false, :nearest, true, true, true, :none),
            (Float32, Float32, 4, :normalized_rmsprop, false, :nearest, false, false, true, :none),
            (Float64, Float64, 2, :momentum, false, :nearest, true, false, false, :none),
            (Float32, BFloat16, 1, :sgd, true, :stochastic, true, false, true, :none),
            (Float16, Float32, 0, :adam, true, :nearest, false, true, false, :none),
            (BFloat16, BFloat16, 3, :none, false, :stochastic, false, false, false, :none),
            (Float32, Float32, 4, :adam, false, :nearest, true, true, false, :band),
            (Float64, Float64, 20, :normalized_rmsprop, false, :nearest, false, false, false, :band),
            (BFloat16, BFloat16, 3, :adam, true, :stochastic, true, false, false, :band),
            # Here `band` is the rank; the chains have 13 coordinates, and 11.
            (Float32, BFloat16, 5, :adam, false, :nearest, true, true, false, :rank),
            (Float64, Float64, 12, :sgd, false, :nearest, false, false, false, :rank),
            (Float32, Float32, 1, :adam, true, :nearest, true, false, true, :all))
    rng = MersenneTwister(band)
    input, output = joinpath(dir, "in"), joinpath(dir, "out")
    open(input, "w") do file
        for _ in 1:8
            write(file, numbers(rng, T, 13, 7), numbers(rng, T, 11))
        end
    end
    graft_number = SONew.GRAFT[graft]
    run(`$program $input $output $band $graft_number $(SONew.dtype(T)) $(SONew.dtype(state))
         $(Int(master)) $(SONew.ROUNDING[rounding]) $(Int(lagged)) $(Int(nesterov)) $(Int(betas)) $(SONew.POOLING[pooling])
         $band`)
    from_c = read(output)
    planes = pooling === :none ? band + 2 : 2
    @test length(from_c) > (13 * 7 + 11) * (sizeof(T) + planes * sizeof(state)) - 1
    rule = SONewRule(eta = 0.03, clip_norm = 5, band = band, graft = graft, weight_decay = 0.01,
                     seed = 5, state_dtype = state, master = master, rounding = rounding,
                     lagged_norms = lagged, nesterov = nesterov, pooling = pooling,
                     rank = band, shrink = 0.1)
    from_julia, settings = bytes_from_julia(input, T, rule, betas; hands_over = false)
    @test from_julia == from_c
    @test [s.step_count for s in settings] == [7, 6]
    @test all(s -> (s.scalars .> 0) == [lagged, betas, betas, true], settings)
    @test bytes_from_julia(input, T, rule, betas; hands_over = true)[1] == from_c
end
