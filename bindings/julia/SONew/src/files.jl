# Checkpoints and live files.

# What a checkpoint is read from: the path of a file, or its bytes.
const Source = Union{AbstractString,Vector{UInt8}}

"""
    save(opt, path, model = nothing; texts = ())

Saves the state, the options and the step count to a safetensors file, and with `model`
the parameters, too. `texts` are texts of the program, pairs `key => text` as in
`Dict("epoch" => "3")`: they become texts of the optimizer, as by [`SONew.set_text!`](@ref),
and of the file; if the save fails, they do not. In the file, an array `W` of size `(3, 4)` is `W/momentum`,
`W/parameter` and so on, with the shape `[4, 3]` of row-major programs. An existing file
is replaced in one operation, and only when the new one is on disk.

If `path` is the live file that holds the state, this does what [`sync`](@ref) does.
"""
function save(opt::Optimizer, path::AbstractString, model = nothing; texts = ())
    given = checked_texts(texts)
    protected(opt) do handle
        GC.@preserve model with_params(opt, model) do params, count
            with_texts(handle, given) do
                check(ccall(c().sonew_save, Int32,
                            (Ptr{Cvoid}, Cstring, Ptr{Ptr{Cvoid}}, Csize_t),
                            handle, String(path), params, count))
            end
        end
    end
    return
end

"""
    save(opt, io::IO, model = nothing; texts = ())

The same, written to a stream: into an archive, over a network.
"""
save(opt::Optimizer, io::IO, model = nothing; texts = ()) =
    (write(io, save_to_memory(opt, model; texts = texts)); nothing)

"""
    SONew.save_to_memory(opt, model = nothing; texts = ()) -> Vector{UInt8}

The bytes of the file that [`save`](@ref) would write: [`load!`](@ref) takes them, and in a
file they are a checkpoint.
"""
function save_to_memory(opt::Optimizer, model = nothing; texts = ())
    given = checked_texts(texts)
    return protected(opt) do handle
        GC.@preserve model with_params(opt, model) do params, count
            with_texts(handle, given) do
                size = Ref{Csize_t}(0)
                into(data) = check(ccall(
                    c().sonew_save_to_memory, Int32,
                    (Ptr{Cvoid}, Ptr{Ptr{Cvoid}}, Csize_t, Ptr{UInt8}, Csize_t, Ptr{Csize_t}),
                    handle, params, count, isempty(data) ? C_NULL : pointer(data),
                    length(data), size))
                into(UInt8[])
                data = Vector{UInt8}(undef, size[])
                GC.@preserve data into(data)
                return data
            end
        end
    end
end

"""
    load!(opt, path, model = nothing; mode = :read, renames = [], paths = [],
          override_options = false, overrides = (), common_tensors_only = false,
          older_copy = false, convert_state = false)
    load!(opt, data::Vector{UInt8}, model = nothing; ...)
    load!(opt, io::IO, model = nothing; ...)

Loads a file, or the bytes of one, into an optimizer that was set up with the same hyperparameters and the
same arrays, and with `model` the parameters into its arrays. The texts of the optimizer
become those of the file. Views of the state become invalid. Of `data`, `mode` is `:read`; of
`io` everything is read until its end. Returns `opt`.

- `mode = :read`: the file is read into memory, and every checksum is verified.
- `mode = :map_private`: the file is mapped copy-on-write, which takes constant time for
  any size. It is never changed, and no program may write to it while it is mapped.
- `mode = :map_shared`: the state stays in the file, a live file that
  [`make_live!`](@ref) made.
- `renames`: pairs `name in the file => name in the optimizer`.
- `paths`: further files that, together with `path`, hold the arrays: those that several
  machines have saved, each with its arrays or its shards of them (`shard` of
  [`SONewRule`](@ref)). Each array is put together from what the files have of it, whether
  it is a shard or whole, here and in the files. All files must be of one step, and what
  several files have must be the same bits. Arrays that only the files have belong to other
  machines. Only with `mode = :read`. Entries of sub-diagonals across a cut, now or in the
  files, are 0 until steps fill them: with all `chains` but `:contiguous_lines`.
- `override_options`: keep the optimizer's options where the file has others.
- `overrides`: the same for single settings, by their names, as in
  `("beta1", "weight_decay")`.
- `common_tensors_only`: load the arrays that are in both, and leave the others as they
  are.
- `older_copy`: load the state before the last step of a live file, so that processes that
  train together go on from the same step.
- `convert_state`: convert state that has another element type in the file, rounded as the
  optimizer's `rounding` says.
"""
function load!(opt::Optimizer, from::Source, model = nothing; mode::Symbol = :read,
               renames = (), paths = (), override_options::Bool = false, overrides = (),
               common_tensors_only::Bool = false, older_copy::Bool = false,
               convert_state::Bool = false)
    names = String[c_name(name) for (from, to) in renames for name in (from, to)]
    further = String[c_name(path) for path in paths]
    kept = String[c_name(name) for name in overrides]
    list, path_list, kept_list = pointer.(names), pointer.(further), pointer.(kept)
    number_of_mode = number(LOAD_MODE, mode, "mode")
    path, data = from isa AbstractString ? (c_name(from), UInt8[]) : (C_NULL, from)
    protected(opt) do handle
        GC.@preserve data names list further path_list kept kept_list model with_params(opt, model) do params, count
            options = LoadOptions(sizeof(LoadOptions), pointer(list), length(list) ÷ 2,
                                  pointer(path_list), length(path_list), override_options,
                                  common_tensors_only, number_of_mode, older_copy,
                                  convert_state, (0,), pointer(kept_list),
                                  length(kept_list),
                                  path === C_NULL ? pointer(data) : C_NULL, length(data))
            check(ccall(c().sonew_load, Int32,
                        (Ptr{Cvoid}, Ptr{UInt8}, Ref{LoadOptions}, Ptr{Ptr{Cvoid}}, Csize_t),
                        handle, path, options, params, count))
        end
        opt.generation += 1
    end
    return opt
