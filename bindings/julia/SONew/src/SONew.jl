"""
SONew, the Sparsified Online Newton method (arXiv 2311.10085): a second-order
optimizer whose time and memory are proportional to the number of parameters: with the
defaults a step takes about twice as long as a fused AdamW's. This package calls
the C library `libsonew`, whose manual is `include/sonew.h`.

    using SONew
    model = (W = randn(Float32, 784, 100), b = zeros(Float32, 100))
    opt = setup(SONewRule(eta = 1e-3), model)
    for batch in batches
        grads = gradients(model, batch)      # (W = ..., b = ...)
        step!(opt, model, grads)             # updates the arrays of model
    end
    save(opt, "step-1000.safetensors", model)
    close(opt)

The library is looked for at the path in the environment variable `SONEW_LIBRARY`, at that
in the preference `library`, near the package, and on the system's library path; see
[`LibraryError`](@ref).
"""
module SONew

import Libdl
import Random
import Serialization

export SONewRule, SONewError, setup, step!, update!, adjust!
export save, load, load!, make_live!, sync, verify, save_begin, save_finish
export plane, planes, plane_names, tensor_names, step_count

include("bfloat16.jl")
include("errors.jl")
include("structs.jl")
include("library.jl")
include("handles.jl")
include("pool.jl")
include("rule.jl")
include("memory.jl")
include("tree.jl")
include("optimizer.jl")
include("step.jl")
include("planes.jl")
include("texts.jl")
include("files.jl")
include("info.jl")
include("plan.jl")
include("copies.jl")

function __init__()
    LIBRARY[] = open_library()
    DEFAULTS[] = library_defaults()
    PROCESS[] = rand(Random.RandomDevice(), UInt)
    forget_plans()
end

include("workload.jl")

end
