# Views of the state.

"""
    SONew.PlaneView{T,N} <: DenseArray{T,N}

A read-only view of a state plane, not a copy, with the size of its array. It shows the
state after the last step, and is valid until the next call that steps, loads into, moves
or closes the optimizer: reading it later throws an `ArgumentError`. Then request a new
view with [`plane`](@ref), or keep a copy with `copy(view)`. A view keeps the optimizer
from being garbage collected. Do not read it while another thread steps.
"""
struct PlaneView{T,N} <: DenseArray{T,N}
    opt::Optimizer
    data::Ptr{T}
    size::Dims{N}
    generation::Int
    name::String
end

Base.size(v::PlaneView) = v.size
Base.IndexStyle(::Type{<:PlaneView}) = IndexLinear()
Base.elsize(::Type{<:PlaneView{T}}) where {T} = sizeof(T)

Base.@propagate_inbounds function Base.getindex(v::PlaneView, i::Int)
    @boundscheck checkbounds(v, i)
    check_current(v)
    return unsafe_load(v.data, i)
end
Base.setindex!(v::PlaneView, value, i::Int) =
    throw(ArgumentError("the state is to be read only: $(v.name)"))

function Base.unsafe_convert(::Type{Ptr{T}}, v::PlaneView{T}) where {T}
    check_current(v)
    return v.data
end

check_current(v::PlaneView) = v.generation == v.opt.generation ? nothing : ended(v)
@noinline ended(v) = throw(ArgumentError(
    "the view of $(v.name) ended with a later call; ask for it again, or keep a copy"))

Base.similar(v::PlaneView, ::Type{T}, size::Dims) where {T} = Array{T}(undef, size)
Base.copy(v::PlaneView) = copyto!(similar(v), v)
Base.Array(v::PlaneView) = copy(v)
float32(v::PlaneView) = map(float32, copy(v))

# Julia may not know how to print bfloat16.
Base.show(io::IO, v::PlaneView{BFloat16}) = show(io, float32(v))
function Base.show(io::IO, ::MIME"text/plain", v::PlaneView)
    summary(io, v)
    if v.generation != v.opt.generation
        print(io, " that ended")
    elseif !isempty(v)
        println(io, ":")
        Base.print_array(IOContext(io, :compact => true), eltype(v) === BFloat16 ? float32(v) : copy(v))
    end
end

"""
    plane(opt, tensor, name) -> PlaneView

A view of a state plane. `tensor` is the name or the number (from 1) of an array,
`name` one of [`plane_names`](@ref). [`SONew.PlaneView`](@ref) says how long it is valid.
"""
function plane(opt::Optimizer, tensor, name::AbstractString)
    protected(opt) do handle
        index, found = tensor_index(opt, tensor), Ref{Csize_t}(0)
        check(ccall(c().sonew_find_plane, Int32,
                    (Ptr{Cvoid}, Csize_t, Cstring, Ref{Csize_t}),
                    handle, index - 1, String(name), found))
        return plane_at(opt, handle, index, Int(found[]) + 1)
    end
end

"""
    planes(opt, tensor) -> Dict

Views of all state planes of an array, by name.
"""
planes(opt::Optimizer, tensor) =
    Dict(name => plane(opt, tensor, name) for name in plane_names(opt, tensor))

"""
    plane_names(opt, tensor) -> Vector{String}

The names of an array's state planes: `"momentum"`, `"diagonal"`, `"band.1"` and so on,
`"rms"` with normalized RMSProp grafting, `"master"` with master weights. An array with
the Adam update has only the first two and `"master"`. At coordinate `j`, `"band.k"` has
the entry that `j` shares with the `k`-th coordinate after it in the chain.
"""
function plane_names(opt::Optimizer, tensor)
    protected(opt) do handle
        index, count = tensor_index(opt, tensor), Ref{Csize_t}(0)
        check(ccall(c().sonew_plane_count, Int32, (Ptr{Cvoid}, Csize_t, Ref{Csize_t}),
                    handle, index - 1, count))
        return [unsafe_string(c_view(handle, index, p).plane) for p in 1:Int(count[])]
    end
end

function plane_at(opt, handle, tensor, plane)
    v = c_view(handle, tensor, plane)
    type = v.dtype == dtype(opt.tensors[tensor].type) ? opt.tensors[tensor].type :
           element_type(v.dtype)
    name = "$(unsafe_string(v.tensor))/$(unsafe_string(v.plane))"
    return PlaneView(opt, convert(Ptr{type}, v.data), Tuple(opt.tensors[tensor].size),
                     opt.generation, name)
end

function c_view(handle, tensor, plane)
    out = Ref{View}()
    check(ccall(c().sonew_plane_view, Int32,
                (Ptr{Cvoid}, Csize_t, Csize_t, Ptr{View}, Csize_t),
                handle, tensor - 1, plane - 1, out, sizeof(View)))
    return out[]
end

function tensor_index(opt, name::AbstractString)
    index = findfirst(t -> t.name == name, opt.tensors)
    index === nothing && refuse(UNKNOWN_TENSOR, "the optimizer has no array \"", name,
                                "\"; it has ", join((t.name for t in opt.tensors), ", "))
    return index
end
function tensor_index(opt, index::Integer)
    index in eachindex(opt.tensors) || refuse(
        UNKNOWN_TENSOR, "there is no array ", index, ", they are numbered 1 to ",
        length(opt.tensors))
    return Int(index)
end
