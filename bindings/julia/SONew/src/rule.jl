# Hyperparameters.

"""
    SONewRule(eta = default; hyperparameters...)
    SONewRule(rule; hyperparameters...)

The hyperparameters of SONew, a plain struct. Hyperparameters that are not given have
the library's defaults, or their values in `rule`. Numbers out of range are refused by
[`setup`](@ref) or [`step!`](@ref).

Hyperparameters of one step. [`adjust!`](@ref) changes them for later steps, and
[`step!`](@ref) takes them as keywords for one step:

- `eta = 0.001`: the learning rate.
- `grad_scale = 1`: gradients are multiplied by it first (for example 1 / loss scale).
- `clip_norm = 0`: if the norm of all gradients together exceeds it, they are scaled
  down so that it equals `clip_norm`. 0: no clipping.
- `statistics_weight = 1`: the weight of the step, with `:weighted_sum`.
- `non_finite = :skip`: `:skip` refuses a step with a NaN or an infinity in a
  gradient (`:SONEW_NON_FINITE_GRADIENT`), `:unchecked` does not check.

Hyperparameters of an optimizer:

- `band = 1`: number of sub-diagonals, 0 (a diagonal) to 16, or to 64 with `pooling`, where
  only `:band` looks at it.
- `beta1 = 0.9`, `beta2 = 0.99`: decay rates of the momentum and of the statistics.
- `eps = 1e-3`: damping, relative to the largest entry of an array's diagonal after its
  last step: `damping = :relative_lagged`. `:relative`: to the largest entry of the
  statistics of the step itself, which takes a pass of its own. `:absolute`: `eps` itself.
- `gamma = 0.01`: edges are removed where a Schur complement is not above `gamma`
  times the diagonal entry.
- `graft = :adam`: the norm of the update is that of `:none`, `:sgd`,
  `:momentum`, `:adam` or `:normalized_rmsprop`; `graft_eps = 0`,
  `graft_bias_correction = true`.
- `pooling = :none`, the method of the paper, or the chains of an array, which are the units
  of a layer, share their correlations, and each coordinate keeps a diagonal of its own:
  a `:band` of correlations, those along a few leading directions (`:rank`), or `:all`, for
  chains of up to 4096. The state has 2 numbers for each parameter, and a plane `"pooled"` for
  each array. Chains end at every column, or row: `:contiguous` is as `:contiguous_lines`, `:strided` as
  `:strided_lines`. An array of one chain pools nothing; of a `shard` sums are added up over
  processes between steps ([`SONew.partial_sums`](@ref)). Not for
  embeddings and other arrays whose units see different inputs: give these
  `update = :adam`.
- `rank = 16`: with `pooling = :rank`, the number of directions, 1 to 64; as many as a chain
  has coordinates, if these are fewer.
- `shrink = 0.04`: with `pooling`, by which part of themselves correlations are taken to be
  smaller than their estimates, in [0, 1).
- `lagged_norms = nothing`: `true`: the norms are those of the step before: an array's update is
  scaled by `|a| / |u|` of the last step that it took part in, so that a step goes
  through memory once. An update that would be more than twice as long as with its own
  norms is brought to these. With `pooling`, correlations are those of the step before, too.
  `nothing`: `true` with `pooling`, otherwise `false`.
- `nesterov = false`: Nesterov momentum, in directions and norms.
- `weight_decay = 0`: decoupled: `p -= eta * (u + weight_decay * p)`.
- `statistics = :moving_average` (an exponential moving average) or `:weighted_sum`;
  `bias_correction = true`.
- `rounding = :nearest` or `:stochastic`, to 16 bits; `seed = 0`.
- `threads = 0`: the largest number of threads of a step; 0 means one for each
  processor that the process may run on. Results do not depend on it.
- `pool = nothing`: a [`SONew.Pool`](@ref) whose threads steps use; then `threads` is 0.
- `instruction_set = :auto`, `:portable`, `:avx2`, `:avx512` or `:neon`. Results do
  not depend on it.

Hyperparameters of a tensor. The keyword `hyperparameters` of [`setup`](@ref) sets them for
single arrays:

- `chains = :contiguous`: which coordinates are neighbours, see below.
- `update = :sonew`, or `:adam`: plain Adam, for biases and normalization layers.
- `state_dtype = nothing`: the element type of the state: `Float32`, `Float64` or
  `SONew.BFloat16`; `nothing` is `Float64` for `Float64` arrays, otherwise `Float32`.
- `grad_dtype = nothing`: the element type of the gradients; `nothing` is that of the
  array.
- `master = false`: keep `Float32` master weights in the state.
- `shard = nothing`: in training on several machines, `(first = i, whole = n)` says that the
  array is a part of a larger one, cut along the last dimension: the indices from `i` on of
  `n`. Only with `pooling` do steps depend on it
  (`SONew.partial_sums`); files always keep it, so that those of all machines can be
  loaded by any number of others: see `paths` of [`load!`](@ref). The library calls an index
  of this dimension, which is the first one there, a row, and counts rows from 0.

# Chains

Chains should run along a unit's inputs; along its outputs the method works much
worse. Julia stores the first dimension of an array contiguously in memory.

| `chains`            | one chain is                                   | for weights stored |
|:--------------------|:-----------------------------------------------|:-------------------|
| `:contiguous`       | the whole array, in the order of memory: the first dimension fastest | `W[in, out]`, used as `W' * x` |
| `:strided`          | the whole array, the last dimension fastest    | `W[out, in]`, used as `W * x` (Flux, Lux) |
| `:contiguous_lines` | one column, along the first dimension          | `W[in, out]`       |
| `:strided_lines`    | one row, along the last dimension              | `W[out, in]`       |

The names say where neighbours lie in memory, and are the same in all languages.

The library, and the files that it writes, list dimensions in the opposite order,
slowest first: there an array of size `(3, 4)` has the shape `[4, 3]`. Its memory is
the same.
"""
struct SONewRule
    eta::Float64
    band::Int32
    beta1::Float64
    beta2::Float64
    eps::Float64
    gamma::Float64
    graft::Symbol
    weight_decay::Float64
    chains::Symbol
    update::Symbol
    damping::Symbol
    statistics::Symbol
    bias_correction::Bool
    graft_eps::Float64
    graft_bias_correction::Bool
    grad_scale::Float64
    clip_norm::Float64
    statistics_weight::Float64
    non_finite::Symbol
    grad_dtype::Union{Nothing,DataType}
    state_dtype::Union{Nothing,DataType}
    master::Bool
    rounding::Symbol
    seed::UInt64
    threads::Int32
    pool::Union{Nothing,Pool}
    instruction_set::Symbol
    lagged_norms::Union{Nothing,Bool}
    nesterov::Bool
    shard::Union{Nothing,NamedTuple{(:first, :whole),Tuple{Int,Int}}}
    pooling::Symbol
    shrink::Float64
    rank::Int32

    # From values that hyperparameter() has returned, or those of another rule.
    SONewRule(values::Vector{Any}) = new(values...)
