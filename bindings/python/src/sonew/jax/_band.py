"""A band of pooled correlations in jax.numpy. Loops over the band are scans, so that what is
compiled does not grow with it."""

import functools

import jax
import jax.numpy as jnp

from ._sharding import union, varying

# Neighbours that are taken in one pass over memory.
UNROLL = 4


def products(z, band):
    """Sums over chains of z[j] z[j + i], [band + 1, length]."""
    ahead = jnp.pad(z, ((0, 0), (0, band)))
    apart = lambda _, i: (None, jnp.sum(z * cut(ahead, i, z.shape[1]), 0))
    return scan(apart, None, jnp.arange(band + 1))[1]


def inverse(sums, shrink, gamma):
    """x -> R^-1 x of all chains."""
    return functools.partial(solved, *factors(correlations(sums, shrink), gamma))


def correlations(sums, shrink):
    """Those of positions 1 .. band apart, [band, length]; zero where a sum is no number
    of use."""
    band, length = sums.shape[0] - 1, sums.shape[1]
    roots = inverse_roots(sums[0])
    ahead = jnp.pad(roots, (0, band))
    others = ahead[jnp.arange(1, band + 1)[:, None] + jnp.arange(length)]
    return shrunk(sums[1:], roots, others, shrink)


def inverse_roots(squares):
    """Zero where a sum is no number of use."""
    positive = squares > 0
    return jnp.where(positive, jax.lax.rsqrt(jnp.where(positive, squares, 1)), 0)


def shrunk(products, roots, others, shrink):
    """Correlations of pairs of positions."""
    # One root after the other: their product may be beyond the range.
    rho = products * roots * others
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


def solved(psi, schur, x):
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
