# The numbers that this package has from include/sonew.h.

header = read(joinpath(REPOSITORY, "include", "sonew.h"), String)

# The values of an enum of the header, by name.
function enum(type)
    body = match(Regex("enum \\{((?:(?!typedef).)*?)\\};\ntypedef int32_t $type;", "s"), header)[1]
    return Dict(m[1] => parse(Int, m[2]) for m in eachmatch(r"^\s*SONEW_(\w+) = (\d+),"m, body))
end

upper(values, prefix = "") =
    Dict(prefix * uppercase(string(name)) => value for (name, value) in pairs(values))

@test enum("sonew_statistics") == upper(SONew.STATISTICS)
@test enum("sonew_damping") == upper(SONew.DAMPING)
@test enum("sonew_graft") == upper(SONew.GRAFT, "GRAFT_")
@test enum("sonew_pooling") == upper(SONew.POOLING, "POOLING_")
@test enum("sonew_rounding") == upper(SONew.ROUNDING)
@test enum("sonew_isa") == upper(SONew.INSTRUCTION_SET, "ISA_")
@test enum("sonew_update") == upper(SONew.UPDATE, "UPDATE_")
@test enum("sonew_non_finite") == upper(SONew.NON_FINITE)
@test enum("sonew_load_mode") == upper(SONew.LOAD_MODE)
@test enum("sonew_dtype") == Dict("DTYPE_DEFAULT" => 0, "F32" => SONew.F32, "F64" => SONew.F64,
                                  "BF16" => SONew.BF16, "F16" => SONew.F16)
@test enum("sonew_chains") == upper(SONew.CHAINS)
@test occursin("#define SONEW_MAX_DIMS $(SONew.MAX_DIMS)\n", header)
@test occursin("#define SONEW_SCALARS $(SONew.SCALARS)\n", header)

# The type of statuses is declared before all functions.
of_statuses = match(r"enum \{((?:(?!enum).)*?SONEW_OK = 0,.*?)\};\n"s, header)[1]
statuses = Dict(m[1] => parse(Int, m[2]) for m in eachmatch(r"^\s*SONEW_(\w+) = (\d+),"m, of_statuses))
for (status, number) in (SONew.NON_FINITE_GRADIENT, SONew.OUT_OF_RANGE, SONew.BAD_HANDLE, SONew.NO_TENSORS, SONew.TOO_MANY_DIMENSIONS,
                         SONew.TENSOR_COUNT, SONew.WRONG_LENGTH, SONew.PLANE_COUNT,
                         SONew.UNKNOWN_TENSOR, SONew.UNKNOWN_PLANE, SONew.NOT_CONTIGUOUS,
                         SONew.OVERLAP, SONew.PLANE_MISSING)
    @test statuses[string(status)[7:end]] == number
end
@test statuses["BUSY"] == SONew.BUSY

# Every struct of the header has its fields here, in their order.
for (type, name) in SONew.STRUCTS
    body = match(Regex("\nstruct $name \\{(.*?)\n\\};", "s"), header)[1]
    code = replace(body, r"/\*.*?\*/"s => "")
    fields = [Symbol(m[1]) for m in eachmatch(r"(\w+)(?:\[\w+\])?;", code)]
    @test fields == collect(fieldnames(type))
end

# Every function of the header is called here, but for the step in stages, for those that fill
# in the defaults of structs that are filled in here, for the options of an optimizer, which its
# rule has, and for pointers into one buffer, which views of an array are here.
declared = Symbol.(getindex.(eachmatch(r"^(?:sonew_status |const char \*)(sonew_\w+)\("m, header), 1))
@test length(unique(declared)) == length(declared) > 40
@test setdiff(declared, SONew.FUNCTIONS) ==
      [:sonew_flat_pointers, :sonew_load_options_init, :sonew_tensors_init,
       :sonew_get_options, :sonew_buffers_init, :sonew_stages_begin,
       :sonew_plan_stages_begin, :sonew_stages_next, :sonew_stages_abort, :sonew_stages_blocks,
       :sonew_block_rows]
@test issubset(SONew.FUNCTIONS, declared)

# One version for the library, its header and this package.
@test SONew.version() == SONew.HEADER_VERSION
project_file = read(joinpath(dirname(@__DIR__), "Project.toml"), String)
@test occursin("version = \"$(SONew.HEADER_VERSION)\"", project_file)

# The package manager of this Julia reads Project.toml, also where it knows no extensions.
activate = "push!(LOAD_PATH, \"@stdlib\"); using Pkg; Pkg.activate(\"$(dirname(@__DIR__))\"); Pkg.status()"
activated = other_julia(`-e $activate`)
activated.success || println(activated.printed)
@test activated.success && occursin("SONew v$(SONew.HEADER_VERSION)", activated.printed)
