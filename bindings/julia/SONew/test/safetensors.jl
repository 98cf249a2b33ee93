# A reader of safetensors files, with as much JSON as their headers have: objects,
# arrays, strings, whole numbers. Independent of the library.

module Safetensors

export read_safetensors, array

struct Entry
    dtype::String
    shape::Vector{Int}
    bytes::Vector{UInt8}
    # Where in the file its first byte is, counted from 1.
    place::Int
end

struct File
    metadata::Dict{String,Any}
    tensors::Dict{String,Entry}
end

function read_safetensors(path)
    bytes = read(path)
    n = Int(ltoh(reinterpret(UInt64, bytes[1:8])[1]))
    header, rest = value(String(bytes[9:8+n]), 1)
    data = bytes[9+n:end]
    metadata = pop!(header, "__metadata__", Dict{String,Any}())
    tensors = Dict{String,Entry}()
    for (name, t) in header
        from, to = t["data_offsets"]
        tensors[name] = Entry(t["dtype"], Vector{Int}(t["shape"]), data[from+1:to],
                              9 + n + from)
    end
    return File(metadata, tensors)
end

# The array of a tensor, with its dimensions the Julia way round: the first one, the
# fastest, is the last of the file.
function array(file::File, name)
    t = file.tensors[name]
    type = Dict("F32" => Float32, "F64" => Float64, "F16" => Float16, "BF16" => UInt16,
                "U8" => UInt8, "I64" => Int64, "U64" => UInt64)[t.dtype]
    return reshape(collect(reinterpret(type, t.bytes)), reverse(t.shape)...)
end

skip(s, i) = (while i <= ncodeunits(s) && s[i] in " \t\r\n"; i += 1; end; i)

# The value at i, and where it ends.
function value(s, i)
    i = skip(s, i)
    s[i] == '{' && return object(s, i)
    s[i] == '[' && return list(s, i)
    s[i] == '"' && return text(s, i)
    j = i
    while j <= ncodeunits(s) && (isdigit(s[j]) || s[j] == '-')
        j += 1
    end
    return parse(Int, s[i:j-1]), j
end

function object(s, i)
    found = Dict{String,Any}()
    i = skip(s, i + 1)
    while s[i] != '}'
        key, i = text(s, i)
        i = skip(s, i)
        @assert s[i] == ':'
        found[key], i = value(s, i + 1)
        i = skip(s, i)
        s[i] == ',' && (i = skip(s, i + 1))
    end
    return found, i + 1
end

function list(s, i)
    found = Any[]
    i = skip(s, i + 1)
    while s[i] != ']'
        v, i = value(s, i)
        push!(found, v)
        i = skip(s, i)
        s[i] == ',' && (i = skip(s, i + 1))
    end
    return found, i + 1
end

function text(s, i)
    @assert s[i] == '"'
    out = IOBuffer()
    i = nextind(s, i)
    while s[i] != '"'
        if s[i] == '\\'
            i += 1
            if s[i] == 'u'
                print(out, Char(parse(UInt16, s[i+1:i+4]; base = 16)))
                i += 4
            else
                print(out, get(Dict('n' => '\n', 't' => '\t', 'r' => '\r', 'b' => '\b',
                                    'f' => '\f'), s[i], s[i]))
            end
        else
            print(out, s[i])
        end
        i = nextind(s, i)
    end
    return String(take!(out)), i + 1
end

end
