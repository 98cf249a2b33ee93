# Checkpoints and live files.

"""
    save(opt, path, model = nothing)

Saves the state, the options and the step count to a safetensors file, and with `model`
the parameters, too. In the file, an array `W` of size `(3, 4)` is `W/momentum`,
`W/parameter` and so on, with the shape `[4, 3]` of row-major programs. An existing file
is replaced in one operation, and only when the new one is on disk.

If `path` is the live file that holds the state, this does what [`sync`](@ref) does.
"""
function save(opt::Optimizer, path::AbstractString, model = nothing)
    protected(opt) do handle
        GC.@preserve model with_params(opt, model) do params, count
            check(ccall(c().sonew_save_any, Int32,
                        (Ptr{Cvoid}, Cstring, Ptr{Ptr{Cvoid}}, Csize_t),
                        handle, String(path), params, count))
        end
    end
    return
end

"""
    load!(opt, path, model = nothing; mode = :read, renames = [],
          override_options = false, common_tensors_only = false, older_copy = false,
          convert_state = false)

Loads a file into an optimizer that was set up with the same hyperparameters and the
same arrays, and with `model` the parameters into its arrays. Views of the state become
invalid. Returns `opt`.

- `mode = :read`: the file is read into memory, and every checksum is verified.
- `mode = :map_private`: the file is mapped copy-on-write, which takes constant time for
  any size. It is never changed, and no program may write to it while it is mapped.
- `mode = :map_shared`: the state stays in the file, a live file that
  [`make_live!`](@ref) made.
- `renames`: pairs `name in the file => name in the optimizer`.
- `override_options`: keep the optimizer's options where the file has others.
- `common_tensors_only`: load the arrays that are in both, and leave the others as they
  are.
- `older_copy`: load the state before the last step of a live file, so that processes that
  train together go on from the same step.
- `convert_state`: convert state that has another element type in the file, rounded as the
  optimizer's `rounding` says.
"""
function load!(opt::Optimizer, path::AbstractString, model = nothing; mode::Symbol = :read,
               renames = (), override_options::Bool = false,
               common_tensors_only::Bool = false, older_copy::Bool = false,
               convert_state::Bool = false)
    names = Pair{String,String}[c_name(from) => c_name(to) for (from, to) in renames]
    list = [Rename(pointer(from), pointer(to)) for (from, to) in names]
    number_of_mode = number(LOAD_MODE, mode, "mode")
    protected(opt) do handle
        GC.@preserve names list model with_params(opt, model) do params, count
            options = LoadOptions(sizeof(LoadOptions), isempty(list) ? C_NULL : pointer(list),
                                  length(list), override_options, common_tensors_only,
                                  number_of_mode, older_copy, convert_state, (0,))
            check(ccall(c().sonew_load_any, Int32,
                        (Ptr{Cvoid}, Cstring, Ref{LoadOptions}, Ptr{Ptr{Cvoid}}, Csize_t),
                        handle, String(path), options, params, count))
        end
        opt.generation += 1
    end
    return opt
end

c_name(name::AbstractString) =
    '\0' in name ? throw(ArgumentError("$(repr(name)) has a NUL")) : String(name)

"""
    load(path, rule, model; settings, parameters = true, mode = :read, ...) -> Optimizer

Sets up an optimizer as [`setup`](@ref) does, and loads a file into it and, unless
`parameters` is `false`, into the arrays of `model`, as [`load!`](@ref) does.
"""
function load(path::AbstractString, rule::SONewRule, model; parameters::Bool = true,
              settings = (name, array) -> NamedTuple(), keywords...)
    opt = setup(rule, model; settings = settings)
    try
        return load!(opt, path, parameters ? model : nothing; keywords...)
    catch
        close(opt)
        rethrow()
    end
end

"""
    load(path, model; parameters = true, threads = 0, mode = :read, ...) -> Optimizer

The same with the hyperparameters that the file records, of the optimizer and of each
array; `eta` and other hyperparameters of one step are in no file and have their defaults.
Arrays are found by their names.
"""
function load(path::AbstractString, model; threads::Integer = 0, keywords...)
    found = contents(path)
    saved = Dict(tensor.name => tensor.settings for tensor in found.tensors)
    settings(name, array) = get(saved, name, NamedTuple())
    rule = SONewRule(found.rule; threads = threads)
    return load(path, rule, model; settings = settings, keywords...)
end

"""
    SONew.contents(path) -> NamedTuple

What a checkpoint or a live file holds, without an optimizer:

- `step_count`, `format`, `file_bytes`; `parameters`: whether it has the arrays of the
  model, too; `live`: whether it is a live file; `unsynced`: whether it is one that was not
  synced after its last step;
- `rule`: the hyperparameters of the optimizer;
- `tensors`: for each array its `name`, `size`, element `type`, `settings` (as `settings` of
  [`setup`](@ref) returns them), `lr_scale`, `weight_decay`, `step_count`, whether
  `master_set`, and the names of its state and `"parameter"` in `arrays`, which
  [`SONew.read_array`](@ref) reads.
"""
contents(path::AbstractString) = with_file(path) do file
    found = filled(c().sonew_file_info, Contents, file)
    tensors = [file_tensor(file, i) for i in 0:Int(found.tensor_count)-1]
    return (step_count = Int(found.step_count), format = Int(found.format),
            file_bytes = Int(found.file_bytes), parameters = found.parameters != 0,
            live = found.live != 0, unsynced = found.unsynced != 0,
            rule = rule_of(filled(c().sonew_file_options, Options, file)), tensors = tensors)
