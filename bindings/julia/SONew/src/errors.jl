"""
    SONewError

Thrown by a call that the library, or this package, refuses. Nothing has changed then:
no parameter, no state, no file, no step count.
(Arguments of another type or structure than a function takes throw an `ArgumentError`
instead, and nothing has changed then either.)

- `status`: the name of the status, such as `:SONEW_OUT_OF_RANGE`;
- `code`: its number, which never changes;
- `message`: which argument, which tensor, which value.

`:SONEW_NON_FINITE_GRADIENT` is not a mistake of the caller: with loss scaling, lower the
scale and continue.
"""
struct SONewError <: Exception
    status::Symbol
    code::Int32
    message::String
end

Base.showerror(io::IO, e::SONewError) =
    print(io, "SONewError: ", e.message, " (", e.status, ")")

# The statuses that this package itself throws.
const NON_FINITE_GRADIENT = (:SONEW_NON_FINITE_GRADIENT, Int32(1))
const OUT_OF_RANGE = (:SONEW_OUT_OF_RANGE, Int32(107))
const BAD_HANDLE = (:SONEW_BAD_HANDLE, Int32(101))
const NO_TENSORS = (:SONEW_NO_TENSORS, Int32(200))
const TOO_MANY_DIMENSIONS = (:SONEW_TOO_MANY_DIMENSIONS, Int32(203))
const TENSOR_COUNT = (:SONEW_TENSOR_COUNT, Int32(206))
const WRONG_LENGTH = (:SONEW_WRONG_LENGTH, Int32(207))
const PLANE_COUNT = (:SONEW_PLANE_COUNT, Int32(208))
const UNKNOWN_TENSOR = (:SONEW_UNKNOWN_TENSOR, Int32(209))
const UNKNOWN_PLANE = (:SONEW_UNKNOWN_PLANE, Int32(210))
const NOT_CONTIGUOUS = (:SONEW_MISALIGNED, Int32(220))
const OVERLAP = (:SONEW_OVERLAP, Int32(221))
const PLANE_MISSING = (:SONEW_PLANE_MISSING, Int32(413))

refuse(status, message...) = throw(SONewError(status..., string(message...)))

"""
    LibraryError

The library `libsonew` was not found, or this package cannot use the one that was found:
it has another version, or other structs. The message says where it was looked for and
what to do.
"""
struct LibraryError <: Exception
    message::String
end

Base.showerror(io::IO, e::LibraryError) = print(io, "SONew.LibraryError: ", e.message)
