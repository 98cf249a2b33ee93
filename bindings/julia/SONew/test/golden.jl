# The trajectories of the authors' own programs, within the bounds of
# tests/golden/README.md.

folder = joinpath(REPOSITORY, "tests", "golden")

# The table of the README: at most, in Float32 and in Float64.
function bounds(name)
    name == "torch_tds_vector" && return (3e-4, 1e-11)
    name == "torch_tds_two" && return (5e-4, 1e-11)
    name == "torch_tds_matrix_decay" && return (6e-2, 2e-10)
    return (3e-5, 1e-11)
end

function rule_of(settings)
    number(key, default) = parse(Float64, get(settings, key, string(default)))
    graft, corrected = Dict(
        "none" => (:none, true),
        "sgd, |g|" => (:sgd, true),
        "momentum, |m_hat|" => (:momentum, true),
        "adam, |m_hat/(sqrt(v_hat)+graft_eps)|" => (:adam, true),
        "adam, |m_hat/(sqrt(v_uncorrected)+1e-8)|, per tensor" => (:adam, false),
        "normalized rmsprop: n=g/|g|, s=EMA(n^2), |n/(sqrt(s)+graft_eps)|" =>
            (:normalized_rmsprop, true))[settings["graft"]]
    return SONewRule(
        eta = number("lr", NaN), band = parse(Int, settings["band"]),
        beta1 = number("beta1", NaN), beta2 = number("beta2", NaN), eps = number("eps", NaN),
        gamma = 0, damping = Symbol(first(split(settings["eps_mode"], ':'))),
        graft = graft, graft_bias_correction = corrected,
        graft_eps = number("graft_eps", 1e-8), weight_decay = number("weight_decay", 0),
        # The files' row-major is the order of memory.
        chains = Dict("flattened row-major, whole tensor" => :contiguous,
                      "transposed flatten (column-major), whole tensor" =>
                          :strided)[settings["chain"]])
end

# The largest distance from the reference, over the largest distance that it moves.
function error_of(file, ::Type{T}) where {T}
    count = sum(startswith(name, "param0.") for name in keys(file.tensors))
    read_all(what) = [array(file, "$what.$(i-1)") for i in 1:count]
    start, grads, reference = read_all("param0"), read_all("grads"), read_all("params")
    adam_vectors = haskey(file.metadata, "one_dim")
    params = [Array{T}(p) for p in start]
    opt = setup(rule_of(file.metadata), params; hyperparameters = (name, x) ->
        adam_vectors && ndims(x) == 1 ? (update = :adam,) : NamedTuple())
    at(all, t) = [copy(selectdim(x, ndims(x), t)) for x in all]
    error = moved = 0.0
    for t in 1:parse(Int, file.metadata["steps"])
        step!(opt, params, [Array{T}(g) for g in at(grads, t)])
        for (p, r, s) in zip(params, at(reference, t), start)
            error = max(error, maximum(abs.(p .- r)))
            moved = max(moved, maximum(abs.(r .- s)))
        end
    end
    close(opt)
    return error / moved
end

names = sort([f[1:end-12] for f in readdir(folder) if endswith(f, ".safetensors")])
@test length(names) == 19
@testset "$name" for name in names
    file = read_safetensors(joinpath(folder, name * ".safetensors"))
    single, double = bounds(name)
    @test error_of(file, Float32) <= single
    @test error_of(file, Float64) <= double
end
