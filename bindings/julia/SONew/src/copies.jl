# Owners of handles can neither be copied nor written by packages for any object: memory and
# threads of the library are no part of them.
const Owner = Union{Optimizer,Plan,Pool,Saving}
const INSTEAD = "save(opt, path, model) keeps an optimizer in a file, and load(path, rule, model) " *
                "makes another one of it"
what(::Optimizer) = "an optimizer"
what(::Plan) = "a plan"
what(::Pool) = "a pool"
what(::Saving) = "a save"

copied(owner) = "this is a copy of $(what(owner)) from another program or package, without its " *
                "state and threads: $INSTEAD"
@noinline no_copy(owner, verb) = throw(ArgumentError("$(what(owner)) cannot be $verb: $INSTEAD"))

Base.deepcopy_internal(owner::Owner, ::IdDict) = no_copy(owner, "copied")
Base.copy(owner::Owner) = no_copy(owner, "copied")
Serialization.serialize(::Serialization.AbstractSerializer, owner::Owner) =
    no_copy(owner, "serialized")
