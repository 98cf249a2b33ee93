# What a step costs through this package, beside the bare call of the C function on
# pointers that are ready.
#
#     julia --project=bindings/julia/SONew bindings/julia/SONew/benchmark/overhead.jl

using SONew, Printf, Random

struct Model{T}
    first::T
    others::Vector{Any}
    head::Dict{Symbol,Vector{Float32}}
end

x(n...) = randn(MersenneTwister(1), Float32, n...)
const MODELS = [
    "one array" => x(16),
    "named tuple of 2" => (W = x(4, 4), b = x(4)),
    "named tuples, 6 arrays" => (a = (W = x(4, 4), b = x(4)), b = (W = x(4, 4), b = x(4)),
                                 c = (W = x(4, 4), b = x(4))),
    "list of 20 arrays" => [x(4) for _ in 1:20],
    "struct, list, Dict: 6 arrays" => Model(x(4), Any[(W = x(4, 4), b = x(4)), x(4)],
                                            Dict(:a => x(4), :b => x(4))),
]

# Seconds of one call: the median over rounds of many.
function seconds(f)
    f()
    rounds = map(1:101) do _
        start = time_ns()
        for _ in 1:200
            f()
        end
        (time_ns() - start) / 200e9
    end
    return sort(rounds)[51]
end

function both(model)
    grads = deepcopy(model)
    opt = setup(SONewRule(eta = 1e-6, threads = 1), model)
    through = seconds(() -> step!(opt, model, grads))
    # Now with the addresses that the last step left.
    step = SONew.step_options(1e-6, 1.0, 1.0, 0.0, :skip)
    c_function, params, pointers = SONew.c().sonew_step, opt.params, opt.grads
    bare = GC.@preserve model grads seconds() do
        ccall(c_function, Int32,
              (Ptr{Cvoid}, Ref{SONew.StepOptions}, Ptr{Ptr{Cvoid}}, Ptr{Ptr{Cvoid}}, Csize_t),
              opt.handle, step, params, pointers, length(params)) == 0 || error("refused")
    end
    return through, bare
end

@printf("%-30s %12s %12s %12s\n", "microseconds for a step of", "step!", "C function", "overhead")
for (name, model) in MODELS
    through, bare = 1e6 .* both(model)
    @printf("%-30s %12.2f %12.2f %12.2f\n", name, through, bare, through - bare)
end
