"""The step as a primitive of JAX. Whether it is a custom call of libsonew or the
step in jax.numpy is decided when a program is lowered for a platform. Until then
only its types are known, so that it costs little to trace."""

import functools

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

from . import _call, _pure
from ._sharding import union, varying

step_p = Primitive("sonew_step")
step_p.multiple_results = True


def step(program, count, traced, reached, parts, scalars, targets, grads, planes):
    """The results of `_step.run`."""
    # Every result has the type of an operand. Under shard_map this is made to vary
    # over all axes that the result may vary over.
    shared = (count, traced, reached)
    if not program.staged and program.refuses():
        # One gradient that is not finite changes the results of all leaves.
        shared = (*shared, *grads)
    axes_of_all = union(*shared)
    # Which chains there are changes sums of products alone.
    which = (parts,) if program.has_parts else ()
    words, new_targets, new_grads, new_planes = [], [], [], []
    for i, gradient in enumerate(grads):
        target = targets[i : i + 1]
        axes = axes_of_all | union(gradient, *target, *planes[i], *which)
        vary = functools.partial(varying, axes=axes)
        words += [vary(jnp.zeros((2, 2), jnp.uint32))] if program.staged else []
        new_targets += map(vary, target)
        new_grads.append(vary(gradient))
        new_planes.append(tuple(map(vary, planes[i])))
    taken = varying(jnp.zeros((), jnp.int32), axes_of_all)
    if program.settings.needs_scalars():
        # Those of a step in stages follow from reduced numbers.
        own = () if program.staged else jax.tree.leaves((targets, grads, planes))
        scalars = varying(scalars, axes_of_all | union(*own))
    listed = taken, words, count, traced, reached, parts, scalars, new_targets, new_grads, new_planes
    flat = step_p.bind(*jax.tree.leaves(listed), program=program, batch_dims=0)
    return results(program, flat)


def operands(program, flat):
    """The types of `taken` and `words`, and the arguments of `_step.dispatch`."""
    flat = iter(flat)
    take = lambda count: tuple(next(flat) for _ in range(count))
    leaves = program.leaves
    taken, words = next(flat), take(len(leaves) if program.staged else 0)
    count, traced, reached = take(3)
    parts = next(flat) if program.has_parts else ()
    scalars = next(flat) if program.settings.needs_scalars() else ()
    targets, grads = take(len(leaves) if program.has_target else 0), take(len(leaves))
    planes = tuple(take(leaf.plane_count(program.settings)) for leaf in leaves)
    return taken, words, count, traced, reached, parts, scalars, targets, grads, planes


def results(program, flat):
    """taken, numbers, scalars, targets and planes of the results in the handler's order."""
    flat = iter(flat)
    taken, numbers, targets, planes = next(flat), [], [], []
    scalars = next(flat) if program.settings.needs_scalars() else ()
    for leaf in program.leaves:
        numbers += [next(flat)] if program.staged else []
        targets.append(next(flat))
        planes.append(tuple(next(flat) for _ in range(leaf.plane_count(program.settings))))
    return taken, tuple(numbers), scalars, tuple(targets), tuple(planes)


def in_order(taken, numbers, scalars, targets, planes):
    """The results in the order of the handler."""
    flat = [taken, *jax.tree.leaves(scalars)]
    for i, (target, own) in enumerate(zip(targets, planes)):
        flat += [*numbers[i : i + 1], target, *own]
    return flat


def types(*flat, program, batch_dims):
    taken, words, _, _, _, _, scalars, targets, grads, planes = operands(program, flat)
    like = in_order(taken, words, scalars, targets if program.has_target else grads, planes)
    return [aval.update(weak_type=False) for aval in like]


def evaluated(*flat, **program):
    """The step outside of a compiled program, as under `jax.disable_jit`."""
    with jax.disable_jit(False):
        return jax.jit(functools.partial(step_p.bind, **program))(*flat)


def batched(flat, dims, *, program, batch_dims):
    """A further leading dimension of all operands: each member takes its own step."""
    size = next(x.shape[d] for x, d in zip(flat, dims) if d is not None)
    flat = [
        jnp.broadcast_to(x, (size, *x.shape))
        if d is None
        else jnp.moveaxis(x, d, 0)
        for x, d in zip(flat, dims)
    ]
    out = step_p.bind(*flat, program=program, batch_dims=batch_dims + 1)
    return out, [0] * len(out)


def in_jax_numpy(*flat, program, batch_dims):
    def one(*flat):
        return in_order(*_pure.step(program, *operands(program, flat)[2:]))

    for _ in range(batch_dims):
        one = jax.vmap(one)
    return one(*flat)


def lower_for_cpu(context, *flat, program, batch_dims):
    avals = operands(program, context.avals_in)[2:]
    return _call.lower(context, program, avals, operands(program, flat)[2:])


def lower_for_others(context, *flat, program, batch_dims):
    if program.settings.implementation == "custom_call":
        return lower_for_cpu(context, *flat, program=program, batch_dims=batch_dims)
    lower = mlir.lower_fun(in_jax_numpy, multiple_results=True)
    return lower(context, *flat, program=program, batch_dims=batch_dims)


step_p.def_abstract_eval(types)
step_p.def_impl(evaluated)
batching.primitive_batchers[step_p] = batched
mlir.register_lowering(step_p, lower_for_cpu, platform="cpu")
mlir.register_lowering(step_p, lower_for_others)
