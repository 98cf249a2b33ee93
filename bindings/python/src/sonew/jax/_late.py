"""Steps that wait for no sum over devices: with lagged norms, what a step sums is needed
only by the next one, which reduces it while its gradients are computed."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from . import _parts, _step
from ._tree import ScaleBySonewState


class LateState(NamedTuple):
    """The state of `fused_sonew` with `reduce_late`.

    Attributes:
      own: the state of SONew, of which `scalars` are those that the last step began with.
      numbers: what the last step has to sum over devices: each device's own numbers, uint32
        [devices, stages, leaves, 2, 2], cut along the first dimension.
      options: those numbers of the last step that are not constants.
      grads: with Nesterov momentum the gradients of the last step, otherwise ().
      is_open: int32 scalar, 1 if the last step has not taken in its sums yet.
      sums: for each leaf that is cut and whose correlations are pooled, what the chains of
        each device have added to its pooled sums in the last step, [devices, ...], cut along
        the first dimension. Until the step takes these in, zeros are in their place in `own`.
    """

    own: ScaleBySonewState
    numbers: Any
    options: Any
    grads: Any
    is_open: Any
    sums: Any = ()


def check(leaves, program):
    """Refuses options with which a step needs sums before it can end."""
    settings = program.settings
    wants = {
        "lagged_norms=True": settings.lagged_norms,
        'a graft other than "none" and "normalized_rmsprop"': settings.graft
        not in ("none", "normalized_rmsprop"),
        'damping="relative_lagged" or "absolute"': settings.damping != "relative",
        'non_finite="unchecked" and no clip_norm': not program.refuses(),
        "the custom call": settings.implementation != "pure",
        "leaves that are cut: partition_specs=params": leaves.shardings is not None
        and any(leaves.axes),
    }
    for what, holds in wants.items():
        if not holds:
            raise ValueError(f"reduce_late needs {what}")
    for name, array, leaf in zip(leaves.names, leaves.arrays, leaves.kinds):
        if jnp.dtype(array.dtype).itemsize == 2 and not leaf.master:
            raise ValueError(f"reduce_late needs master_weights: {name!r} is {array.dtype}")


def by_custom_call(program):
    settings = dataclasses.replace(program.settings, implementation="custom_call")
    return dataclasses.replace(program, settings=settings)


class Late:
    """Takes a step, in the place of `_step.run`, whose arguments and results it has. `after`
    is what it leaves to the next one."""

    def __init__(self, state):
        self.state, self.after = state, None

    def __call__(self, program, count, traced, scalars, targets, grads, planes, shardings):
        program = by_custom_call(program)
        before = self.before(program, grads)

        def step(count, traced, scalars, targets, grads, planes, before):
            finished = finish(program, count, scalars, targets, grads, planes, before)
            return begun(program, count, traced, *finished, grads)

        results = on_parts(
            step, program, shardings, count, traced, scalars, targets, grads, planes, before
        )
        taken, scalars, targets, planes, numbers, sums, is_open = results
        kept = grads if program.settings.nesterov else ()
        self.after = {
            "numbers": numbers, "options": traced, "grads": kept, "is_open": is_open, "sums": sums
        }  # fmt: skip
        return taken, scalars, targets, planes

    def before(self, program, grads):
        s = self.state
        kept = tuple(s.grads) if program.settings.nesterov else ()
        return s.numbers, s.options, s.is_open, kept, tuple(s.sums)


class Finish(Late):
    """Only ends the step before."""

    def __call__(self, program, count, traced, scalars, targets, grads, planes, shardings):
        program = by_custom_call(program)

        def step(count, traced, scalars, targets, grads, planes, before):
            ended = finish(program, count, scalars, targets, grads, planes, before)
            return jnp.zeros((), jnp.int32), *ended, before[0], before[4], jnp.zeros((), jnp.int32)

        operands = count, traced, scalars, targets, grads, planes, self.before(program, grads)
        results = on_parts(step, program, shardings, *operands)
        self.after = {"is_open": results[-1]}
        return results[:4]


def on_parts(step, program, shardings, count, traced, scalars, targets, grads, planes, before):
    """Calls the function with what each device has of the arrays."""
    everywhere, specs = PartitionSpec(), tuple(sharding.spec for sharding in shardings)
    of_planes = _parts.specs(program, specs, planes, everywhere)
    of_numbers = PartitionSpec(_parts.axes_of(program.leaves))
    of_sums = (of_numbers,) * len(before[4])
    whole = everywhere if program.settings.needs_scalars() else ()
    of_before = of_numbers, everywhere, everywhere, specs[: len(before[3])], of_sums
    step = jax.shard_map(
        step,
        mesh=shardings[0].mesh,
        in_specs=(everywhere, everywhere, whole, specs, specs, of_planes, of_before),
        out_specs=(everywhere, whole, specs, of_planes, of_numbers, of_sums, everywhere),
        # Numbers of one part reach the custom call, which leaves what is replicated alike,
        # but JAX cannot know it.
        check_vma=False,
    )
    return step(count, traced, scalars, targets, grads, planes, before)


def finish(program, count, scalars, targets, grads, planes, before):
    """Ends the step before with its sums: an update that was too long is corrected. This
    has the only collectives of a step, which need nothing of this step."""
    numbers, options, is_open, kept, sums = before
    stages = tuple(program.stages())
    # All stages at once: [parts, leaves, stages, 2, 2].
    rows = _step.gathered(program.leaves, jnp.moveaxis(numbers[0], 0, 1))
    reached = jnp.moveaxis(rows, 2, 0)
    sums = _parts.added(program, [own[0] for own in sums])
    program = dataclasses.replace(program, reached=stages)

    def end(scalars, targets, planes):
        of = kept if program.settings.nesterov else grads
        operands = count - 1, options, reached, scalars, targets, of, planes
        _, _, scalars, targets, planes = _step.dispatch(program, *operands)
        return scalars, targets, _parts.with_sums(program, planes, sums)

    stay = lambda *operands: operands
    return jax.lax.cond(is_open > 0, end, stay, scalars, targets, planes)


def begun(program, count, traced, scalars, targets, planes, grads):
    """A step up to where it needs its sums, with which the parameters are already updated.
    If there are no norms of a step before, as in the first step, it waits for its own."""
    stages = program.stages()
    nothing = lambda sums: tuple(map(jnp.zeros_like, sums))

    def waits(scalars, targets, planes):
        operands = count, traced, scalars, targets, grads, planes
        _, scalars, targets, planes = _step.in_stages(program, *operands)
        numbers = jnp.zeros((1, len(stages), len(grads), 2, 2), jnp.uint32)
        return scalars, targets, planes, numbers, nothing(_parts.own_sums(program, planes))

    def goes_on(scalars, targets, planes):
        rows = []
        for so_far in range(len(stages)):
            stage = dataclasses.replace(program, reached=tuple(stages[:so_far]))
            # Numbers of this part alone: what they are for is known from the step before.
            reached = jnp.stack(rows)[:, None] if rows else jnp.zeros((0,), jnp.uint32)
            _, numbers, _, targets, planes = _step.dispatch(
                stage, count, traced, reached, scalars, targets, grads, planes
            )
            rows.append(jnp.stack(numbers))
        sums = _parts.own_sums(program, planes)
        planes = _parts.with_sums(program, planes, nothing(sums))
        return scalars, targets, planes, jnp.stack(rows)[None], sums

    is_known = jnp.any(scalars != 0, -1)
    needs = np.ones((len(program.leaves), 2), bool)
    for i, leaf in enumerate(program.leaves):
        needs[i] = leaf.graft(program.settings) != "none", program.relative(leaf)
    needs[:, 1] &= program.settings.damping == "relative_lagged"
    is_open = jnp.all(is_known | ~needs)
    scalars, targets, planes, numbers, sums = jax.lax.cond(
        is_open, goes_on, waits, scalars, targets, planes
    )
    sums = tuple(own[None] for own in sums)
    return jnp.int32(1), scalars, targets, planes, numbers, sums, is_open.astype(jnp.int32)


def init(leaves, own, program):
    """The state before the first step."""
    check(leaves, program)
    mesh, axes = leaves.shardings[0].mesh, _parts.axes_of(program.leaves)
    devices = int(np.prod([mesh.shape[axis] for axis in axes]))
    shape = devices, len(program.stages()), len(program.leaves), 2, 2
    wide = jnp.float64 if jax.config.jax_enable_x64 else jnp.float32
    open_numbers = sum(number is None for number in program.numbers)
    grads = ()
    if program.settings.nesterov:
        grads = tuple(
            jnp.zeros(array.shape, array.dtype, device=sharding)
            for array, sharding in zip(leaves.arrays, leaves.shardings)
            if np.prod(array.shape) > 0
        )
    of_devices = NamedSharding(mesh, PartitionSpec(axes))
    full = [i for i, array in enumerate(leaves.arrays) if np.prod(array.shape) > 0]
    planes = leaves.planes(own)
    sums = _parts.own_sums(program, [planes[i] for i in full])
    return LateState(
        own=own,
        numbers=jnp.zeros(shape, jnp.uint32, device=of_devices),
        options=leaves.zeros((open_numbers,), wide),
        grads=grads,
        is_open=leaves.zeros([], jnp.int32),
        sums=tuple(jnp.zeros((devices, *x.shape), x.dtype, device=of_devices) for x in sums),
    )

