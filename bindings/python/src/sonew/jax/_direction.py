"""Directions of the step in jax.numpy: where coordinates have neighbours, a leaf
becomes a matrix of chains, [chains, length], and the windows of all coordinates are
solved at once."""

import jax
import jax.numpy as jnp

from ._sharding import union


def to_chains(x, chains):
    if chains in ("strided", "strided_lines"):
        first = x.shape[0] if x.ndim else 1
        x = x.transpose()
        return x.reshape(-1, first) if chains == "strided_lines" else x.reshape(1, -1)
    last = x.shape[-1] if x.ndim else 1
    return x.reshape(-1, last) if chains == "contiguous_lines" else x.reshape(1, -1)


def from_chains(x, shape, chains):
    if chains in ("strided", "strided_lines"):
        return x.reshape(shape[::-1]).transpose()
    return x.reshape(shape)


def directions(leaves, corrected, gamma):
    """u = L D L^T m^ of all leaves."""
    found, groups = [None] * len(leaves), {}
    for i, (leaf, (m, d, e)) in enumerate(zip(leaves, corrected)):
        if not e or to_chains(d, leaf.chains).shape[1] == 1:
            found[i] = divided(m, d, d)
        else:
            # Under shard_map each keeps the axes that it varies over.
            groups.setdefault((d.dtype, union(m, d, *e)), []).append(i)
    for group in groups.values():
        pick = lambda listed, group=group: [listed[i] for i in group]
        chains = [leaf.chains for leaf in pick(leaves)]
        for i, u in zip(group, solved_together(chains, pick(corrected), gamma(group[0]))):
            found[i] = u
    return found


# A part has at least this many coordinates, and a step at most this many parts for
# each sub-diagonal.
LEAST_PART, MOST_PARTS = 1024, 4


def solved_together(chains, corrected, gamma):
    """The directions of leaves with sub-diagonals.

    All chains of all leaves are put into one row, each followed by `band` coordinates
    without edges, so that what is compiled does not grow with the number of leaves.
    The row is cut into parts that are solved one after the other: what is known of a
    coordinate's window while it is solved takes several times the memory of its state.
    """
    band, dtype = len(corrected[0][2]), corrected[0][0].dtype
    matrices = [to_chains(m, kind).shape for (m, _, _), kind in zip(corrected, chains)]
    starts = [band]
    for rows, length in matrices:
        starts.append(starts[-1] + rows * (length + band))
    total = starts[-1] - band
    parts = min(max(total // LEAST_PART, 1), MOST_PARTS * band)
    part = -(-total // parts)

    def in_a_row(arrays, fill):
        gap = jnp.full((band,), fill, dtype)
        pieces = [gap]
        for x, kind in zip(arrays, chains):
            x = to_chains(x, kind)
            if x.shape[0] > 1:
                x = jnp.pad(x, ((0, 0), (0, band)), constant_values=fill)
                pieces.append(x.reshape(-1))
            else:
                pieces += [x.reshape(-1), gap]
        return jnp.concatenate([*pieces, jnp.full((parts * part - total + band,), fill, dtype)])

    m, d, e = zip(*corrected)
    m, d, e = in_a_row(m, 0), in_a_row(d, 1), [in_a_row(plane, 0) for plane in zip(*e)]
    if parts == 1:
        u = solve(m, d, jnp.stack(e), gamma)
    else:

        def of_part(start):
            cut = lambda x: jax.lax.dynamic_slice(x, (start,), (part + 2 * band,))
            return solve(cut(m), cut(d), jnp.stack([cut(x) for x in e]), gamma)

        u = jax.lax.map(jax.checkpoint(of_part), jnp.arange(parts) * part).reshape(-1)
    found = []
    for (x, _, _), (rows, length), start, kind in zip(corrected, matrices, starts, chains):
        own = u[start - band : start - band + rows * (length + band)]
        own = own.reshape(rows, length + band)[:, :length]
        found.append(from_chains(own, x.shape, kind))
    return found


def divided(w, d, by):
    """w / by where d is finite and positive, otherwise zero."""
    usable = (d > 0) & (d < jnp.inf)
    return jnp.where(usable, w / jnp.where(usable, by, 1), 0)


def solve(m, d, e, gamma):
    """u of all coordinates but the first and the last `band`, of which only what
    they add to others is wanted.

    The window H_II, I = j+1 .. j+band, of every coordinate j is eliminated from j+1
    upward, for all coordinates at once: column q of the unit lower triangle is
    lower[q], and columns[q] is the same times the pivot.
    """
    band = e.shape[0]
    size = d.shape[0] - band
    lower, columns, solution = [], [], []
    schur, keep = d[:size], jnp.ones((size,), bool)
    for q in range(band):
        after = slice(q + 1, q + 1 + size)
        entry, z, column = d[after], e[q, :size], e[: band - q - 1, after]
        pivot = entry
        for t in range(q):
            # Row q of column t, and the rows below.
            own, below = columns[t][q - t - 1], slice(q - t, None)
            pivot = pivot - lower[t][q - t - 1] * own
            z = z - own * solution[t]
            column = column - lower[t][below] * own
        keep = keep & (gamma * entry < pivot)
        # If a pivot is too small, later results are not used.
        pivot = jnp.where(keep, pivot, 1)
        columns.append(column)
        lower.append(column * (1 / pivot))
        solution.append(z / pivot)
        schur = schur - solution[q] * z
    for q in reversed(range(band)):
        for r in range(q + 1, band):
            solution[q] = solution[q] - lower[q][r - q - 1] * solution[r]
    keep = keep & (gamma * d[:size] < schur)
    psi = [jnp.where(keep, x, 0) for x in solution]
    # The sum first: where it cancels most of m^, both are rounded alike.
    explained = 0
    for q in range(band):
        explained = explained - psi[q] * m[q + 1 : q + 1 + size]
    w = divided(m[:size] + explained, d[:size], jnp.where(keep, schur, d[:size]))
    u = w[band:]
    for q in range(band):
        u = u - (psi[q] * w)[band - 1 - q : size - 1 - q]
    return u
