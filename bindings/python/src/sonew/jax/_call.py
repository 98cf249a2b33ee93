"""The step as a custom call of libsonew. The section "XLA custom call" of
include/sonew_xla.h lists its operands and results."""

import jax
import numpy as np

from . import _library
from ._settings import (
    CHAINS,
    DAMPINGS,
    GRAFTS,
    NON_FINITE,
    POOLINGS,
    ROUNDINGS,
    STATISTICS,
    UPDATES,
)

STAGES = {"gradient_squares": 0, "largest_l1": 1, "norms": 2}


def lower(context, program, avals, operands):
    """The custom call in a program that is lowered. `operands` are the arguments of
    `_step.dispatch`, `avals` their types."""
    _library.register()
    listed, aliases = in_order(program, operands)
    types, _ = in_order(program, avals)
    rule = jax.ffi.ffi_lowering(_library.TARGET, operand_output_aliases=aliases)
    return rule(context.replace(avals_in=types), *listed, **attributes(program))


def in_order(program, operands):
    """The operands in the order of the handler, and which result is in the place of
    which operand."""
    count, traced, reached, parts, scalars, targets, grads, planes = operands
    listed, aliases = [count, traced, *([reached] if program.reached else [])], {}
    if program.has_parts:
        listed.append(parts)
    result = 1
    if program.settings.needs_scalars():
        aliases[len(listed)] = result
        listed.append(scalars)
        result += 1
    for i, (gradient, own) in enumerate(zip(grads, planes)):
        result += program.staged
        if program.has_target:
            aliases[len(listed)] = result
            listed.append(targets[i])
        listed.append(gradient)
        for n, plane in enumerate(own):
            aliases[len(listed)] = result + 1 + n
            listed.append(plane)
        result += 1 + len(own)
    return listed, aliases


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
    # Without these, programs are what they were before there were such options.
    for name in ("lagged_norms", "nesterov"):
        if getattr(settings, name):
            scalars[name] = True
    if settings.pooling == "none":
        # Nor had they shrink, the last number.
        named["numbers"] = named["numbers"][:-1]
    else:
        scalars["pooling"] = POOLINGS[settings.pooling]
    if program.has_parts:
        scalars["parts"] = True
    if settings.pooling == "rank":
        scalars["rank"] = settings.rank
    named |= {name: np.int64(value) for name, value in scalars.items()}
    if program.staged:
        named["reached"] = ints(STAGES[stage] for stage in program.reached)
    return named


def clean(name):
    """A name that the library accepts, without control characters."""
    return "".join(c if c.isprintable() else "?" for c in name)
