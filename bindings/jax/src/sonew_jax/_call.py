"""The step as a custom call of libsonew. The section "XLA custom call" of
include/sonew.h lists its operands and results."""

import functools

import jax
import numpy as np

from . import _library, _pure
from ._settings import (
    CHAINS,
    DAMPINGS,
    GRAFTS,
    NON_FINITE,
    ROUNDINGS,
    STATISTICS,
    UPDATES,
)

STAGES = {"gradient_squares": 0, "largest_l1": 1, "norms": 2}


def step(program, count, traced, reached, targets, grads, planes):
    """The results of `_step.run`, from the custom call."""
    _library.register()
    operands, results, aliases = [count, traced], [], {}
    results.append(jax.ShapeDtypeStruct((), np.int32))
    if program.reached:
        operands.append(reached)

    def in_place(array):
        aliases[len(operands)] = len(results)
        operands.append(array)
        results.append(jax.ShapeDtypeStruct(array.shape, array.dtype))

    for i, (gradient, state) in enumerate(zip(grads, planes)):
        if program.staged:
            results.append(jax.ShapeDtypeStruct((2, 2), np.uint32))
        if program.has_target:
            in_place(targets[i])
        else:
            results.append(jax.ShapeDtypeStruct(gradient.shape, gradient.dtype))
        operands.append(gradient)
        for plane in state:
            in_place(plane)

    # Under shard_map all operands must vary over the same axes. The results vary
    # over the same axes as those of the step in jax.numpy.
    axes = frozenset().union(*map(axes_of, operands))
    if axes:
        operands = [varying(operand, axes) for operand in operands]
        pure = functools.partial(_pure.step, program)
        results = in_order(*jax.eval_shape(pure, count, traced, reached, targets, grads, planes))
    call = jax.ffi.ffi_call(
        _library.TARGET,
        results,
        has_side_effect=False,
        vmap_method="broadcast_all",
        input_output_aliases=aliases,
    )
    out = list(call(*operands, **attributes(program)))
    if axes and any(axes_of(a) != axes_of(b) for a, b in zip(out, results)):
        raise NotImplementedError(
            "this version of JAX takes every result of a custom call to vary over all mesh axes: "
            "pass check_vma=False to jax.shard_map, or use jax 0.7 or newer"
        )

    taken = out.pop(0)
    numbers, targets, state = [], [], []
    for planes_of_leaf in planes:
        if program.staged:
            numbers.append(out.pop(0))
        targets.append(out.pop(0))
        state.append(tuple(out.pop(0) for _ in planes_of_leaf))
    return taken, tuple(numbers), tuple(targets), tuple(state)


def in_order(taken, numbers, targets, planes):
    """The results of a step in the order of the handler."""
    results = [taken]
    for i, (target, state) in enumerate(zip(targets, planes)):
        results += [*numbers[i : i + 1], target, *state]
    return results


def attributes(program):
    settings, leaves = program.settings, program.leaves
    values = [0.0 if n is None else n for n in program.numbers]
    open_bits = sum(1 << i for i, n in enumerate(program.numbers) if n is None)

    def ints(values):
        return np.array(list(values), np.int32)

    def doubles(values):
        return np.array(list(values), np.float64)

    named = {
        "names": "\n".join(clean(leaf.name) for leaf in leaves),
        "chains": ints(CHAINS[leaf.chains] for leaf in leaves),
        "updates": ints(UPDATES[leaf.update] for leaf in leaves),
        "master": ints(leaf.master for leaf in leaves),
        "lr_scales": doubles(leaf.lr_scale for leaf in leaves),
        "weight_decays": doubles(leaf.weight_decay for leaf in leaves),
        "numbers": doubles(values),
    }
    scalars = {
        "band": settings.band,
        "threads": settings.threads,
        # The bits of the unsigned seed as a signed number.
        "seed": settings.seed - (settings.seed >> 63 << 64),
        "statistics": STATISTICS[settings.statistics],
        "damping": DAMPINGS[settings.damping],
        "graft": GRAFTS[settings.graft],
        "bias_correction": settings.bias_correction,
        "graft_bias_correction": settings.graft_bias_correction,
        "rounding": ROUNDINGS[settings.rounding],
        "instruction_set": 0,
        "non_finite": NON_FINITE[settings.non_finite],
        "traced": open_bits,
        "direction": program.direction,
        "staged": program.staged,
    }
    named |= {name: np.int64(value) for name, value in scalars.items()}
    if program.staged:
        named["reached"] = ints(STAGES[stage] for stage in program.reached)
    return named


def clean(name):
    """A name that the library accepts, without control characters."""
    return "".join(c if c.isprintable() else "?" for c in name)


def axes_of(array):
    """The manual axes that a value varies over, under shard_map."""
    aval = jax.typeof(array) if hasattr(jax, "typeof") else jax.core.get_aval(array)
    axes = getattr(aval, "vma", None)
    if axes is None:
        axes = getattr(getattr(aval, "manual_axis_type", None), "varying", None)
    return frozenset(axes or ())


def varying(array, axes):
    """Marks a value that is the same on all devices of these axes as varying."""
    axes = tuple(axes - axes_of(array))
    if not axes:
        return array
    if hasattr(jax.lax, "pcast"):
        return jax.lax.pcast(array, axes, to="varying")
    return jax.lax.pvary(array, axes)