end

# A hyperparameter as the rule keeps it. What cannot be one is refused here, not only in
# setup(), and with its name.
function hyperparameter(name, type, value)
    name === :shard && return checked_shard(value)
    name in (:grad_dtype, :state_dtype) && dtype_or_default(value, name)
    haskey(ENUMERATIONS, name) && number(ENUMERATIONS[name], value, name)
    return as(type, value, name)
end

SONewRule(; hyperparameters...) = SONewRule(DEFAULTS[]; hyperparameters...)
SONewRule(eta::Real; hyperparameters...) = SONewRule(; eta = eta, hyperparameters...)
function SONewRule(rule::SONewRule; hyperparameters...)
    isempty(hyperparameters) && return rule
    known = fieldnames(SONewRule)
    for name in keys(hyperparameters)
        name in known || throw(ArgumentError(
            "SONewRule has no hyperparameter $name; it has $(join(known, ", "))"))
    end
    values = Any[getfield(rule, i) for i in 1:fieldcount(SONewRule)]
    for (name, value) in hyperparameters
        i = Base.fieldindex(SONewRule, name)
        values[i] = hyperparameter(name, fieldtype(SONewRule, i), value)
    end
    return SONewRule(values)
end

# Shows eta and the hyperparameters that differ from the defaults.
function Base.show(io::IO, rule::SONewRule)
    shown = filter(fieldnames(SONewRule)) do name
        name === :eta || getfield(rule, name) !== getfield(DEFAULTS[], name)
    end
    print(io, "SONewRule(")
    join(io, ("$name = $(repr(getfield(rule, name)))" for name in shown), ", ")
    print(io, ")")
end

const DEFAULTS = Ref{SONewRule}()

# The defaults of the library in use.
library_defaults() = rule_of(library_options())
library_options() = filled(c().sonew_options_init, Options)

# A rule with the options of an optimizer, and otherwise the library's defaults.
function rule_of(o::Options)
    s = filled(c().sonew_step_options_init, StepOptions)
    return SONewRule(Any[
        s.lr, o.band, o.beta1, o.beta2, o.eps, o.gamma, name(GRAFT, o.graft),
        o.weight_decay, :contiguous, :sonew, name(DAMPING, o.damping),
        name(STATISTICS, o.statistics), o.bias_correction != 0, o.graft_eps,
        o.graft_bias_correction != 0, s.grad_scale, s.clip_norm, s.statistics_weight,
        name(NON_FINITE, s.non_finite), nothing, nothing, false,
        name(ROUNDING, o.rounding), o.seed, o.threads, nothing,
        name(INSTRUCTION_SET, o.instruction_set),
        o.lagged_norms < 0 ? nothing : o.lagged_norms != 0, o.nesterov != 0, nothing,
        name(POOLING, o.pooling), o.shrink, o.rank])
