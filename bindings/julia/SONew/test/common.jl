# What the tests share.

module Common

using SONew
using SONew: BFloat16

export REPOSITORY, CC, bits, same_bits, numbers, refusal, refused, argument_error,
       other_julia, package_julia, has_package, extended, load_extension

const REPOSITORY = normpath(joinpath(@__DIR__, "..", "..", "..", ".."))

# The bits of numbers, so that NaN equals NaN and 0 is not -0.
bits(x::AbstractArray) = reinterpret(unsigned_of(eltype(x)), vec(collect(x)))
unsigned_of(T) = sizeof(T) == 2 ? UInt16 : sizeof(T) == 4 ? UInt32 : UInt64
same_bits(a, b) = eltype(a) === eltype(b) && size(a) == size(b) && bits(a) == bits(b)

# An array of a type that may have no random numbers of its own.
numbers(rng, ::Type{T}, size...) where {T} = map(T, randn(rng, Float32, size...))
numbers(rng, ::Type{BFloat16}, size...) =
    map(x -> reinterpret(BFloat16, reinterpret(UInt32, x) >> 16 % UInt16), randn(rng, Float32, size...))

# The SONewError that f throws; a test fails where it throws none.
function refusal(f)
    try
        f()
    catch e
        e isa SONewError && return e
        rethrow()
    end
    return nothing
end

# That f is refused with this status and a message with these words.
function refused(f, status, words...)
    e = refusal(f)
    e === nothing && (println("not refused"); return false)
    fits = e.status === status && all(w -> occursin(w, e.message), words)
    fits || println("refused otherwise: ", sprint(showerror, e))
    return fits
end

# That f throws an ArgumentError with these words.
function argument_error(f, words...)
    try
        f()
    catch e
        e isa ArgumentError || rethrow()
        fits = all(w -> occursin(w, e.msg), words)
        fits || println("thrown otherwise: ", e.msg)
        return fits
    end
    return false
end

# Another Julia with this package, or with the one at `package`, with some environment
# variables set, or deleted where they are `nothing`.
function package_julia(arguments::Cmd; package = dirname(@__DIR__), threads = 1, environment...)
    variables = Dict{String,String}(ENV)
    for (key, value) in environment
        value === nothing ? delete!(variables, string(key)) :
                            (variables[string(key)] = value)
    end
    return setenv(`$(Base.julia_cmd()) --startup-file=no --project=$package -t $threads $arguments`, variables)
end

# Runs it: whether it succeeded, and what it printed.
function other_julia(arguments::Cmd; keywords...)
    out = tempname()
    command = ignorestatus(package_julia(arguments; keywords...))
    process = run(pipeline(command; stdout = out, stderr = out, append = true))
    return (success = process.exitcode == 0 && process.termsignal == 0,
            crashed = process.termsignal != 0, printed = read(out, String))
end

# Whether a package is installed that a test needs; if not, says that the test is left out.
function has_package(name)
    found = Base.find_package(name) !== nothing
    found || @info "NOT TESTED: what needs the package $name, which is not installed"
    return found
end

# Whether Julia has loaded an extension of the package, which it does from 1.9 on.
extended(name) = isdefined(Base, :get_extension) && Base.get_extension(SONew, name) !== nothing

# Loads an extension where Julia has not.
load_extension(name) = extended(name) || isdefined(Common, name) ||
                       Base.include(Common, joinpath(dirname(@__DIR__), "ext", "$name.jl"))

# A C compiler, which the tests need; CC names another one.
const CC = get(ENV, "CC", "cc")

end