end

"""
    SONew.read_array(path, tensor, array) -> Array

Reads one array of a file and compares its checksum: of the tensor with this name, its
`"momentum"`, `"diagonal"`, `"band.1"` and so on, or its `"parameter"`.
"""
read_array(path::AbstractString, tensor::AbstractString, array::AbstractString) =
    with_file(path) do file
        count = Int(filled(c().sonew_file_info, Contents, file).tensor_count)
        index = findfirst(i -> file_tensor(file, i).name == tensor, 0:count-1)
        index === nothing && refuse(UNKNOWN_NAME, "\"", path, "\" has no tensor \"", tensor, "\"")
        found = file_tensor(file, index - 1)
        type = array == "parameter" ? found.type :
               array == "master" ? Float32 : found.settings.state_dtype
        to = Array{type}(undef, found.size...)
        GC.@preserve to check(ccall(c().sonew_file_read, Int32,
                                    (Ptr{Cvoid}, Csize_t, Cstring, Ptr{Cvoid}),
                                    file, index - 1, String(array), pointer(to)))
        return to
    end

# Calls f with the handle of an open file.
with_file(f, path) = disable_sigint() do
    handle = Ref{Ptr{Cvoid}}(C_NULL)
    check(ccall(c().sonew_file_open, Int32, (Cstring, Ptr{Ptr{Cvoid}}), String(path), handle))
    try
        return f(handle[])
    finally
        ccall(c().sonew_file_free, Int32, (Ptr{Cvoid},), handle[])
    end
end

# A struct of this type that a function fills in.
function filled(f, ::Type{T}, file) where {T}
    out = Ref{T}()
    check(ccall(f, Int32, (Ptr{Cvoid}, Ptr{T}, Csize_t), file, out, sizeof(T)))
    return out[]
end

function file_tensor(file, index)
    out = Ref{TensorState}()
    check(ccall(c().sonew_file_tensor, Int32,
                (Ptr{Cvoid}, Csize_t, Ptr{TensorState}, Csize_t),
                file, index, out, sizeof(TensorState)))
    state = out[]
    t = state.tensor
    settings = (chains = name(CHAINS, t.chains), update = name(UPDATE, t.update),
                state_dtype = element_type(t.state_dtype),
                grad_dtype = element_type(t.grad_dtype), master = t.master != 0)
    arrays = [unsafe_string(unsafe_load(state.arrays, i)) for i in 1:Int(state.array_count)]
    return (name = unsafe_string(t.name), size = reverse(Int.(t.dims[1:Int(t.ndim)])),
            type = element_type(t.dtype), settings = settings, lr_scale = state.lr_scale,
            weight_decay = state.weight_decay, step_count = Int(state.step_count),
            master_set = state.master_set != 0, arrays = arrays)
end

"""
    make_live!(opt, path)

Moves the state into a new live file at `path`, and works on that file from then on. It
may be larger than memory. If the process dies at any moment, the file opens at a
completed step. With `master = true` for every array it is a whole checkpoint, so that
training can continue with `load(path, rule, model; mode = :map_shared)`. Returns `opt`.

What a power failure may lose is described in `include/sonew.h`.
"""
function make_live!(opt::Optimizer, path::AbstractString)
    protected(opt) do handle
        check(ccall(c().sonew_make_live, Int32, (Ptr{Cvoid}, Cstring), handle, String(path)))
        opt.generation += 1
    end
    return opt
end

"""
    sync(opt)

Writes a live file's last step and its checksums to disk; `close(opt)` does, too.
"""
function sync(opt::Optimizer)
    protected(opt) do handle
        check(ccall(c().sonew_sync, Int32, (Ptr{Cvoid},), handle))
    end
    return
end

"""
    verify(path)

Checks a whole file: header, sizes, and every checksum. Throws a [`SONewError`](@ref) if
one of them is wrong.
"""
verify(path::AbstractString) = disable_sigint() do
    check(ccall(c().sonew_verify, Int32, (Cstring,), String(path)))
end

"""
    SONew.Saving

A save in the background, begun by [`save_begin`](@ref) and ended by
[`save_finish`](@ref).
"""
mutable struct Saving
    handle::Ptr{Cvoid}
    lock::ReentrantLock
end

"""
    save_begin(opt, path, model = nothing) -> SONew.Saving

As [`save`](@ref), but in the background: copies everything, and returns while a thread
of the library writes the copy. Training can continue. [`save_finish`](@ref) reports
errors. A save that is never finished explicitly is finished when it is garbage
collected.
"""
function save_begin(opt::Optimizer, path::AbstractString, model = nothing)
    saving = finalizer(s -> release(s, :sonew_save_finish), Saving(C_NULL, ReentrantLock()))
    protected(opt) do optimizer
        handle = Ref{Ptr{Cvoid}}(C_NULL)
        GC.@preserve model with_params(opt, model) do params, count
            check(ccall(c().sonew_save_begin, Int32,
                        (Ptr{Cvoid}, Cstring, Ptr{Ptr{Cvoid}}, Csize_t, Ptr{Ptr{Cvoid}}),
                        optimizer, String(path), params, count, handle))
        end
        saving.handle = handle[]
    end
    return saving
end

"""
    save_finish(saving)

Waits until a save in the background has ended. Throws an error if it failed.
"""
function save_finish(saving::Saving)
    protected(_ -> check(release(saving, :sonew_save_finish)), saving)
    return
end
