"""What several tests need."""

import contextlib
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest


def enable_x64():
    """float64 for a while, as all versions of JAX spell it."""
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    from jax.experimental import enable_x64 as context

    return context(True)


def nothing():
    return contextlib.nullcontext()


def combinations(short, **axes):
    """Arguments of `pytest.mark.parametrize`: all combinations of the axes. Those that are
    not `short` are left to the long form."""
    rows = itertools.product(*axes.values())
    marked = [pytest.param(*row, marks=() if short(*row) else pytest.mark.long) for row in rows]
    return list(axes), marked


def random_tree(seed, shapes, dtype=np.float32, scale=1.0):
    rng = np.random.default_rng(seed)
    return {
        name: jnp.asarray(rng.standard_normal(shape) * scale, dtype)
        for name, shape in shapes.items()
    }


SHAPES = {"bias": (7,), "cube": (3, 4, 5), "kernel": (40, 30), "scalar": (), "long": (3000,)}


def bits(tree):
    """The bytes of all leaves, in order."""
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def largest_difference(a, b):
    """Over all leaves, relative to the largest number of each."""
    worst = 0.0
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        # uint32 are the words of float64 numbers.
        x, y = (np.asarray(z) for z in (x, y))
        x, y = (z.view(np.float64) if z.dtype == np.uint32 else z.astype(np.float64) for z in (x, y))
        assert x.shape == y.shape
        size = max(np.max(np.abs(y), initial=0), 1e-30)
        worst = max(worst, np.max(np.abs(x - y), initial=0) / size)
    return worst