end

options(rule::SONewRule) = Options(
    sizeof(Options), rule.band, rule.threads, rule.beta1, rule.beta2, rule.eps,
    rule.gamma, rule.graft_eps, rule.weight_decay, rule.seed,
    number(STATISTICS, rule.statistics, "statistics"),
    number(DAMPING, rule.damping, "damping"), number(GRAFT, rule.graft, "graft"),
    rule.bias_correction, rule.graft_bias_correction,
    number(ROUNDING, rule.rounding, "rounding"),
    number(INSTRUCTION_SET, rule.instruction_set, "instruction_set"),
    something(rule.lagged_norms, -1), rule.nesterov, number(POOLING, rule.pooling, "pooling"),
    handle_of(rule.pool), rule.shrink, rule.rank, (Int32(0),))

# Whether the norms and the correlations of steps are those of the step before.
is_lagged(rule::SONewRule) = something(rule.lagged_norms, rule.pooling !== :none)

# The size of a plane of so many elements, of an array of this size: pooled sums have one of
# their own, of which the library may tell only the length.
function plane_size(rule::SONewRule, plane::AbstractString, size, len::Integer)
    plane == "pooled" || return size
    sets = is_lagged(rule) ? 2 : 1
    if rule.pooling === :rank
        rows(rank) = sets * (1 + rank) + rank
        # There are as many directions as a chain has coordinates, if these are fewer.
        rank = Int(rule.rank)
        len < rank * rows(rank) && (rank = findfirst(k -> k * rows(k) == len, 0:rank) - 1)
        return [len ÷ rows(rank), rows(rank)]
    end
    sums = rule.pooling === :all ? isqrt(len ÷ sets) : rule.band + 1
    positions = len ÷ max(sets * sums, 1)
    return sets == 2 ? [positions, sums, 2] : [positions, sums]
end

# The handle of a pool, for a call during which the caller keeps the rule.
handle_of(::Nothing) = C_NULL
handle_of(pool::Pool) = protected(identity, pool)

step_options(eta, grad_scale, statistics_weight, clip_norm, non_finite; beta1 = nothing,
             beta2 = nothing) = StepOptions(
    sizeof(StepOptions), eta, grad_scale, statistics_weight, clip_norm,
    of_step(beta1, "beta1"), of_step(beta2, "beta2"),
    number(NON_FINITE, non_finite, "non_finite"), (0,))

# The library takes -1 for the beta of the rule.
of_step(::Nothing, argument) = -1.0
of_step(beta::Real, argument) =
    beta == -1 ? refuse(OUT_OF_RANGE, argument, " is -1, must be in [0, 1)") : Float64(beta)

dtype_or_default(::Nothing, argument) = Int32(0)
dtype_or_default(value, argument) =
    throw(ArgumentError("$argument is $(repr(value)), must be a type such as Float32, or nothing"))
function dtype_or_default(type::DataType, argument)
    found = dtype(type)
    found == 0 && throw(ArgumentError("$argument is $type, which the library does not take"))
    return found
end

checked_shard(::Nothing) = nothing
function checked_shard(shard)
    shard isa Union{NamedTuple{(:first, :whole)},NamedTuple{(:whole, :first)}} &&
        shard.first >= 1 && shard.whole >= 1 &&
        return (first = Int(shard.first), whole = Int(shard.whole))
    throw(ArgumentError("shard is $(repr(shard)), must be nothing or (first = i, whole = n), " *
                        "both at least 1"))
end

# The first row and the number of rows of the whole, as the library counts them.
rows_of(::Nothing) = (0, 0)
rows_of(shard) = (shard.first - 1, shard.whole)

# The shard that a tensor of the library is.
shard_of(t) = t.whole_rows == 0 ? nothing :
              (first = Int(t.first_row) + 1, whole = Int(t.whole_rows))

# The description of an array for the library, which points to name: the caller must
# keep name alive while it is used.
function tensor(name::String, size::Dims, type::DataType, rule::SONewRule)
    n = length(size)
    dims = ntuple(i -> Csize_t(i <= n ? size[n+1-i] : 0), MAX_DIMS)
    return Tensor(sizeof(Tensor), pointer(name), n, dims, rows_of(rule.shard)...,
                  number(CHAINS, rule.chains, "chains"),
                  number(UPDATE, rule.update, "update"), dtype(type),
                  dtype_or_default(rule.grad_dtype, "grad_dtype"),
                  dtype_or_default(rule.state_dtype, "state_dtype"), rule.master, (0, 0),
                  C_NULL)
end