end
load!(opt::Optimizer, io::IO, model = nothing; keywords...) =
    load!(opt, read(io), model; keywords...)

c_name(name::AbstractString) =
    '\0' in name ? throw(ArgumentError("$(repr(name)) has a NUL")) : String(name)

"""
    load(path, rule, model; hyperparameters, parameters = true, mode = :read, ...) -> Optimizer

Sets up an optimizer as [`setup`](@ref) does, and loads a file into it and, unless
`parameters` is `false`, into the arrays of `model`, as [`load!`](@ref) does. In place of
`path` there may be the bytes of a file, or a stream.
"""
function load(path::Union{Source,IO}, rule::SONewRule, model; parameters::Bool = true,
              hyperparameters = (name, array) -> NamedTuple(), keywords...)
    opt = setup(rule, model; hyperparameters = hyperparameters)
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
Arrays are found by their names. One that is a shard in the file is the same shard here if it
has the size of the shard, and otherwise whole.
"""
function load(path::AbstractString, model; threads::Integer = 0, keywords...)
    found = contents(path)
    saved = Dict(tensor.name => tensor for tensor in found.tensors)
    function of_array(name, array)
        haskey(saved, name) || return NamedTuple()
        own = saved[name].hyperparameters
        return size(array) == saved[name].size ? own : merge(own, (shard = nothing,))
    end
    rule = SONewRule(found.rule; threads = threads)
    return load(path, rule, model; hyperparameters = of_array, keywords...)
end

"""
    SONew.open(path; mode = :read) -> Optimizer

Creates an optimizer from a file alone, with its hyperparameters, arrays, state and step
counts; `mode` is that of [`load!`](@ref). It is for programs that look at the state, or
that do not name their arrays as the file does: `model` of its calls is any model whose
arrays have the sizes and types of the file's, in the order of [`tensor_names`](@ref).
Parameters stay in the file: [`SONew.read_array`](@ref) reads them. `eta` and other
hyperparameters of one step are in no file and have their defaults, and so has `threads`.
"""
function open(path::AbstractString; mode::Symbol = :read)
    number_of_mode = number(LOAD_MODE, mode, "mode")
    rule = with_file(file -> rule_of(filled(c().sonew_file_options, Options, file)), path)
    opt = optimizer(rule, TensorInfo[], Int[])
    disable_sigint() do
        handle = Ref{Ptr{Cvoid}}(C_NULL)
        check(ccall(c().sonew_open, Int32, (Cstring, Int32, Ptr{Ptr{Cvoid}}),
                    String(path), number_of_mode, handle))
        opt.handle = handle[]
        for i in 1:Int(filled(c().sonew_info, OptimizerInfo, opt.handle).tensor_count)
            t = filled(c().sonew_get_tensor, Tensor, opt.handle, i - 1)
            push!(opt.tensors, TensorInfo(unsafe_string(t.name), collect(size_of(t)),
                                          element_type(t.dtype), element_type(t.grad_dtype)))
            push!(opt.places, i)
            push!(opt.params, C_NULL)
            push!(opt.grads, C_NULL)
        end
    end
    return opt
end

# The size of a tensor, or of a plane, as Julia has it.
size_of(t::Union{Tensor,View}) = reverse(Int.(t.dims[1:Int(t.ndim)]))

"""
    SONew.contents(path) -> NamedTuple

