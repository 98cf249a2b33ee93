# Views of the state.

"""
    SONew.PlaneView{T,N} <: DenseArray{T,N}

A read-only view of a state plane, not a copy, with the size of its array (`"pooled"` has
one of its own, see [`plane_names`](@ref)). It shows the state after the last step, and is valid until the next call that steps, loads into, moves
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
        index = tensor_index(opt, tensor)
        views = c_views(handle, index)
        found = findfirst(v -> unsafe_string(v.plane) == name, views)
        found === nothing && refuse(
            UNKNOWN_PLANE, "array \"", opt.tensors[index].name, "\" has no state plane \"", name,
            "\"; it has ", join((unsafe_string(v.plane) for v in views), ", "))
        return plane_view(opt, index, views[found])
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

With `pooling` there are no sub-diagonals, but one plane `"pooled"` for all chains of the
array, after `"rms"`, with the sums `P` over chains of products of coordinates. For chains of
`L` coordinates it has, with `:band`, the size `(L, band + 1)`, at `[j, i + 1]` the product of
coordinates `j` and `j + i`; with `:rank` `(L, 2 rank + 1)`, `P[j, j]` at `[j, 1]`, then `Y`,
then the directions `U`, a direction in each column; with `:all` `(L, L)`, at `[j, i]` the
product of `i` and `j` for `j >= i`, and zeros. With lagged norms the sums are those up to the
step before the last, and behind them follow those that the last step adds, as `[:, :, 2]` of
`(L, band + 1, 2)` and `(L, L, 2)`, and before the directions of `(L, 3 rank + 2)`. It is `Float32`, also beside planes of 16 bits,
or `Float64` for arrays or state of that type.
"""
function plane_names(opt::Optimizer, tensor)
    protected(opt) do handle
        return [unsafe_string(v.plane) for v in c_views(handle, tensor_index(opt, tensor))]
    end
end

function plane_view(opt, tensor, v::View)
    info = opt.tensors[tensor]
    name = "$(unsafe_string(v.tensor))/$(unsafe_string(v.plane))"
    return PlaneView(opt, convert(Ptr{plane_type(info, v.dtype)}, v.data), size_of(v),
                     opt.generation, name)
end

# The type of a plane's elements: that of the array where they are the same for the
# library, so that another package's bfloat16 remains that.
plane_type(info::TensorInfo, number) =
    number == dtype(info.type) ? info.type : element_type(number)

# The library's views of all planes of a tensor.
function c_views(handle, tensor)
    first = c_view(handle, tensor, 1)
    return [first; [c_view(handle, tensor, p) for p in 2:Int(first.plane_count)]]
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

"""
    SONew.partial_sums(opt, tensor) -> Vector

What the optimizer has of the sums of products of an array's last step, of the chains that are
here: with `pooling` and chains of `L` coordinates, `(band + 1) L`, `(rank + 1) L` or `L^2`
numbers, `Float32` or `Float64` as those of the plane `"pooled"`, whose last step they are. For an
array with pooled correlations that is a `shard`: add them up over all shards, and give the result
to [`SONew.set_reduced_sums!`](@ref) before the next step and before a save, which are refused until
then. They are zeros where nothing is to be added up: of arrays that are no shards, or that took no
part in the last step, and after they have been set. Without pooled correlations, or with those of
the step itself, there are none.
"""
function partial_sums(opt::Optimizer, tensor)
    protected(opt) do handle
        index = tensor_index(opt, tensor)
        sums = room_for_sums(handle, index)
        check(ccall(c().sonew_partial_sums, Int32,
                    (Ptr{Cvoid}, Csize_t, Ptr{Cvoid}, Csize_t, Ptr{Csize_t}),
                    handle, index - 1, sums, length(sums), C_NULL))
        return sums
    end
end

"""
    SONew.set_reduced_sums!(opt, tensor, sums)

Puts sums over all shards of an array in the place of its [`SONew.partial_sums`](@ref): as many,
and of the same type. All shards must be given the same bits. Where nothing was to be added up, the
state stays as it is. Returns `opt`.
"""
function set_reduced_sums!(opt::Optimizer, tensor, sums::Vector)
    protected(opt) do handle
        index = tensor_index(opt, tensor)
        own = room_for_sums(handle, index)
        eltype(sums) === eltype(own) || throw(ArgumentError(
            "the sums of array \"$(opt.tensors[index].name)\" are $(eltype(own)), " *
            "not $(eltype(sums))"))
        check(ccall(c().sonew_set_reduced_sums, Int32,
                    (Ptr{Cvoid}, Csize_t, Ptr{Cvoid}, Csize_t),
                    handle, index - 1, sums, length(sums)))
    end
    return opt
end

function room_for_sums(handle, index)
    count = Ref{Csize_t}(0)
    check(ccall(c().sonew_partial_sums, Int32,
                (Ptr{Cvoid}, Csize_t, Ptr{Cvoid}, Csize_t, Ptr{Csize_t}),
                handle, index - 1, C_NULL, 0, count))
    views = filter(v -> unsafe_string(v.plane) == "pooled", c_views(handle, index))
    type = isempty(views) ? Float32 : element_type(views[1].dtype)
    return Vector{type}(undef, count[])
end

"""
    SONew.set_state!(opt, step_count, planes)

Replaces the state by a copy of the caller's, for programs that kept it in arrays of their
own: the step count, which becomes that of every array, too, and for each array, in the
order of [`tensor_names`](@ref), the list of its state planes in the order of
[`plane_names`](@ref). A plane has the size and the element type of the optimizer's plane;
`"master"` is taken as set, and `"pooled"` of shards as added up. Step counts of single arrays, and their
scalars, which become zeros, are set afterwards, by [`SONew.set_settings!`](@ref).

Views of the state become invalid; a live file that held the state is closed. Returns
`opt`. A refused call changes nothing; a plane of another element type is refused with an
`ArgumentError`.
"""
function set_state!(opt::Optimizer, step_count::Integer, planes)
    length(planes) == length(opt.tensors) || refuse(
        TENSOR_COUNT, "there are planes of ", length(planes), " arrays, and the optimizer was ",
        "set up for ", length(opt.tensors))
    protected(opt) do handle
        GC.@preserve planes begin
            list = Ptr{Cvoid}[]
            for (index, given) in enumerate(planes)
                append!(list, addresses(given, opt.tensors[index], c_views(handle, index)))
            end
            check(ccall(c().sonew_set_state, Int32,
                        (Ptr{Cvoid}, UInt64, Ptr{Ptr{Cvoid}}, Csize_t),
                        handle, as(UInt64, step_count, "step_count"), list, length(list)))
        end
        opt.generation += 1
    end
    return opt
end

# The addresses of the planes that are given for an array.
function addresses(given, info::TensorInfo, views::Vector{View})
    length(given) == length(views) || refuse(
        PLANE_COUNT, "array \"", info.name, "\" is given ", length(given),
        " state planes, expected ", length(views))
    return [fitting(x, info, plane_type(info, v.dtype), "plane $(unsafe_string(v.plane)) of",
                    collect(size_of(v))) for (x, v) in zip(given, views)]
end
