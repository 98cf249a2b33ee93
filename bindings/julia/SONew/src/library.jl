# Finds and opens the library, and checks that it fits this package.

# The version of the header that structs.jl follows.
const HEADER_VERSION = v"0.2.0"

const FUNCTIONS = (
    :sonew_version, :sonew_struct_field, :sonew_status_name, :sonew_last_error,
    :sonew_options_init, :sonew_step_options_init, :sonew_create, :sonew_open, :sonew_free,
    :sonew_reset, :sonew_clone,
    :sonew_step, :sonew_get_tensor, :sonew_get_settings, :sonew_set_settings, :sonew_info,
    :sonew_plane_view, :sonew_set_state, :sonew_reset_master,
    :sonew_partial_sums, :sonew_set_reduced_sums,
    :sonew_save, :sonew_save_to_memory, :sonew_load, :sonew_set_text, :sonew_get_text,
    :sonew_make_live, :sonew_sync, :sonew_save_begin,
    :sonew_save_finish, :sonew_verify,
    :sonew_file_open, :sonew_file_info, :sonew_file_options, :sonew_file_tensor,
    :sonew_file_settings, :sonew_file_arrays, :sonew_file_read, :sonew_file_text,
    :sonew_file_free,
    :sonew_plan_create, :sonew_plan_free, :sonew_plan_planes, :sonew_plan_step,
    :sonew_pool_create, :sonew_pool_free,
)

struct Library
    path::String
    functions::NamedTuple{FUNCTIONS,NTuple{length(FUNCTIONS),Ptr{Cvoid}}}
end

const LIBRARY = Ref{Library}()

# The addresses of the library's functions, as in c().sonew_version.
c() = LIBRARY[].functions

const PACKAGE = dirname(@__DIR__)

# Paths near the package: in its folder, in its folder lib, and in target/release of the
# repository that the package is part of.
besides() = joinpath.((PACKAGE, joinpath(PACKAGE, "lib"),
                       normpath(joinpath(PACKAGE, "..", "..", "..", "target", "release"))),
                      "libsonew." * Libdl.dlext)

const UUID = Base.UUID("5f0c6a1e-7d2b-4b8e-9a54-0d3f1c7e2b96")

# The path that a project sets for itself, as with Preferences.jl. Julia reads preferences
# itself, from 1.6 on.
preference() = isdefined(Base, :get_preferences) ?
               get(Base.get_preferences(UUID), "library", "") : ""

# The path that the user chose, and what to say of who did.
function chosen_library()
    path = get(ENV, "SONEW_LIBRARY", "")
    isempty(path) || return path, " (SONEW_LIBRARY names it)"
    path = preference()
    isempty(path) || return path, " (the preference library of SONew names it)"
    return "", ""
end

function find_library()
    path = first(chosen_library())
    isempty(path) || return path
    for path in besides()
        isfile(path) && return path
    end
    path = Libdl.find_library(["libsonew", "libsonew.so.0.2"])
    isempty(path) || return path
    throw(LibraryError("""
        libsonew was not found. It was looked for

          - in the environment variable SONEW_LIBRARY, which is not set,
          - in the preference library of SONew, which is not set,
          - beside the package:
              $(join(besides(), "\n      "))
          - on the system's library path.

        Build it with `cargo build --release` in the repository of libsonew (it needs
        Rust 1.89 or newer); then set SONEW_LIBRARY to its target/release/libsonew.$(Libdl.dlext),
        or copy that to one of these places."""))
end

"""
    SONew.open_library(path = ...)

Opens the library at `path`, by default the one that is found, and checks its version and
the layout of its structs. Returns it, but does not make it the library in use. Throws
[`LibraryError`](@ref).
"""
function open_library(path::AbstractString = find_library())
    handle = try
        Libdl.dlopen(path)
    catch e
        chosen, who = chosen_library()
        hint = path == chosen ? who : ""
        throw(LibraryError("$path$hint cannot be opened as a library: $(sprint(showerror, e))"))
    end
    try
        check_version(handle, path)
        functions = map(name -> function_in(handle, path, name), FUNCTIONS)
        library = Library(path, NamedTuple{FUNCTIONS}(functions))
        foreach(s -> check_struct(library, s...), STRUCTS)
        return library
    catch
        Libdl.dlclose(handle)
        rethrow()
    end
