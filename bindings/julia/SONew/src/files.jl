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
          override_options = false, common_tensors_only = false, older_copy = false)

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
"""
function load!(opt::Optimizer, path::AbstractString, model = nothing; mode::Symbol = :read,
               renames = (), override_options::Bool = false,
               common_tensors_only::Bool = false, older_copy::Bool = false)
    names = Pair{String,String}[c_name(from) => c_name(to) for (from, to) in renames]
    list = [Rename(pointer(from), pointer(to)) for (from, to) in names]
    number_of_mode = number(LOAD_MODE, mode, "mode")
    protected(opt) do handle
        GC.@preserve names list model with_params(opt, model) do params, count
            options = LoadOptions(sizeof(LoadOptions), isempty(list) ? C_NULL : pointer(list),
                                  length(list), override_options, common_tensors_only,
                                  number_of_mode, older_copy)
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
