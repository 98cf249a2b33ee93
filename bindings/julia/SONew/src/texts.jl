# Texts of the program, which checkpoints keep beside the state.

"""
    SONew.set_text!(opt, key, text)

Keeps a text of the program under a key, in place of the one that had it: the position of its
data loader, the state of its random generator, the epoch. Every save writes the texts of the
optimizer together with its state, and every load replaces them by those of the file.
`nothing` removes the text of the key. `SONew.contents(path).texts` reads them without an
optimizer. Returns `opt`.

A key is not empty and has no control characters; there may be 1000 texts. A live file has
none: with one, a text is refused with `:SONEW_LIVE_TEXT`.
"""
function set_text!(opt::Optimizer, key::AbstractString, text::Union{Nothing,AbstractString})
    name, value = only(checked_texts((key => text,)))
    protected(handle -> put_text(handle, name, value), opt)
    return opt
end

"""
    SONew.get_text(opt, key) -> String or nothing

The text of a key, or `nothing` if there is none.
"""
get_text(opt::Optimizer, key::AbstractString) =
    protected(handle -> text_of(handle, c_name(key)), opt)

put_text(handle, key::String, text) =
    check(ccall(c().sonew_set_text, Int32, (Ptr{Cvoid}, Cstring, Ptr{UInt8}), handle, key,
                text === nothing ? C_NULL : text))

function text_of(handle, key::String)
    text = Ref{Ptr{UInt8}}(C_NULL)
    check(ccall(c().sonew_get_text, Int32, (Ptr{Cvoid}, Cstring, Ptr{Ptr{UInt8}}), handle, key,
                text))
    return text[] == C_NULL ? nothing : unsafe_string(text[])
end

# Pairs of a key and a text, or `nothing`, as the library takes them.
checked_texts(texts) = [(a_text(key, key), text === nothing ? nothing : a_text(key, text))
                        for (key, text) in texts]
a_text(key, text::AbstractString) = c_name(text)
a_text(key, text) = throw(ArgumentError(
    "texts has $(repr(text)) under $(repr(key)): keys and texts are strings"))

# Runs f while the optimizer has these texts, which it keeps. If f fails, those that were
# there before are back.
function with_texts(f, handle, texts)
    before = [(key, text_of(handle, key)) for (key, _) in texts]
    try
        foreach(((key, text),) -> put_text(handle, key, text), texts)
        return f()
    catch
        foreach(((key, text),) -> put_text(handle, key, text), before)
        rethrow()
    end
end

# All texts of a file.
function texts_of(file, contents::Contents)
    found = Dict{String,String}()
    for i in 1:Int(contents.text_count)
        key, text = unsafe_load(contents.text_keys, i), Ref{Ptr{UInt8}}(C_NULL)
        check(ccall(c().sonew_file_text, Int32, (Ptr{Cvoid}, Ptr{UInt8}, Ptr{Ptr{UInt8}}),
                    file, key, text))
        found[unsafe_string(key)] = unsafe_string(text[])
    end
    return found
end
