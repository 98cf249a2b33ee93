# The stateless step, for callers that keep the state in arrays of their own.

"""
    SONew.Plan(rule, x)
    SONew.Plan(rule, eltype, size)

Everything that does not change between steps of one array like `x`. The caller keeps the
state: [`SONew.zero_planes`](@ref) makes it, [`SONew.direction!`](@ref) updates it. A plan
gives the same bits as an optimizer, and is freed in the same way. Tasks and threads may
share it.
"""
mutable struct Plan
    handle::Ptr{Cvoid}
    rule::SONewRule
    info::TensorInfo
    plane_names::Vector{String}
    plane_types::Vector{DataType}
    plane_sizes::Vector{Vector{Int}}
    lock::ReentrantLock
    # When the extension of Optimisers.jl last used it, counted in uses of all plans.
    used::Int
    self::UInt
end

Plan(rule::SONewRule, x::AbstractArray) = Plan(rule, eltype(x), size(x))
function Plan(rule::SONewRule, type::DataType, size::Dims)
    check_kind("array", type, length(size))
    info = TensorInfo("array", collect(Int, size), type, something(rule.grad_dtype, type))
    plan = owner_of(:sonew_plan_free,
                    Plan(C_NULL, rule, info, String[], DataType[], Vector{Int}[],
                         ReentrantLock(), 0, 0))
    list = [tensor(info.name, size, type, rule)]
    GC.@preserve info create!(plan, c().sonew_plan_create, list)
    for plane in arrays_of(filled(c().sonew_plan_planes, Planes, plan.handle, 0))
        push!(plan.plane_names, plane.name)
        push!(plan.plane_types, plane.type)
        push!(plan.plane_sizes, plane_size(rule, plane.name, info.size, plane.len))
    end
    return plan
end

# The arrays that the library lists: their names, types and numbers of elements.
arrays_of(list::Planes) =
    [(name = unsafe_string(unsafe_load(list.names, i)),
      type = element_type(unsafe_load(list.dtypes, i)), len = Int(unsafe_load(list.lens, i)))
     for i in 1:Int(list.count)]

function Base.close(plan::Plan)
    plan.handle == C_NULL || protected(_ -> check(release(plan, :sonew_plan_free)), plan)
    return
end
Base.isopen(plan::Plan) = is_itself(plan) && plan.handle != C_NULL
Base.show(io::IO, plan::Plan) =
    print(io, "SONew.Plan(", plan.rule, ", ", plan.info.type, ", ", Tuple(plan.info.size), ", ",
          isopen(plan) ? "open" : "closed", ")")

"""
    SONew.zero_planes(plan) -> Vector

The state before the first step: one array for each of `plan.plane_names`. With master
weights, copy the parameters to the last one.
"""
zero_planes(plan::Plan) = Any[fill!(Array{T}(undef, size...), zero_of(T))
                              for (T, size) in zip(plan.plane_types, plan.plane_sizes)]

"""
    SONew.zero_scalars() -> Vector{Float64}

The numbers of an array's state besides its planes, before the first step: see
[`SONew.get_settings`](@ref).
"""
zero_scalars() = zeros(Float64, SCALARS)

zero_of(::Type{T}) where {T} = zero(T)
zero_of(::Type{BFloat16}) = reinterpret(BFloat16, 0x0000)

"""
    SONew.direction!(u, plan, planes, grad, step_number; grad_scale, ..., scalars, beta1, beta2)

Updates the state `planes` from `grad`, and writes the grafted direction to `u`, an array
like the parameters. The caller then applies `x .-= eta .* (u .+ weight_decay .* x)`.
`step_number` is 1 in the first step. With the damping `:relative_lagged`, which is the
default, with `lagged_norms`, and for a step with a `beta1` or `beta2` of its own, `scalars`
are the numbers from [`SONew.zero_scalars`](@ref), which it updates, too. Returns `u`.

Every array has the size of the parameters (the plane `"pooled"` that of
[`SONew.zero_planes`](@ref)) and the element type that the plan was made for: another size is refused with a [`SONewError`](@ref), another type with an
`ArgumentError`, and nothing is changed then. An optimizer goes on from `planes` and
`scalars` after [`SONew.set_state!`](@ref).
"""
function direction!(u::AbstractArray, plan::Plan, planes, grad::AbstractArray,
                    step_number::Integer; eta::Real = plan.rule.eta,
                    grad_scale::Real = plan.rule.grad_scale,
                    clip_norm::Real = plan.rule.clip_norm,
                    statistics_weight::Real = plan.rule.statistics_weight,
                    non_finite::Symbol = plan.rule.non_finite,
                    scalars::Union{Nothing,Vector{Float64}} = nothing,
                    beta1::Union{Nothing,Real} = nothing,
                    beta2::Union{Nothing,Real} = nothing, weight_decay::Real = 0)
    info = plan.info
    step = step_options(eta, grad_scale, statistics_weight, clip_norm, non_finite;
                        beta1 = beta1, beta2 = beta2)
    scalars === nothing || check_scalars(scalars, info.name)
    length(planes) == length(plan.plane_types) || refuse(
        PLANE_COUNT, "there are ", length(planes), " state planes, expected ",
        length(plan.plane_types))
    protected(plan) do handle
        GC.@preserve u planes grad scalars begin
            kinds = zip(planes, plan.plane_types, plan.plane_names, plan.plane_sizes)
            pointers = Ptr{Cvoid}[fitting(p, info, T, "state plane $name of", size)
                                  for (p, T, name, size) in kinds]
            GC.@preserve pointers begin
                buffers = Buffers(
                    sizeof(Buffers), C_NULL, fitting(u, info, info.type, "the direction of"),
                    fitting(grad, info, info.grad_type, "the gradient of"), pointer(pointers),
                    length(pointers), length(u), 1, weight_decay, 0,
                    scalars === nothing ? C_NULL : pointer(scalars))
                check(ccall(c().sonew_plan_step, Int32,
                            (Ptr{Cvoid}, Ref{StepOptions}, UInt64, Ref{Buffers}, Csize_t),
                            handle, step, as(UInt64, step_number, "step_number"), buffers, 1))
            end
        end
    end
    return u
