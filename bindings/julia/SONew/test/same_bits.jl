# The same inputs give the same bits from Julia and from a C program.

dir = mktempdir()
library = SONew.library_path()
# The library under the name that the program looks for.
symlink(library, joinpath(dir, "libsonew.so.0.1"))
program, source = joinpath(dir, "steps"), joinpath(@__DIR__, "steps.c")
run(`$CC -std=c99 -Wall -Werror -I$(joinpath(REPOSITORY, "include")) $source
     $library -Wl,-rpath,$dir -o $program`)

function bytes_from_julia(input, T, rule)
    open(input) do file
        take(size...) = read!(file, Array{T}(undef, size...))
        model = (take(13, 7), take(11))
        opt = setup(rule, model)
        number = 1
        while !eof(file)
            grads = (take(13, 7), take(11))
            step!(opt, model, number == 3 ? (grads[1], nothing) : grads)
            number += 1
        end
        @test number == 8
        out = IOBuffer()
        write(out, model[1], model[2])
        for tensor in 1:2, name in plane_names(opt, tensor)
            write(out, copy(plane(opt, tensor, name)))
        end
        return take!(out)
    end
end

@testset "$T state $state band $band $graft" for
        (T, state, band, graft, master, rounding) in (
            (Float32, Float32, 1, :adam, false, :nearest),
            (Float32, Float32, 4, :normalized_rmsprop, false, :nearest),
            (Float64, Float64, 2, :momentum, false, :nearest),
            (Float32, BFloat16, 1, :sgd, true, :stochastic),
            (Float16, Float32, 0, :adam, true, :nearest),
            (BFloat16, BFloat16, 3, :none, false, :stochastic))
    rng = MersenneTwister(band)
    input, output = joinpath(dir, "in"), joinpath(dir, "out")
    open(input, "w") do file
        for _ in 1:8
            write(file, numbers(rng, T, 13, 7), numbers(rng, T, 11))
        end
    end
    graft_number = SONew.GRAFT[graft]
    run(`$program $input $output $band $graft_number $(SONew.dtype(T)) $(SONew.dtype(state))
         $(Int(master)) $(SONew.ROUNDING[rounding])`)
    from_c = read(output)
    @test length(from_c) > (13 * 7 + 11) * (sizeof(T) + (band + 2) * sizeof(state)) - 1
    rule = SONewRule(eta = 0.03, clip_norm = 5, band = band, graft = graft, weight_decay = 0.01,
                     seed = 5, state_dtype = state, master = master, rounding = rounding)
    @test bytes_from_julia(input, T, rule) == from_c
end
