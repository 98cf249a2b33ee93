# What a first training calls, called once while the package is compiled, so that Julia keeps
# the compiled code. Julia does that for what a module runs; PrecompileTools, which would be
# the package's only dependency, would add what it calls of others.

function workload(path)
    model = (layers = ((weight = zeros(Float32, 3, 2), bias = zeros(Float32, 3)),),
             scale = zeros(Float32, 2))
    grads = (layers = ((weight = ones(Float32, 3, 2), bias = nothing),), scale = ones(Float32, 2))
    rule = SONewRule(eta = 1e-2, chains = :strided, threads = 1)
    opt = setup(rule, model; hyperparameters = (name, x) ->
        ndims(x) == 1 ? (update = :adam,) : NamedTuple())
    step!(opt, model, grads)
    step!(opt, model, grads; eta = 1e-3)
    adjust!(opt, 1e-3)
    show(devnull, opt)
    copy(plane(opt, "scale", "momentum"))
    save(opt, path, model)
    close(load(path, model; threads = 1))
    close(opt)
    x = zeros(Float32, 2)
    plan = Plan(rule, x)
    direction!(similar(x), plan, zero_planes(plan), ones(Float32, 2), 1;
               scalars = zero_scalars())
    close(plan)
end

# Without a library, or with one of another version, the package is compiled as well.
function run_workload()
    try
        __init__()
    catch e
        e isa LibraryError || rethrow()
        return
    end
    mktempdir(dir -> workload(joinpath(dir, "workload.safetensors")))
    forget_plans()
    return
end

ccall(:jl_generating_output, Cint, ()) == 1 && run_workload()
