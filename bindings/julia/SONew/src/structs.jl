# The structs of include/sonew.h, with the same fields and names. When the library is
# opened, the offset and size of every field are compared with the library's.

const MAX_DIMS = 8
const SCALARS = 4

struct Options
    struct_size::Csize_t
    band::Int32
    threads::Int32
    beta1::Float64
    beta2::Float64
    eps::Float64
    gamma::Float64
    graft_eps::Float64
    weight_decay::Float64
    seed::UInt64
    statistics::Int32
    damping::Int32
    graft::Int32
    bias_correction::Int32
    graft_bias_correction::Int32
    rounding::Int32
    instruction_set::Int32
    lagged_norms::Int32
    nesterov::Int32
    pooling::Int32
    pool::Ptr{Cvoid}
    shrink::Float64
    rank::Int32
    reserved::NTuple{1,Int32}
end

struct Tensor
    struct_size::Csize_t
    name::Ptr{UInt8}
    ndim::Csize_t
    dims::NTuple{MAX_DIMS,Csize_t}
    first_row::Csize_t
    whole_rows::Csize_t
    chains::Int32
    update::Int32
    dtype::Int32
    grad_dtype::Int32
    state_dtype::Int32
    master::Int32
    reserved::NTuple{2,Int32}
    options::Ptr{Options}
end

struct StepOptions
    struct_size::Csize_t
    lr::Float64
    grad_scale::Float64
    statistics_weight::Float64
    clip_norm::Float64
    beta1::Float64
    beta2::Float64
    non_finite::Int32
    reserved::NTuple{1,Int32}
end

struct LoadOptions
    struct_size::Csize_t
    renames::Ptr{Ptr{UInt8}}
    rename_count::Csize_t
    paths::Ptr{Ptr{UInt8}}
    path_count::Csize_t
    override_options::Int32
    common_tensors_only::Int32
    mode::Int32
    older_copy::Int32
    convert_state::Int32
    reserved::NTuple{1,Int32}
    overrides::Ptr{Ptr{UInt8}}
    override_count::Csize_t
    data::Ptr{Cvoid}
    size::Csize_t
end

struct View
    data::Ptr{Cvoid}
    len::Csize_t
    tensor::Ptr{UInt8}
    plane::Ptr{UInt8}
    ndim::Csize_t
    dims::NTuple{MAX_DIMS,Csize_t}
    dtype::Int32
    plane_count::Int32
    step_count::UInt64
end

struct Contents
    step_count::UInt64
    file_bytes::UInt64
    tensor_count::Csize_t
    format::Int32
    parameters::Int32
    live::Int32
    unsynced::Int32
    text_keys::Ptr{Ptr{UInt8}}
    text_count::Csize_t
end

struct Settings
    struct_size::Csize_t
    lr_scale::Float64
    weight_decay::Float64
    step_count::UInt64
    scalars::NTuple{SCALARS,Float64}
end

struct Planes
    names::Ptr{Ptr{UInt8}}
    dtypes::Ptr{Int32}
    count::Csize_t
    lens::Ptr{Csize_t}
end

struct Buffers
    struct_size::Csize_t
    params::Ptr{Cvoid}
    direction::Ptr{Cvoid}
    grad::Ptr{Cvoid}
    planes::Ptr{Ptr{Cvoid}}
    plane_count::Csize_t
    len::Csize_t
    lr_scale::Float64
    weight_decay::Float64
    step_number::UInt64
    scalars::Ptr{Float64}
end

struct OptimizerInfo
    step_count::UInt64
    gradient_norm::Float64
    tensor_count::Csize_t
    state_bytes::Csize_t
    memory_bytes::Csize_t
    threads::Csize_t
    instruction_set::Ptr{UInt8}
    has_gradient_norm::Int32
    reserved::NTuple{1,Int32}
end

# Each struct with its name in C. The library is told the size of every struct, and
# accepts an older, shorter version.
const STRUCTS = (
    (Options, "sonew_options"),
    (Tensor, "sonew_tensor"),
    (StepOptions, "sonew_step_options"),
    (LoadOptions, "sonew_load_options"),
    (Settings, "sonew_settings"),
    (View, "sonew_view"),
    (Contents, "sonew_contents"),
    (Planes, "sonew_planes"),
    (Buffers, "sonew_buffers"),
    (OptimizerInfo, "sonew_optimizer_info"),
)

# The enumerations of include/sonew.h, with the same names without prefix and in lower
# case.
const STATISTICS = (moving_average = 0, weighted_sum = 1)
const DAMPING = (absolute = 0, relative = 1, relative_lagged = 2)
const GRAFT = (none = 0, sgd = 1, momentum = 2, adam = 3, normalized_rmsprop = 4)
const POOLING = (none = 0, band = 1, rank = 2, all = 3)
const ROUNDING = (nearest = 0, stochastic = 1)
const INSTRUCTION_SET = (auto = 0, portable = 1, avx2 = 2, avx512 = 3, neon = 4)
const CHAINS = (contiguous = 0, strided = 1, contiguous_lines = 2, strided_lines = 3)
const UPDATE = (sonew = 0, adam = 1)
const NON_FINITE = (skip = 0, unchecked = 1)
const LOAD_MODE = (read = 0, map_private = 1, map_shared = 2)

# The hyperparameters that are one of a list of names.
const ENUMERATIONS = (graft = GRAFT, damping = DAMPING, statistics = STATISTICS,
                      pooling = POOLING, non_finite = NON_FINITE, rounding = ROUNDING,
                      instruction_set = INSTRUCTION_SET, chains = CHAINS, update = UPDATE)

function number(values::NamedTuple, name, argument)
    name isa Symbol && haskey(values, name) && return Int32(values[name])
    known = join((":$known" for known in keys(values)), ", ")
    throw(ArgumentError("$argument is $(repr(name)), which is none of $known"))
end

# A value as the type that the library or a struct has for it; `argument` names it.
as(::Type{T}, value::T, argument) where {T} = value
function as(::Type{T}, value, argument) where {T}
    try
        return convert(T, value)
    catch e
        e isa InterruptException && rethrow()
        throw(ArgumentError("$argument is $(repr(value)), must be $(described(T))"))
    end
end

described(::Type{Bool}) = "true or false"
described(::Type{T}) where {T<:Integer} = "a whole number from $(typemin(T)) to $(typemax(T))"
described(::Type{T}) where {T<:Real} = "a number"
described(::Type{T}) where {T} = "of type $T"

name(values::NamedTuple, number::Integer) = keys(values)[findfirst(==(number), Tuple(values))]

# Element types.
const F32, F64, BF16, F16 = Int32.((1, 2, 3, 4))

"""
    SONew.dtype(T)

The number of an element type in the library's `sonew_dtype`; 0 for a type that it
does not take. To use another package's bfloat16, say so:
`SONew.dtype(::Type{TheirBFloat16}) = SONew.BF16`.
"""
dtype(::Type) = Int32(0)
dtype(::Type{Float32}) = F32
dtype(::Type{Float64}) = F64
dtype(::Type{BFloat16}) = BF16
dtype(::Type{Float16}) = F16

element_type(dtype::Integer) = (Float32, Float64, BFloat16, Float16)[dtype]
