# Which library is used, and what happens where it is missing or another one.

using SONew: LibraryError, open_library

dir = mktempdir()
stub(f) = "int $f(void) { return 900; }\n"

# A library in C that has all functions, and answers what it is asked for when it is
# opened.
function fake(name; version = SONew.HEADER_VERSION, without = (), other = Dict(), unknown = "none")
    code = "#include <stddef.h>\n#include <string.h>\n" *
           "const char *sonew_version(void) { return \"$version\"; }\n" *
           "int sonew_struct_field(const char *s, const char *f, size_t *offset, size_t *size) {\n" *
           "    if (!strcmp(s, \"$unknown\")) return 211;\n"
    for (type, c_name) in SONew.STRUCTS
        places = ["" => (0, sizeof(type));
                  [string(field) => (fieldoffset(type, i), sizeof(fieldtype(type, i)))
                   for (i, field) in enumerate(fieldnames(type))]]
        for (field, place) in places
            offset, size = get(other, "$c_name.$field", Int.(place))
            same_field = field == "" ? "!f" : "f && !strcmp(f, \"$field\")"
            code *= "    if (!strcmp(s, \"$c_name\") && $same_field) " *
                    "{ *offset = $offset; *size = $size; return 0; }\n"
        end
    end
    code *= "    return 211;\n}\n"
    for f in SONew.FUNCTIONS
        f in without || f in (:sonew_version, :sonew_struct_field) || (code *= stub(f))
    end
    source, library = joinpath(dir, name * ".c"), joinpath(dir, "lib$name.so")
    write(source, code)
    run(`$CC -shared -fPIC -o $library $source`)
    return library
end

function library_error(path, words...)
    try
        open_library(path)
    catch e
        e isa LibraryError || rethrow()
        fits = all(w -> occursin(w, e.message), words)
        fits || println("thrown otherwise: ", e.message)
        return fits
    end
    return false
end

# The fake is good enough to be taken, so that what follows is refused for its reason.
good = fake("good")
@test open_library(good).path == good
ours = SONew.HEADER_VERSION
newer_patch = VersionNumber(ours.major, ours.minor, ours.patch + 7)
newer = VersionNumber(ours.major, ours.minor + 1, 0)
@test open_library(fake("newer_patch"; version = newer_patch)).path != good
@test open_library(fake("grown"; other = Dict("sonew_options." => (0, 200)))).path != good
@test library_error(fake("newer"; version = newer), "is libsonew $newer", "is for $ours")
@test library_error(fake("major"; version = v"1.0.0"), "is libsonew 1.0.0")
@test library_error(fake("shrunk"; other = Dict("sonew_options." => (0, 96))),
                    "does not fit", "sonew_options has 96 bytes")
@test library_error(fake("moved"; other = Dict("sonew_step_options.lr" => (16, 8))),
                    "sonew_step_options.lr has 8 bytes at 16", "8 at 8")
@test library_error(fake("narrow"; other = Dict("sonew_tensor.chains" => (88, 1))),
                    "sonew_tensor.chains has 1 bytes")
@test library_error(fake("stranger"; unknown = "sonew_view"), "does not know sonew_view")
@test library_error(fake("lacking"; without = (:sonew_plane_view,)), "no function sonew_plane_view")
write(joinpath(dir, "text.so"), "not a library")
@test library_error(joinpath(dir, "text.so"), "cannot be opened", "text.so")
@test library_error(joinpath(dir, "none.so"), "cannot be opened", "none.so")
write(joinpath(dir, "empty.c"), "int nothing;\n")
run(`$CC -shared -o $(joinpath(dir, "libempty.so")) $(joinpath(dir, "empty.c"))`)
@test library_error(joinpath(dir, "libempty.so"), "no function sonew_version", "is not libsonew")
# The library in use stays in use.
@test step_count(setup(SONewRule(), [1.0f0])) == 0

# When the package is loaded. A copy of it that has no library near.
lonely = joinpath(dir, "SONew")
cp(dirname(@__DIR__), lonely)
# (No cache of compiled code: a moment later the same path has another library beside it.)
prints = "using SONew; println(\"found \", SONew.library_path())"
loading(; settings...) = other_julia(`--compiled-modules=no -e $prints`; package = lonely,
                                     SONEW_LIBRARY = nothing, settings...)
missing_one = loading()
@test !missing_one.success && !missing_one.crashed
@test occursin("libsonew was not found", missing_one.printed)
@test occursin("cargo build --release", missing_one.printed)
@test occursin(joinpath(lonely, "lib", "libsonew.so"), missing_one.printed)
wrong = loading(SONEW_LIBRARY = joinpath(dir, "nowhere.so"))
@test !wrong.success && !wrong.crashed && occursin("SONEW_LIBRARY names it", wrong.printed)
mismatched = loading(SONEW_LIBRARY = joinpath(dir, "libnewer.so"))
@test !mismatched.success && !mismatched.crashed && occursin("is libsonew $newer", mismatched.printed)
moved = loading(SONEW_LIBRARY = joinpath(dir, "libmoved.so"))
@test !moved.success && !moved.crashed && occursin("sonew_step_options.lr", moved.printed)
# Each way to find it.
real = SONew.library_path()
named = loading(SONEW_LIBRARY = real)
@test named.success && occursin("found $real", named.printed)
mkdir(joinpath(dir, "system"))
cp(real, joinpath(dir, "system", "libsonew.so"))
old = get(ENV, "LD_LIBRARY_PATH", "")
system = loading(LD_LIBRARY_PATH = joinpath(dir, "system") * (isempty(old) ? "" : ":" * old))
@test system.success && occursin("found $(joinpath(dir, "system"))", system.printed)
# A preference of the project, which the environment variable overrules. Julia has them since 1.6.
if isdefined(Base, :get_preferences)
    preferences = joinpath(lonely, "LocalPreferences.toml")
    prefer(path) = write(preferences, "[SONew]\nlibrary = \"$path\"\n")
    prefer(real)
    @test occursin("found $real", loading().printed)
    prefer(joinpath(dir, "nowhere.so"))
    preferred = loading()
    @test !preferred.success && !preferred.crashed
    @test occursin("the preference library of SONew names it", preferred.printed)
    @test occursin("found $real", loading(SONEW_LIBRARY = real).printed)
    rm(preferences)
end
mkdir(joinpath(lonely, "lib"))
cp(real, joinpath(lonely, "lib", "libsonew.so"))
beside = loading()
@test beside.success && occursin("found $(joinpath(lonely, "lib"))", beside.printed)
