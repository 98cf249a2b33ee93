"""One step of all leaves, or one stage of it, by the implementation for the
platform, with derivatives."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from . import _primitive, _pure, _sharding


def run(program, count, traced, scalars, targets, grads, planes):
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

    Returns:
      `taken`, 1 or 0 if a gradient was not finite and nothing has changed;
      new scalars; new parameters, or directions; new state planes.
    """
    if not any(leaf.axes for leaf in program.leaves):
        reached = jnp.zeros((0,), jnp.uint32)
        taken, _, scalars, targets, planes = dispatch(
            program, count, traced, reached, scalars, targets, grads, planes
        )
        return taken, scalars, targets, planes
    return in_stages(program, count, traced, scalars, targets, grads, planes)


def in_stages(program, count, traced, scalars, targets, grads, planes):
    """The step of tensors that are parts of larger ones, under shard_map: numbers
    of whole tensors are reduced over the axes that the tensors are cut along."""
    if program.direction:
        targets = tuple(map(jnp.zeros_like, grads))
    stages = program.stages()
    parts = max(_parts(leaf) for leaf in program.leaves)
    rows = []
    for so_far in range(len(stages) + 1):
        stage = dataclasses.replace(program, reached=tuple(stages[:so_far]))
        reached = jnp.stack(rows) if rows else jnp.zeros((0,), jnp.uint32)
        taken, numbers, scalars, targets, planes = dispatch(
            stage, count, traced, reached, scalars, targets, grads, planes
        )
        if so_far < len(stages):
            of_leaves = [
                gathered(numbers[i], leaf.axes, parts) for i, leaf in enumerate(program.leaves)
            ]
            rows.append(jnp.stack(of_leaves, 1))
    return taken, scalars, targets, planes


def _parts(leaf):
    """The number of parts that a leaf is cut into."""
    size = 1
    for axis in leaf.axes:
        try:
            size *= jax.lax.psum(1, axis)
        except NameError:
            raise ValueError(
                f"partition_specs cuts {leaf.name!r} along the mesh axis {axis!r}, which there "
                "is only inside jax.shard_map"
            ) from None
    return size


def gathered(numbers, axes, parts):
    """A leaf's numbers, [2, 2] words, of all parts that it is cut into: a row
    for each part, and rows of zeros up to `parts`.

    Words of float64 numbers cannot be added. So each part puts its words into
    one row of an array of zeros, and `psum` combines the rows exactly. JAX knows
    that the result is the same on all devices of the axes.
    """
    row = 0
    for axis in axes:
        row = row * jax.lax.psum(1, axis) + jax.lax.axis_index(axis)
    rows = jnp.where(jnp.arange(parts)[:, None, None] == row, numbers, jnp.uint32(0))
    return jax.lax.psum(rows, axes) if axes else rows


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def differentiable(program, count, traced, reached, scalars, targets, grads, planes):
    step = _pure.step if program.settings.implementation == "pure" else _primitive.step
    return step(program, count, traced, reached, scalars, targets, grads, planes)


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
        program, count, traced, reached, *whole
    )
    like = targets if program.has_target else grads
    alike = lambda old, new: jax.tree.map(_sharding.alike, old, new)
    return taken, numbers, *map(alike, (scalars, like, planes), (new_scalars, new_targets, new_planes))


# Compiled, so that a program that does not compile its step traces this only once;
# inlined into programs that do.
dispatch = jax.jit(on_the_devices, static_argnums=0, inline=True)
