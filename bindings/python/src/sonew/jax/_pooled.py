"""Pooled correlations in the step in jax.numpy: all chains of a leaf share the
correlations of their positions, and a leaf becomes a matrix of chains, [chains, length].

Loops over the band are scans, so that what is compiled does not grow with it."""

import functools

import jax
import jax.numpy as jnp

from ._direction import divided, from_chains, to_chains
from ._sharding import union, varying

# Chains end where lines do.
LINES = {"contiguous": "contiguous_lines", "strided": "strided_lines"}
# Neighbours that are taken in one pass over memory.
UNROLL = 4
# Chains that take part in the sums of a step together, and in one of so many steps at least.
GROUP, TURNS = 256, 4


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def direction(settings, leaf, takes_in, numbers, sums, m, d, g):
    """u = q^-1 R^-1 q^-1 m^ of a leaf, and its pooled sums, which take in the gradient g
    first if `takes_in`; d is the damped diagonal."""
    chains = LINES.get(leaf.chains, leaf.chains)
    root = jnp.sqrt(jnp.where(d > 0, d, 1))
    over_root = lambda x: divided(x, d, root)
    if takes_in:
        z = over_root(g)
        z = to_chains(jnp.where(jnp.abs(z) < jnp.inf, z, 0), chains)
        z = in_turn(z, m.shape, chains, numbers["step"])
        sums = taken_in(settings, numbers, sums, z)
    rho = correlations(sums[0] if settings.lagged_norms else sums, numbers["shrink"])
    u = solved(to_chains(over_root(m), chains), *factors(rho, numbers["gamma"]))
    return over_root(from_chains(u, m.shape, chains)), sums


def in_turn(z, shape, chains, step):
    """Zero for chains that take no part in the sums of the leaf's step of this number."""
    number = jnp.arange(len(z))
    if chains == "strided_lines":
        # They are counted as they lie in memory.
        number = number.reshape(shape[1:]).transpose().ravel()
    turns = min(-(-len(z) // GROUP), TURNS)
    takes_part = number // GROUP % turns == step % turns
    return jnp.where(takes_part[:, None], z, 0)


def average(settings, numbers):
    """What statistics are multiplied by, and what is added to them."""
    if settings.statistics == "moving_average":
        return numbers["beta2"], numbers["one_minus_beta2"]
    return 1.0, numbers["statistics_weight"]


def taken_in(settings, numbers, sums, z):
    keep, weight = average(settings, numbers)
    new = weight * products(z, settings.band)
    if settings.lagged_norms:
        before, last = sums
        return jnp.stack([stored(keep * before + last), stored(new)])
    return stored(keep * sums + new)


def stored(x):
    """Subnormal numbers are set to zero."""
    return jnp.where(jnp.abs(x) < jnp.finfo(x.dtype).tiny, 0, x)


def products(z, band):
    """Sums over chains of z[j] z[j + i], [band + 1, length]."""
    ahead = jnp.pad(z, ((0, 0), (0, band)))
    apart = lambda _, i: (None, jnp.sum(z * cut(ahead, i, z.shape[1]), 0))
    return scan(apart, None, jnp.arange(band + 1))[1]


def correlations(sums, shrink):
    """Those of positions 1 .. band apart, [band, length]; zero where a sum is no number
    of use."""
    band, length = sums.shape[0] - 1, sums.shape[1]
    positive = sums[0] > 0
    roots = jnp.where(positive, jax.lax.rsqrt(jnp.where(positive, sums[0], 1)), 0)
    ahead = jnp.pad(roots, (0, band))
    others = ahead[jnp.arange(1, band + 1)[:, None] + jnp.arange(length)]
    # One root after the other: their product may be beyond the range.
    rho = sums[1:] * roots * others
    rho = jnp.where(jnp.isfinite(rho), jnp.clip(rho, -1, 1), 0)
    return (1 - shrink) * rho


def factors(rho, gamma):
    """R^-1 = L D L^T: psi, [band, length], of which column j of L has -psi[:, j] below its
    diagonal, and the Schur complements 1 / D.

    The windows of all positions are eliminated at once, from their first row on."""
    band, length = rho.shape
    if band == 0:
        return rho, jnp.ones_like(rho, shape=(length,))
    ahead = jnp.pad(rho, ((0, 0), (0, band)))
    with_itself = jnp.concatenate([jnp.ones_like(ahead[:1]), ahead])
    # Between rows p and q, which are the positions j + 1 + p and j + 1 + q.
    p, q = jnp.arange(band)[:, None, None], jnp.arange(band)[:, None]
    window = with_itself[jnp.abs(p - q), 1 + jnp.minimum(p, q) + jnp.arange(length)]

    def eliminate(carry, _):
        window, right, schur, keep = carry
        pivot, column, z = window[0, 0], window[1:, 0], right[0]
        keep = keep & (gamma < pivot)
        # If a pivot is too small, later results are not used.
        pivot = jnp.where(keep, pivot, 1)
        lower, solution = column / pivot, z / pivot
        # As large as before: the zeros never become a pivot.
        window = jnp.pad(window[1:, 1:] - lower[:, None] * column, ((0, 1), (0, 1), (0, 0)))
        right = jnp.pad(right[1:] - lower * z, ((0, 1), (0, 0)))
        return (window, right, schur - solution * z, keep), (lower, solution)

    def substitute(psi, step):
        lower, solution = step
        first = solution - jnp.sum(lower * psi[:-1], 0)
        return jnp.concatenate([first[None], psi[:-1]]), None

    schur = jnp.ones_like(rho[0])
    start = window, rho, schur, schur > 0
    vary = functools.partial(varying, axes=union(rho, gamma))
    (_, _, schur, keep), steps = jax.lax.scan(eliminate, tuple(map(vary, start)), length=band)
    psi, _ = jax.lax.scan(substitute, vary(jnp.zeros_like(rho)), steps, reverse=True)
    keep = keep & (gamma < schur)
    return jnp.where(keep, psi, 0), jnp.where(keep, schur, 1)


def solved(x, psi, schur):
    """R^-1 x of all chains."""
    band, length = psi.shape
    neighbours = jnp.arange(1, band + 1), psi
    x = varying(x, union(x, psi, schur))
    ahead = jnp.pad(x, ((0, 0), (0, band)))
    explain = lambda w, of: (w - of[1] * cut(ahead, of[0], length), None)
    w = scan(explain, x, neighbours)[0] / schur
    behind = jnp.pad(w, ((0, 0), (band, 0)))

    def spread(u, of):
        k, psi = of
        own = cut(jnp.pad(psi, (band, 0)), band - k, length)
        return u - own * cut(behind, band - k, length), None

    return scan(spread, w, neighbours)[0]


def scan(body, start, over):
    return jax.lax.scan(body, start, over, unroll=UNROLL)


def cut(x, start, length):
    return jax.lax.dynamic_slice_in_dim(x, start, length, axis=x.ndim - 1)
