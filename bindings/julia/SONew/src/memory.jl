# Addresses of arrays. The library takes the address of the first element, so that an
# array must be contiguous in the host's memory, with its first dimension fastest.

# The address of an array. `what` names it for messages, as in "the gradient of W".
address(x::Array, what) = convert(Ptr{Cvoid}, pointer(x))
function address(x::AbstractArray, what)
    isbits(x) && not_contiguous(x, what, "is a value without a place in memory")
    steps = attempt(strides, x)
    steps === nothing && not_contiguous(x, what, "does not tell its strides in memory")
    contiguous(size(x), steps) ||
        not_contiguous(x, what, "has size $(size(x)) and strides $steps: it is not contiguous")
    place = attempt(pointer, x)
    place isa Ptr || not_contiguous(x, what, "is not in the host's memory")
    return convert(Ptr{Cvoid}, place)
end

function attempt(f, x)
    try
        return f(x)
    catch e
        e isa InterruptException && rethrow()
        return nothing
    end
end

@noinline not_contiguous(x, what, why) = refuse(
    NOT_CONTIGUOUS, what(), ", of type ", nameof(typeof(x)), ", ", why,
    "; pass a copy, as by collect(x), and copy back what is to be updated")

function contiguous(size, strides)
    expected = 1
    for (n, stride) in zip(size, strides)
        n == 1 || stride == expected || return false
        expected *= n
    end
    return true
end
