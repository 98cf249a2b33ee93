"""Checks the options of an optimizer, and describes what a compiled step depends
on."""

import dataclasses
import math
import numbers
from collections.abc import Callable
from typing import Any, Optional, TypeVar, Union

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .. import _pooling
from .._structs import (
    CHAINS,
    DAMPINGS,
    GRAFTS,
    MAX_DIMS,
    NON_FINITE,
    POOLINGS,
    ROUNDINGS,
    STATISTICS,
    UPDATES,
)

IMPLEMENTATIONS = ("auto", "custom_call", "pure")
MAX_BAND, MAX_THREADS = 16, 1024

# The numbers of a step, in the order in which the handler takes them.
NUMBERS = (
    "beta1",
    "beta2",
    "eps",
    "gamma",
    "graft_eps",
    "learning_rate",
    "grad_scale",
    "statistics_weight",
    "clip_norm",
    "weight_decay",
    "shrink",
)
# The numbers that must be in [0, 1), and those that must be positive.
UNIT, POSITIVE = {"beta1", "beta2", "gamma", "shrink"}, {"grad_scale", "clip_norm"}

# How arguments are annotated.
T = TypeVar("T")
Number = jax.typing.ArrayLike
NumberOrSchedule = optax.ScalarOrSchedule
# Which leaves decay.
Mask = Optional[Union[Any, Callable[[Any], Any]]]
# One value for all leaves, a function of (path, leaf), or a tree of values.
PerLeaf = Union[T, Callable[[Any, Any], T], Any]
DType = jax.typing.DTypeLike

STATE_DTYPES = ("float32", "float64", "bfloat16")
DTYPES = (*STATE_DTYPES, "float16")


def adam_for_vectors(path: Any, leaf: Any) -> str:
    """For `update`: plain Adam for leaves of at most one dimension (biases,
    normalization layers), SONew for all others."""
    return "adam" if np.ndim(leaf) <= 1 else "sonew"


def choice(argument, value, among):
    """Refuses a value that is not one of the names."""
    if not isinstance(value, str) or value not in among:
        names = ", ".join(repr(name) for name in among)
        raise ValueError(f"{argument} is {value!r}, must be one of {names}")
    return value


def integer(argument, value, least, most):
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(
            f"{argument} is {value!r}, must be a Python int: the compiled step depends on it "
            f"(with optax.inject_hyperparams, name it in static_args)"
        )
    if not least <= value <= most:
        raise ValueError(f"{argument} is {value}, must be {least} to {most}")
    return int(value)


def named(ours, value, default, theirs, other):
    """The value of an option that has another name in optax, whose default is None."""
    if other is None:
        return value
    # Under `optax.inject_hyperparams` the default is an array.
    if not is_array(value) and value != default:
        raise TypeError(f"{ours} and {theirs} are the same option: give one of them")
    return other


def flag(argument, value):
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{argument} is {value!r}, must be True or False")
    return bool(value)


def is_array(value):
    """Whether a number is an array, which may be traced."""
    return isinstance(value, (jax.Array, np.ndarray, np.generic))


def number(argument, value):
    """Checks a hyperparameter. A Python number is exact in float64. An array may
    be traced; the library then checks its value when the step runs."""
    if is_array(value) and not isinstance(value, np.float64):
        if jnp.shape(value) != ():
            raise ValueError(f"{argument} has shape {jnp.shape(value)}, must be a scalar")
        if not isinstance(value, jax.core.Tracer):
            in_range(argument, float(value))
        return value
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{argument} is {value!r}, must be a number")
    return in_range(argument, float(value))


def number_or_schedule(argument, value):
    """Checks a hyperparameter that may be a function of the count of steps."""
    return value if callable(value) else number(argument, value)


def at(argument, value, state):
    """The value of such a hyperparameter at the count of a state."""
    return number(argument, jnp.asarray(value(state.count))) if callable(value) else value


def in_range(argument, value):
    holds, what = value >= 0 and math.isfinite(value), "finite and not negative"
    if argument in UNIT:
        holds, what = 0 <= value < 1, "in [0, 1)"
    elif argument in POSITIVE:
        holds, what = value > 0 and math.isfinite(value), "finite and positive"
    if not holds:
        raise ValueError(f"{argument} is {value}, must be {what}")
    return value


@dataclasses.dataclass(frozen=True)
class Settings:
    """The options that are the same for all leaves and steps."""

    band: int
    statistics: str
    damping: str
    graft: str
    bias_correction: bool
    graft_bias_correction: bool
    lagged_norms: bool
    nesterov: bool
    rounding: str
    seed: int
    non_finite: str
    threads: int
    implementation: str
    pooling: str = "none"
    rank: int = 16

    def __post_init__(self):
        put = lambda name, value: object.__setattr__(self, name, value)
        choice("pooling", self.pooling, POOLINGS)
        most = MAX_BAND if self.pooling == "none" else _pooling.MAX_BAND
        put("band", integer("band", self.band, 0, most))
        put("rank", integer("rank", self.rank, 1, _pooling.MAX_RANK))
        put("threads", integer("threads", self.threads, 0, MAX_THREADS))
        put("seed", integer("seed", self.seed, 0, 2**64 - 1))
        for name in ("bias_correction", "graft_bias_correction", "lagged_norms", "nesterov"):
            put(name, flag(name, getattr(self, name)))
        for name, among in {
            "statistics": STATISTICS,
            "damping": DAMPINGS,
            "graft": GRAFTS,
            "rounding": ROUNDINGS,
            "non_finite": NON_FINITE,
            "implementation": IMPLEMENTATIONS,
        }.items():
            choice(name, getattr(self, name), among)

    @property
    def sub_diagonals(self):
        """Those that a coordinate has of its own."""
        return self.band if self.pooling == "none" else 0

    def needs_scalars(self):
        """Whether a step needs numbers that the step before left, besides the planes."""
        return self.lagged_norms or self.damping == "relative_lagged"