What a checkpoint or a live file holds, without an optimizer:

- `step_count`, `format`, `file_bytes`; `parameters`: whether it has the arrays of the
  model, too; `live`: whether it is a live file; `unsynced`: whether it is one that was not
  synced after its last step;
- `rule`: the hyperparameters of the optimizer;
- `tensors`: for each array its `name`, `size`, element `type`, `hyperparameters` (as
  [`setup`](@ref) takes them), `settings` (as [`SONew.get_settings`](@ref) returns them),
  and in `arrays` the names of its state planes and `"parameter"`, which
  [`SONew.read_array`](@ref) reads. `"master"` is among them once it is set.
- `texts`: the texts of the program, a `Dict` from keys to texts.
"""
contents(path::AbstractString) = with_file(path) do file
    found = filled(c().sonew_file_info, Contents, file)
    tensors = [file_tensor(file, i) for i in 0:Int(found.tensor_count)-1]
    return (step_count = Int(found.step_count), format = Int(found.format),
            file_bytes = Int(found.file_bytes), parameters = found.parameters != 0,
            live = found.live != 0, unsynced = found.unsynced != 0,
            rule = rule_of(filled(c().sonew_file_options, Options, file)), tensors = tensors,
            texts = texts_of(file, found))
end

"""
    SONew.read_array(path, tensor, array) -> Array

Reads one array of a file and compares its checksum: of the tensor with this name, its
`"momentum"`, `"diagonal"`, `"band.1"` and so on, or its `"parameter"`.
"""
read_array(path::AbstractString, tensor::AbstractString, array::AbstractString) =
    with_file(path) do file
        count = Int(filled(c().sonew_file_info, Contents, file).tensor_count)
        tensors = [filled(c().sonew_file_tensor, Tensor, file, i) for i in 0:count-1]
        index = findfirst(t -> unsafe_string(t.name) == tensor, tensors)
        index === nothing &&
            refuse(UNKNOWN_TENSOR, "\"", path, "\" has no tensor \"", tensor, "\"")
        t, list = tensors[index], arrays_of(filled(c().sonew_file_arrays, Planes, file, index - 1))
        found = findfirst(a -> a.name == array, list)
        found === nothing &&
            refuse(PLANE_MISSING, "\"", path, "\" has no \"", tensor, "/", array, "\"")
        own = t.options == C_NULL ? filled(c().sonew_file_options, Options, file) :
              unsafe_load(t.options)
        size = plane_size(rule_of(own), array, size_of(t), list[found].len)
        to = Array{list[found].type}(undef, size...)
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

function file_tensor(file, index)
    t = filled(c().sonew_file_tensor, Tensor, file, index)
    hyperparameters = (chains = name(CHAINS, t.chains), update = name(UPDATE, t.update),
                       state_dtype = element_type(t.state_dtype),
                       grad_dtype = element_type(t.grad_dtype), master = t.master != 0,
                       shard = shard_of(t))
    return (name = unsafe_string(t.name), size = size_of(t), type = element_type(t.dtype),
            hyperparameters = hyperparameters,
            settings = named(filled(c().sonew_file_settings, Settings, file, index)),
            arrays = [a.name for a in arrays_of(filled(c().sonew_file_arrays, Planes, file, index))])
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
    path::String
    self::UInt
end

Base.show(io::IO, saving::Saving) =
    print(io, "SONew.Saving(", repr(saving.path), ", ",
          saving.handle == C_NULL ? "finished" : "begun", ")")

"""
    save_begin(opt, path, model = nothing; texts = ()) -> SONew.Saving

As [`save`](@ref), but in the background: copies everything, and returns while a thread
of the library writes the copy. Training can continue. [`save_finish`](@ref) reports
errors. A save that is never finished explicitly is finished when it is garbage
collected.
"""
function save_begin(opt::Optimizer, path::AbstractString, model = nothing; texts = ())
    given = checked_texts(texts)
    saving = owner_of(:sonew_save_finish, Saving(C_NULL, ReentrantLock(), String(path), 0))
    protected(opt) do optimizer
        handle = Ref{Ptr{Cvoid}}(C_NULL)
        GC.@preserve model with_params(opt, model) do params, count
            with_texts(optimizer, given) do
                check(ccall(c().sonew_save_begin, Int32,
                            (Ptr{Cvoid}, Cstring, Ptr{Ptr{Cvoid}}, Csize_t, Ptr{Ptr{Cvoid}}),
                            optimizer, String(path), params, count, handle))
            end
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