end

function function_in(handle, path, name)
    pointer = Libdl.dlsym(handle, name; throw_error = false)
    pointer === nothing || return pointer
    throw(LibraryError("$path has no function $name: it is not libsonew, or another version " *
                       "of it than $HEADER_VERSION"))
end

function check_version(handle, path)
    pointer = function_in(handle, path, :sonew_version)
    found = VersionNumber(unsafe_string(ccall(pointer, Ptr{UInt8}, ())))
    wanted = HEADER_VERSION
    fits = found.major == wanted.major &&
           (found.major == 0 ? found.minor == wanted.minor : found >= wanted)
    fits && return
    throw(LibraryError("$path is libsonew $found, and this package is for $wanted; " *
                       "use the package that comes with the library"))
end

# Compares a struct with the library's. Fields called reserved are not compared: a later
# version may use them, and takes 0 as their default.
function check_struct(library, type, name)
    found = place(library, name, C_NULL).size
    expected = sizeof(type)
    found >= expected || mismatch(library, "$name has $found bytes, and here $expected")
    for (i, field) in enumerate(fieldnames(type))
        field === :reserved && continue
        found = place(library, name, string(field))
        expected = (offset = Int(fieldoffset(type, i)), size = sizeof(fieldtype(type, i)))
        found == expected ||
            mismatch(library, "$name.$field has $(found.size) bytes at $(found.offset), " *
                              "and here $(expected.size) at $(expected.offset)")
    end
end

function place(library, name, field)
    offset, size = Ref{Csize_t}(0), Ref{Csize_t}(0)
    status = ccall(library.functions.sonew_struct_field, Int32,
                   (Cstring, Ptr{UInt8}, Ref{Csize_t}, Ref{Csize_t}),
                   name, field, offset, size)
    status == 0 || mismatch(library, "it does not know $name" *
                                     (field == C_NULL ? "" : ".$field"))
    return (offset = Int(offset[]), size = Int(size[]))
end

mismatch(library, what) =
    throw(LibraryError("$(library.path) does not fit this package, though its version does: $what"))

# Throws an error for a status that is not SONEW_OK. Must be called right after the call
# that failed, because the message is that of this thread's last failed call.
check(status::Int32) = status == 0 ? nothing : throw_status(status)

@noinline function throw_status(status)
    name = unsafe_string(ccall(c().sonew_status_name, Ptr{UInt8}, (Int32,), status))
    message = unsafe_string(ccall(c().sonew_last_error, Ptr{UInt8}, ()))
    throw(SONewError(Symbol(name), status, in_julia(message)))
end

# A message of the library in this package's terms: hyperparameters by their names here, and
# sizes with the first dimension first. What is in quotes are names and paths.
in_julia(message) = replace(message, r"\"[^\"]*\"|\b(?:options|step)\.\w+|\bdims\b|(?<= )\[\d+(?:, \d+)*\]" => term_in_julia)

function term_in_julia(term)
    startswith(term, '"') && return term
    term == "dims" && return "size"
    startswith(term, '[') && return string(Tuple(reverse(parse.(Int, split(term[2:end-1], ", ")))))
    name = last(split(term, '.'))
    return name == "lr" ? "eta" : name
end

# A struct that a function of the library fills in: its defaults, what is asked of a handle,
# or what is asked of a handle about one of its tensors, numbered from 0.
function filled(f::Ptr{Cvoid}, ::Type{T}) where {T}
    out = Ref{T}()
    check(ccall(f, Int32, (Ptr{T}, Csize_t), out, sizeof(T)))
    return out[]
end
function filled(f::Ptr{Cvoid}, ::Type{T}, handle::Ptr{Cvoid}) where {T}
    out = Ref{T}()
    check(ccall(f, Int32, (Ptr{Cvoid}, Ptr{T}, Csize_t), handle, out, sizeof(T)))
    return out[]
end
function filled(f::Ptr{Cvoid}, ::Type{T}, handle::Ptr{Cvoid}, tensor::Integer) where {T}
    out = Ref{T}()
    check(ccall(f, Int32, (Ptr{Cvoid}, Csize_t, Ptr{T}, Csize_t), handle, tensor, out,
                sizeof(T)))
    return out[]
end
