# bfloat16: the upper half of a Float32. Julia has the type since 1.11. For earlier
# versions this file defines one that can be stored, converted and printed.

@static if isdefined(Core, :BFloat16)
    const BFloat16 = Core.BFloat16
else
    primitive type BFloat16 <: AbstractFloat 16 end

    Base.Float32(x::BFloat16) = float32(x)
    Base.Float64(x::BFloat16) = Float64(float32(x))
    # To nearest, ties to even; numbers of other types are first converted to Float32.
    BFloat16(x::Float32) = from_float32(x)
    BFloat16(x::Union{Float16,Float64,Integer}) = from_float32(Float32(x))
    BFloat16(x::BFloat16) = x

    Base.promote_rule(::Type{BFloat16}, ::Type{Float16}) = Float32
    Base.promote_rule(::Type{BFloat16}, ::Type{Float32}) = Float32
    Base.promote_rule(::Type{BFloat16}, ::Type{Float64}) = Float64
    Base.promote_rule(::Type{BFloat16}, ::Type{<:Integer}) = BFloat16
    Base.zero(::Type{BFloat16}) = reinterpret(BFloat16, 0x0000)
    Base.one(::Type{BFloat16}) = reinterpret(BFloat16, 0x3f80)
    Base.isnan(x::BFloat16) = isnan(float32(x))
    Base.isfinite(x::BFloat16) = isfinite(float32(x))
    Base.:-(x::BFloat16) = reinterpret(BFloat16, xor(reinterpret(UInt16, x), 0x8000))
    Base.show(io::IO, x::BFloat16) = print(io, "BFloat16(", float32(x), ")")
    for operator in (:+, :-, :*, :/)
        @eval Base.$operator(x::BFloat16, y::BFloat16) =
            from_float32($operator(float32(x), float32(y)))
    end
    for comparison in (:(==), :<, :<=)
        @eval Base.$comparison(x::BFloat16, y::BFloat16) =
            $comparison(float32(x), float32(y))
    end

    function from_float32(x::Float32)
        bits = reinterpret(UInt32, x)
        isnan(x) && return reinterpret(BFloat16, (bits >> 16 % UInt16) | 0x0040)
        nearest = bits + 0x00007fff + ((bits >> 16) & 0x00000001)
        return reinterpret(BFloat16, nearest >> 16 % UInt16)
    end
end

"""
    SONew.BFloat16

bfloat16, the upper half of a `Float32`: `Core.BFloat16` if Julia has it (1.11 and newer;
the package BFloat16s.jl has arithmetic for it), otherwise a small type defined by this
package.
"""
BFloat16

"""
    SONew.float32(x)

Converts a number, or a copy of an array, of any of the library's types to `Float32`; for
bfloat16 even if Julia has no conversion.
"""
float32(x::Real) = Float32(x)
float32(x::BFloat16) = reinterpret(Float32, UInt32(reinterpret(UInt16, x)) << 16)
float32(x::AbstractArray) = map(float32, x)