@dataclasses.dataclass(frozen=True)
class Leaf:
    """The options of one leaf."""

    name: str
    chains: str
    update: str
    master: bool
    lr_scale: float
    weight_decay: float
    # Names of the mesh axes that the leaf is sharded over.
    axes: tuple = ()
    # Its dimensions that are cut.
    cut_dims: tuple = ()

    def sums_shape(self, settings, shape):
        """The shape of pooled sums, of a leaf of this shape."""
        return _pooling.sums_shape(
            settings.pooling,
            settings.band,
            settings.rank,
            settings.lagged_norms,
            self.pooled_length(shape),
        )

    def pooled_length(self, shape):
        """The length of the chains that share their correlations."""
        end = 0 if self.chains in ("strided", "strided_lines") else -1
        return shape[end] if shape else 1

    @property
    def first_of_units(self):
        """The first of the dimensions in which chains that share their correlations differ."""
        return 1 if self.chains in ("strided", "strided_lines") else 0

    def pooled_at(self, settings):
        """The place of the pooled sums among its state planes, or None."""
        return 2 + self.has_rms(settings) if self.is_pooled(settings) else None

    def band(self, settings):
        return settings.sub_diagonals if self.update == "sonew" else 0

    def is_pooled(self, settings):
        return self.update == "sonew" and settings.pooling != "none"

    def graft(self, settings):
        return settings.graft if self.update == "sonew" else "none"

    def has_rms(self, settings):
        return self.graft(settings) == "normalized_rmsprop"

    def plane_count(self, settings):
        more = self.has_rms(settings) + self.is_pooled(settings) + self.master
        return 2 + self.band(settings) + more


@dataclasses.dataclass(frozen=True)
class Program:
    """Everything that a compiled step depends on, besides shapes and types."""

    settings: Settings
    leaves: tuple
    # Values of NUMBERS, None for those that are traced.
    numbers: tuple
    # Whether the step writes the direction instead of updating the parameters.
    direction: bool
    # The stages that the step has reached before this call; None for a whole step.
    reached: tuple = None

    @property
    def staged(self):
        return self.reached is not None

    @property
    def has_parts(self):
        """Whether leaves whose correlations are pooled are cut: then an operand says which
        chains of the whole leaves there are."""
        return any(leaf.axes and leaf.is_pooled(self.settings) for leaf in self.leaves)

    @property
    def has_target(self):
        """Whether the parameters or the direction are an operand, too."""
        return self.staged or not self.direction

    def relative(self, leaf):
        return leaf.update == "sonew" and self.settings.damping != "absolute"

    def refuses(self):
        """Whether the step refuses gradients that are not finite."""
        clips = self.numbers[NUMBERS.index("clip_norm")] != 0.0
        return self.settings.non_finite == "skip" or clips

    def stages(self):
        """The points at which numbers of whole tensors are needed: they follow from
        the settings alone, as in the library."""
        settings = self.settings
        stages = []
        if self.refuses() or settings.graft == "normalized_rmsprop":
            stages.append("gradient_squares")
        if settings.damping != "absolute":
            stages.append("largest_l1")
        if settings.graft != "none":
            stages.append("norms")
        return stages


def is_function(value):
    """Whether an option is a function. A tree may be callable, too, as modules of
    equinox are: it is one only if all of its leaves are callable, as in optax."""
    leaves = jax.tree.leaves(value)
    return callable(value) and len(leaves) > 0 and all(map(callable, leaves))


def per_leaf(argument, value, paths, leaves, treedef, is_value):
    """The value of a per-leaf option for each leaf. The option is one value for
    all, a function of path and leaf, or a tree with the values (a value may be
    in place of a subtree)."""
    if is_value(value):
        return [value] * len(leaves)
    if is_function(value):
        return [value(path, leaf) for path, leaf in zip(paths, leaves)]
    try:
        spread = jax.tree.map(
            lambda one, subtree: jax.tree.map(lambda _: one, subtree),
            value,
            jax.tree.unflatten(treedef, leaves),
            is_leaf=is_value,
        )
        listed = jax.tree.leaves(spread, is_leaf=is_value)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{argument} does not fit the tree of parameters: {error}") from None
    if len(listed) != len(leaves):
        raise ValueError(
            f"{argument} has {len(listed)} values for {len(leaves)} leaves of the parameters"
        )
    return listed


def names(paths):
    """Names of leaves: `fc1.kernel`. If two would be the same, all are in JAX's
    own spelling: `['fc1']['kernel']`."""
    simple = [jax.tree_util.keystr(path, simple=True, separator=".") or "params" for path in paths]
    if len(set(simple)) == len(simple):
        return simple
    return [jax.tree_util.keystr(path) for path in paths]
