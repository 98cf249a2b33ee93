"""Pooled correlations in the step in jax.numpy: all chains of a leaf share the
correlations of their positions, and a leaf becomes a matrix of chains, [chains, length]."""

import functools

import jax
import jax.numpy as jnp

from .._pooling import GROUP, TURNS
from . import _band, _full, _rank
from ._bits import stored
from ._direction import divided, from_chains, to_chains

# Chains end where lines do.
LINES = {"contiguous": "contiguous_lines", "strided": "strided_lines"}


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def direction(settings, leaf, takes_in, numbers, sums, m, d, g, part=None):
    """u = q^-1 R^-1 q^-1 m^ of a leaf, and its pooled sums, which take in the gradient g
    first if `takes_in`; d is the damped diagonal. `part` says which chains of a larger leaf
    these are: the number of the first, and how many there are in that."""
    chains = LINES.get(leaf.chains, leaf.chains)
    root = jnp.sqrt(jnp.where(d > 0, d, 1))
    over_root = lambda x: divided(x, d, root)
    if takes_in:
        z = over_root(g)
        z = to_chains(jnp.where(jnp.abs(z) < jnp.inf, z, 0), chains)
        z = in_turn(z, m.shape, chains, numbers["step"], part)
        sums = taken_in(settings, numbers, sums, z)
    u = inverse(settings, numbers, sums)(to_chains(over_root(m), chains))
    return over_root(from_chains(u, m.shape, chains)), sums


def in_turn(z, shape, chains, step, part):
    """Zero for chains that take no part in the sums of the leaf's step of this number."""
    number = jnp.arange(len(z))
    if chains == "strided_lines":
        # They are counted as they lie in memory.
        number = number.reshape(shape[1:]).transpose().ravel()
    first, whole = (0, len(z)) if part is None else part
    number, turns = first + number, jnp.minimum(-(-whole // GROUP), TURNS)
    takes_part = number // GROUP % turns == step % turns
    return jnp.where(takes_part[:, None], z, 0)


def average(settings, numbers):
    """What statistics are multiplied by, and what is added to them."""
    if settings.statistics == "moving_average":
        return numbers["beta2"], numbers["one_minus_beta2"]
    return 1.0, numbers["statistics_weight"]


def taken_in(settings, numbers, sums, z):
    """The sums after a step in which these are all chains' z."""
    keep, weight = average(settings, numbers)
    if settings.pooling == "rank":
        return _rank.taken_in(settings.lagged_norms, keep, weight, sums, z)
    products = _full.products(z) if settings.pooling == "all" else _band.products(z, settings.band)
    if settings.lagged_norms:
        before, last = sums
        return jnp.stack([stored(keep * before + last), stored(weight * products)])
    return stored(keep * sums + weight * products)


def inverse(settings, numbers, sums):
    """x -> R^-1 x of all chains."""
    shrink, gamma = numbers["shrink"], numbers["gamma"]
    if settings.pooling == "rank":
        return _rank.inverse(settings.lagged_norms, sums, shrink, gamma)
    current = sums[0] if settings.lagged_norms else sums
    return (_full if settings.pooling == "all" else _band).inverse(current, shrink, gamma)
