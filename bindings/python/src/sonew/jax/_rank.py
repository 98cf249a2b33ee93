"""Pooled correlations along a few leading directions, in jax.numpy. A direction is a row."""

import functools

import jax
import jax.numpy as jnp

from .._pooling import first_directions
from ._bits import stored
from ._sharding import union, varying

# Otherwise some processors multiply numbers that are rounded to fewer bits first.
matmul = functools.partial(jnp.matmul, precision="highest")


def taken_in(is_lagged, keep, weight, sums, z):
    """The plane of sums after a step in which these are all chains' z: the sums, those of
    this step if correlations are those of the step before, and the directions."""
    before, last, directions = parts(is_lagged, sums)
    first = first_directions(*directions.shape)
    directions = jnp.where(jnp.any(directions != 0), directions, first.astype(sums.dtype))
    if is_lagged:
        before, directions = turned(stored(keep * before + last), directions)
        last = stored(weight * products(z, directions))
        return jnp.concatenate([before, last, directions])
    now = stored(keep * before + weight * products(z, directions))
    return jnp.concatenate(turned(now, directions))


def parts(is_lagged, sums):
    """The sums, squares of positions and then the products along each direction; those of
    the last step alone, if they are apart; and the directions."""
    sets = 2 if is_lagged else 1
    rank = (len(sums) - sets) // (sets + 1)
    before, last, directions = jnp.split(sums, [1 + rank, sets * (1 + rank)])
    return before, last, directions


def products(z, directions):
    along = matmul(z, directions.T)
    return jnp.concatenate([jnp.sum(z * z, 0, keepdims=True), matmul(along.T, z)])


def turned(sums, directions):
    """Sums and directions after a step of subspace iteration."""
    sums = jnp.where(jnp.all(jnp.isfinite(sums)), sums, 0)
    new = orthonormal(sums[1:], directions)
    along = matmul(matmul(new, directions.T), sums[1:])
    return jnp.concatenate([sums[:1], stored(along)]), stored(new)


def orthonormal(rows, instead):
    """Rows become orthonormal, one after the other: each is what is left of it without those
    before it. Where that is rounding, the row of the same number of `instead`, which are
    orthonormal, takes its place; if too little is left of that, the first of which enough is."""
    count = len(rows)
    tolerance, enough = jnp.finfo(rows.dtype).eps, 0.5 / count
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(rows), 1, keepdims=True))
    # So that squares are not beyond the range.
    rows = rows / jnp.where(largest > 0, largest, 1)

    def one(carry, own):
        done, left_of_instead = carry
        r, row = own
        has_enough = left_of_instead >= enough
        other = jnp.where(has_enough[r], r, jnp.argmax(has_enough))
        both = jnp.stack([row, jax.lax.dynamic_index_in_dim(instead, other, keepdims=False)])
        square = jnp.sum(row * row)
        # Twice: what rounding has left the first time goes the second time.
        for _ in range(2):
            both = both - matmul(matmul(both, done.T), done)
        squares = jnp.sum(both * both, 1)
        is_new = squares[0] > tolerance * square
        row, square = jnp.where(is_new, both[0], both[1]), jnp.where(is_new, *squares)
        # It is zero only if `instead` are not orthonormal, in state that no step has left.
        is_there = is_new | (square >= enough / 2)
        row = jnp.where(is_there, row * jax.lax.rsqrt(jnp.where(is_there, square, 1)), 0)
        done = jax.lax.dynamic_update_index_in_dim(done, row, r, 0)
        return (done, left_of_instead - matmul(instead, row) ** 2), None

    start = jnp.zeros_like(rows), jnp.ones_like(rows, shape=(count,))
    start = jax.tree.map(functools.partial(varying, axes=union(rows, instead)), start)
    return jax.lax.scan(one, start, (jnp.arange(count), rows))[0][0]


def inverse(is_lagged, sums, shrink, gamma):
    """x -> R^-1 x of all chains."""
    before, _, directions = parts(is_lagged, sums)
    squares, along = before[0], jnp.sum(directions * before[1:], 1)
    (rank, length), trace = directions.shape, jnp.sum(squares)
    mean = trace / length
    is_usable = (mean > 0) & (mean < jnp.inf)
    shrunk = lambda x: (1 - shrink) * (x / jnp.where(is_usable, mean, 1)) + shrink
    along = jnp.maximum(along, 0)
    # Where directions span everything, nothing is along the rest.
    others = jnp.maximum(trace - jnp.sum(along), 0) / max(length - rank, 1)
    rest = shrunk(others) if rank < length else jnp.min(shrunk(along))
    is_usable = is_usable & (gamma < rest)
    rest = jnp.where(is_usable, rest, 1)
    weights = jnp.where(is_usable, 1 - rest / jnp.maximum(shrunk(along), rest), 0)
    # A position without products has no part in directions: what rounding leaves there would
    # be multiplied with the largest 1 / q.
    spread = jnp.where(squares > 0, directions, 0)
    return lambda x: (x - matmul(matmul(x, directions.T) * weights, spread)) / rest
