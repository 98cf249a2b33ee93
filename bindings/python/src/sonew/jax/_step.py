"""One step of all leaves, or one stage of it, by the implementation for the
platform, with derivatives."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from . import _parts, _primitive, _pure, _sharding


def run(program, count, traced, scalars, targets, grads, planes, shardings=None):
    """Takes a step.

    Args:
      program: a `Program`.
      count: int32 scalar, the steps taken so far.
      traced: the numbers that are not static in the program, in one array.
      scalars: those of the leaves, uint32 [leaves, 2, 2], if the step needs them; otherwise ().
      targets: the parameters, a tuple with an array for each leaf; () if
        directions are to be written.
      grads: the gradients, a tuple with an array for each leaf.
      planes: the state planes, a tuple of arrays for each leaf.
      shardings: how each leaf is cut, a `NamedSharding` for each on one mesh, if the
        arrays are whole ones that are cut for the step; None if they are parts already.

    Returns:
      `taken`, 1 or 0 if a gradient was not finite and nothing has changed;
      new scalars; new parameters, or directions; new state planes.
    """
    operands = count, traced, scalars, targets, grads, planes
    if not any(leaf.axes for leaf in program.leaves):
        reached = jnp.zeros((0,), jnp.uint32)
        taken, _, scalars, targets, planes = dispatch(
            program, count, traced, reached, *operands[2:]
        )
        return taken, scalars, targets, planes
    if shardings is None:
        return in_stages(program, *operands)
    return on_parts(program, shardings, *operands)


def on_parts(program, shardings, count, traced, scalars, targets, grads, planes):
    """The step of whole arrays, of which every device takes that of its own parts."""
    mesh, everywhere = shardings[0].mesh, jax.sharding.PartitionSpec()
    specs = [sharding.spec for sharding in shardings]
    of_planes = _parts.specs(program, specs, planes, everywhere)
    # Not by comparison: in older versions of JAX a spec is a tuple.
    has_scalars = program.settings.needs_scalars()
    whole = everywhere if has_scalars else ()
    of_targets = tuple(specs[: len(targets)])
    step = jax.shard_map(
        functools.partial(in_stages, program),
        mesh=mesh,
        in_specs=(everywhere, everywhere, whole, of_targets, tuple(specs), of_planes),
        out_specs=(everywhere, whole, tuple(specs), of_planes),
        # All devices compute the same sums of the steps before, but JAX cannot know it.
        check_vma=not program.has_parts,
    )
    place = lambda spec, x: _sharding.placed(x, jax.sharding.NamedSharding(mesh, spec))
    at = lambda specs, arrays: tuple(map(place, specs, arrays))
    return step(
        place(everywhere, count),
        place(everywhere, traced),
        place(whole, scalars) if has_scalars else (),
        at(of_targets, targets),
        at(specs, grads),
        tuple(map(at, of_planes, planes)),
    )


def in_stages(program, count, traced, scalars, targets, grads, planes):
    """The step of tensors that are parts of larger ones, under shard_map: numbers
    of whole tensors are reduced over the axes that the tensors are cut along."""
    if program.direction:
        targets = tuple(map(jnp.zeros_like, grads))
    stages = program.stages()
    rows = []
    for so_far in range(len(stages) + 1):
        stage = dataclasses.replace(program, reached=tuple(stages[:so_far]))
        reached = jnp.stack(rows) if rows else jnp.zeros((0,), jnp.uint32)
        taken, numbers, scalars, targets, planes = dispatch(
            stage, count, traced, reached, scalars, targets, grads, planes
        )
        if so_far < len(stages):
            rows.append(gathered(program.leaves, numbers))
    if program.has_parts:
        # Nothing of this step needs them. Those of a step that was skipped are sums already.
        sums = _parts.added(program, _parts.own_sums(program, planes), taken > 0)
        planes = _parts.with_sums(program, planes, sums)
    return taken, scalars, targets, planes


def gathered(leaves, numbers):
    """The numbers of all parts of all leaves, [parts, leaves, ...] words of the numbers
    [...] of each, by one collective: a row for each part, and rows of zeros for leaves with
    fewer parts.

    Words of float64 numbers cannot be added. So each part puts its words into
    one row of an array of zeros, and `psum` combines the rows exactly, in whatever
    order. JAX knows that the result is the same on all devices of the axes.
    """
    rows, parts = zip(*map(_parts.number, leaves))
    axes = _parts.axes_of(leaves)
    of_leaves = []
    for leaf, row, own in zip(leaves, rows, numbers):
        is_own = (jnp.arange(max(parts)) == row) & _parts.speaks(leaf, axes)
        is_own = is_own.reshape(-1, *[1] * own.ndim)
        of_leaves.append(jnp.where(is_own, own, jnp.uint32(0)))
    return jax.lax.psum(jnp.stack(of_leaves, 1), axes)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def differentiable(program, count, traced, reached, parts, scalars, targets, grads, planes):
    step = _pure.step if program.settings.implementation == "pure" else _primitive.step
    return step(program, count, traced, reached, parts, scalars, targets, grads, planes)


@differentiable.defjvp
def _derivative(program, primals, tangents):
    """The custom call has no derivative of its own; it uses that of the same step
    in jax.numpy."""
    _, change = jax.jvp(functools.partial(_pure.step, program), primals, tangents)
    return differentiable(program, *primals), change


def on_the_devices(program, count, traced, reached, scalars, targets, grads, planes):
    """The step of arrays that may be sharded over devices: a chain is a property of
    the whole array, so every device has the whole arrays while it takes the step,
    and keeps of the results what it had of the operands."""
    whole = jax.tree.map(_sharding.gathered, (scalars, targets, grads, planes))
    taken, numbers, new_scalars, new_targets, new_planes = differentiable(
        program, count, traced, reached, _parts.chains(program, grads), *whole
    )
    like = targets if program.has_target else grads
    alike = lambda old, new: jax.tree.map(_sharding.alike, old, new)
    return taken, numbers, *map(alike, (scalars, like, planes), (new_scalars, new_targets, new_planes))


# Compiled, so that a program that does not compile its step traces this only once;
# inlined into programs that do.
dispatch = jax.jit(on_the_devices, static_argnums=0, inline=True)
