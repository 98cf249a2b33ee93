# Copies of optimizers. Other owners of handles can neither be copied nor, as optimizers,
# written by packages for any object: memory and threads of the library are no part of them.
const Owner = Union{Optimizer,Plan,Pool,Saving}

"""
    copy(opt::SONew.Optimizer) -> Optimizer

Another optimizer with the rule, arrays, settings, texts and state of this one; `deepcopy`
makes the same. Its state is in memory, also if that of the original is in a file, and both
use one pool. From then on both give the same bits for the same steps, and each is freed by
itself. Copy the model as well: an optimizer holds no parameters but master weights. (Master
weights that [`SONew.reset_master!`](@ref) has discarded are not copied.)

A view of the state is copied to an array by `copy(view)`, and `deepcopy` refuses it. Plans,
pools and saves cannot be copied.
"""
function Base.copy(opt::Optimizer)
    copied = optimizer(opt.rule, copy(opt.tensors), copy(opt.places))
    protected(opt) do original
        handle = Ref{Ptr{Cvoid}}(C_NULL)
        check(ccall(c().sonew_clone, Int32, (Ptr{Cvoid}, Ptr{Ptr{Cvoid}}), original, handle))
        copied.handle = handle[]
    end
    return copied
end
Base.deepcopy_internal(opt::Optimizer, copies::IdDict) = get!(() -> copy(opt), copies, opt)
Base.deepcopy_internal(v::PlaneView, ::IdDict) = throw(ArgumentError(
    "the view of $(v.name) cannot be copied by deepcopy: copy(view) is an array"))

const INSTEAD = "save(opt, path, model) keeps an optimizer in a file, and load(path, rule, model) " *
                "makes another one of it"
what(::Optimizer) = "an optimizer"
what(::Plan) = "a plan"
what(::Pool) = "a pool"
what(::Saving) = "a save"

copied(owner) = "this is a copy of $(what(owner)) from another program or package, without its " *
                "state and threads: $INSTEAD"
@noinline no_copy(owner, verb) = throw(ArgumentError("$(what(owner)) cannot be $verb: $INSTEAD"))

Base.deepcopy_internal(owner::Union{Plan,Pool,Saving}, ::IdDict) = no_copy(owner, "copied")
Base.copy(owner::Union{Plan,Pool,Saving}) = no_copy(owner, "copied")
Serialization.serialize(::Serialization.AbstractSerializer, owner::Owner) =
    no_copy(owner, "serialized")