end

# Plans for the extension of Optimisers.jl, whose state is plain arrays: one for all
# arrays of the same type and size, which is kept for the next step. A task takes a plan
# out while it uses it, so that no other one can close it.
#
# What changes from step to step goes to the step, and is in no plan. Of plans that differ in
# nothing but other numbers, the last few are kept, so that each of a few groups can have its
# own; of all plans together, those of a large model.
const KEPT_PLANS = 4
const MOST_PLANS = 512

# The hyperparameters of a plan, and the same without any numbers, which plans are sorted by.
struct PlanRule
    rule::SONewRule
    group::SONewRule
end

function PlanRule(rule::SONewRule)
    d = DEFAULTS[]
    own = SONewRule(rule; eta = d.eta, weight_decay = 0, grad_scale = 1, clip_norm = 0,
                    statistics_weight = 1, non_finite = :skip, beta1 = d.beta1, beta2 = d.beta2)
    return PlanRule(own, SONewRule(own; eps = 0, gamma = 0, graft_eps = 0, shrink = 0))
end

const PLANS = Dict{Tuple{SONewRule,DataType,Dims},Vector{Plan}}()
const PLANS_LOCK = ReentrantLock()
const USES = Ref(0)

kept_plans() = lock(() -> sum(Int[length(plans) for plans in values(PLANS)]), PLANS_LOCK)
forget_plans() = lock(() -> (empty!(PLANS); nothing), PLANS_LOCK)

# Calls f with a plan for arrays of this type and size.
function with_plan(f, rule::PlanRule, type::DataType, size::Dims)
    key = (rule.group, type, size)
    kept = lock(PLANS_LOCK) do
        plans = get(PLANS, key, nothing)
        plans === nothing && return nothing
        i = findlast(plan -> plan.rule === rule.rule, plans)
        return i === nothing ? nothing : popat_at!(plans, i)
    end
    plan = kept === nothing ? Plan(rule.rule, type, size) : kept
    try
        return f(plan)
    finally
        foreach(close, lock(() -> put_back!(plan, key, kept === nothing), PLANS_LOCK))
    end
end

# Keeps a plan as the last one that was used. Returns those for which there is no room.
function put_back!(plan, key, is_new)
    plans = get!(() -> Plan[], PLANS, key)
    plan.used = USES[] += 1
    push!(plans, plan)
    without = length(plans) > KEPT_PLANS ? [popfirst!(plans)] : Plan[]
    if is_new
        for _ in 1:kept_plans()-MOST_PLANS
            oldest = argmin_by(plans -> isempty(plans) ? typemax(Int) : first(plans).used, PLANS)
            push!(without, popfirst!(PLANS[oldest]))
            isempty(PLANS[oldest]) && delete!(PLANS, oldest)
        end
    end
    return without
end

# The key with the smallest f(value).
argmin_by(f, dict) = first(reduce((a, b) -> f(last(b)) < f(last(a)) ? b : a, dict))

# Refuses what the library refuses in the numbers of a rule, by a step of a single zero that
# changes nothing.
function check_numbers(rule::SONewRule, plans::PlanRule = PlanRule(rule))
    try
        with_plan(plan -> take_no_step(plan, rule), plans, Float32, (1,))
    catch e
        e isa SONewError || rethrow()
        throw(SONewError(e.status, e.code, replace(e.message, " of tensor \"array\"" => "")))
    end
    return
end

take_no_step(plan, rule) =
    direction!(zeros(Float32, 1), plan, zero_planes(plan),
               [zero_of(plan.info.grad_type)], 1; eta = rule.eta, grad_scale = rule.grad_scale,
               clip_norm = rule.clip_norm, statistics_weight = rule.statistics_weight,
               non_finite = rule.non_finite, scalars = zero_scalars(), beta1 = rule.beta1,
               beta2 = rule.beta2, weight_decay = rule.weight_decay)

# Julia 1.5 has no popat!.
function popat_at!(list, i)
    item = list[i]
    deleteat!(list, i)
    return item
end

"""
    SONew.optimisers_rule(rule::SONewRule)

Converts the rule to one of Optimisers.jl, for `Optimisers.setup`, `Flux.setup` and
`OptimiserChain`. Needs Julia 1.9 and `using Optimisers`. Optimisers.jl takes a separate
step for each array; [`step!`](@ref) takes one for all arrays, and is faster. Its
hyperparameters are read as those of other rules, as in `rule.eta`.

Numbers out of range are refused here, and by `Optimisers.adjust!`, with a
[`SONewError`](@ref). A gradient that is not finite is refused before any array is updated,
if the rule stands alone or at the end of an `OptimiserChain` of up to four rules (in a
chain: one with a NaN; other rules may make an infinity finite).
"""
optimisers_rule(rule::SONewRule) = throw(ArgumentError(
    "optimisers_rule needs Optimisers.jl, and Julia 1.9 or newer: write `using Optimisers` first"))
