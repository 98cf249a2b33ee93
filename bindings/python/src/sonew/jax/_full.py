"""All pooled correlations of positions, in jax.numpy."""

import functools

import jax
import jax.numpy as jnp
from jax.lax.linalg import cholesky, triangular_solve

from ._band import inverse_roots, shrunk
from ._rank import matmul
from ._sharding import union, varying

solve = functools.partial(triangular_solve, left_side=True, lower=True)


def products(z):
    """Of each position with itself and all behind it."""
    return jnp.triu(matmul(z.T, z))


def inverse(sums, shrink, gamma):
    """x -> R^-1 x of all chains."""
    lower, _ = factor(correlations(sums, shrink), gamma)

    def apply(x):
        axes = union(x, lower)
        l, x = varying(lower, axes), varying(x, axes)
        return solve(l, solve(l, x.T), transpose_a=True).T

    return apply


def correlations(sums, shrink):
    roots = inverse_roots(jnp.diagonal(sums))
    above = jnp.triu(shrunk(sums, roots[:, None], roots, shrink), 1)
    return above + above.T + jnp.eye(len(sums), dtype=sums.dtype)


@jax.custom_jvp
def factor(r, gamma):
    """The lower factor of R, where a position whose pivot is not above gamma loses its
    correlations with those before it; and for each whether it keeps them, 1 or 0."""
    plain = cholesky(r, symmetrize_input=False)
    pivots = jnp.diagonal(plain) ** 2
    # Also if there are none, which are then no numbers.
    keeps_all = jnp.all(gamma < pivots)
    first = jnp.where(keeps_all, len(r), 0)
    lower, kept = with_removal(r, gamma, first)
    return jnp.where(keeps_all, plain, lower), jnp.where(keeps_all, 1, kept)


def with_removal(r, gamma, first):
    """The same, column by column; nothing is done if the first is behind the last."""
    size = len(r)
    number = jnp.arange(size)

    def column(state):
        j, lower, kept = state
        row = jax.lax.dynamic_index_in_dim(lower, j, 0, keepdims=False)
        own = jax.lax.dynamic_index_in_dim(r, j, 1, keepdims=False)
        left = own - matmul(lower, row)
        keeps = gamma < left[j]
        left = jnp.where(keeps, left, own)
        left = jnp.where(number >= j, left * jax.lax.rsqrt(left[j]), 0)
        lower = jax.lax.dynamic_update_index_in_dim(lower, jnp.where(keeps, row, 0), j, 0)
        lower = jax.lax.dynamic_update_index_in_dim(lower, left, j, 1)
        return j + 1, lower, jnp.where((number == j) & ~keeps, 0, kept)

    vary = functools.partial(varying, axes=union(r, gamma))
    start = first, jnp.zeros_like(r), jnp.ones_like(r, shape=(size,))
    return jax.lax.while_loop(lambda state: state[0] < size, column, tuple(map(vary, start)))[1:]


@factor.defjvp
def _derivative(primals, tangents):
    """The factor is that of R without the correlations that are lost, and depends on gamma
    only in which these are."""
    lower, kept = factor(*primals)
    change = jnp.tril(tangents[0], -1) * kept[:, None]
    change = change + change.T
    inner = solve(lower, solve(lower, change).T)
    # Half of the diagonal.
    inner = jnp.tril(inner, -1) + jnp.diag(jnp.diagonal(inner)) / 2
    return (lower, kept), (matmul(lower, inner), jnp.zeros_like(kept))
