"""Leaves that are cut between chains whose correlations are pooled. The sums belong to the
whole leaf: every device has all of them, and what the chains of its part add in a step is
added up over the parts before the next step."""

import jax
import jax.numpy as jnp
import numpy as np

from .._pooling import GROUP, rows_of_sums


def size(axis, name):
    """The size of a mesh axis."""
    try:
        return jax.lax.psum(1, axis)
    except NameError:
        raise ValueError(
            f"partition_specs cuts {name!r} along the mesh axis {axis!r}, which there "
            "is only inside jax.shard_map"
        ) from None


def number(leaf):
    """The number of this device's part of a leaf, and how many parts there are."""
    own, count = 0, 1
    for axis in leaf.axes:
        own = own * size(axis, leaf.name) + jax.lax.axis_index(axis)
        count *= size(axis, leaf.name)
    return own, count


def axes_of(leaves):
    """The mesh axes that leaves are cut along."""
    return tuple(dict.fromkeys(axis for leaf in leaves for axis in leaf.axes))


def speaks(leaf, axes):
    """Whether this device speaks for its part of a leaf: of those along these axes that have
    the same part, one does."""
    is_first = True
    for axis in axes:
        if axis not in leaf.axes:
            is_first &= jax.lax.axis_index(axis) == 0
    return is_first


def are_pooled(program):
    """For each leaf whether it is cut and pooled."""
    return [bool(leaf.axes) and leaf.is_pooled(program.settings) for leaf in program.leaves]


def chains(program, grads):
    """Which chains of the whole leaves those of the parts are: int32 [leaves, 2], the number of
    the first and how many the whole leaf has; zeros for other leaves. () if there are none."""
    if not program.has_parts:
        return ()
    rows = []
    for leaf, gradient, is_pooled in zip(program.leaves, grads, are_pooled(program)):
        row = jnp.zeros(2, jnp.int32)
        if is_pooled:
            own, parts = number(leaf)
            count = gradient.size // leaf.pooled_length(gradient.shape)
            first, whole = own * count, parts * count
            if whole <= GROUP:
                # They take no turns, whichever they are.
                first = 0
            elif set(leaf.cut_dims) - {leaf.first_of_units}:
                raise ValueError(
                    f"partition_specs cuts {leaf.name!r} along its dimensions {leaf.cut_dims}, and "
                    f"its {whole} chains take turns in pooled sums in groups of {GROUP}, in "
                    f"their order in memory. Cut it along its dimension {leaf.first_of_units} alone"
                )
            row = jnp.stack([jnp.int32(first), jnp.int32(whole)])
        rows.append(row)
    return jnp.stack(rows)


def place(settings, plane):
    """Where in the plane of pooled sums those of the last step are: rows [start, end)."""
    if settings.pooling != "rank":
        return 1, 2
    rows = rows_of_sums("rank", 0, settings.rank, plane.shape[1])
    return rows, 2 * rows


def own_sums(program, planes):
    """What the chains of the parts have added in the last step, for each leaf that is cut and
    pooled."""
    found = []
    for leaf, own, is_pooled in zip(program.leaves, planes, are_pooled(program)):
        if is_pooled:
            plane = own[leaf.pooled_at(program.settings)]
            start, end = place(program.settings, plane)
            found.append(plane[start:end])
    return tuple(found)


def with_sums(program, planes, sums):
    """State planes with these in the place of `own_sums`."""
    sums, replaced = iter(sums), []
    for leaf, own, is_pooled in zip(program.leaves, planes, are_pooled(program)):
        if is_pooled:
            at = leaf.pooled_at(program.settings)
            start, end = place(program.settings, own[at])
            plane = jnp.concatenate([own[at][:start], next(sums), own[at][end:]])
            own = (*own[:at], plane, *own[at + 1 :])
        replaced.append(own)
    return tuple(replaced)


def added(program, sums, are_added=True):
    """The sums over the parts of all leaves, by one collective for each type. Where they are not
    to be added, all parts have the same, which stays."""
    leaves = [leaf for leaf, is_pooled in zip(program.leaves, are_pooled(program)) if is_pooled]
    axes = axes_of(leaves)
    spoken = []
    for leaf, own in zip(leaves, sums):
        is_told = speaks(leaf, axes) & (are_added | (number(leaf)[0] == 0))
        spoken.append(jnp.where(is_told, own, 0).ravel())
    results = {}
    for dtype in dict.fromkeys(own.dtype for own in spoken):
        which = [i for i, own in enumerate(spoken) if own.dtype == dtype]
        total = jax.lax.psum(jnp.concatenate([spoken[i] for i in which]), axes)
        ends = np.cumsum([spoken[i].size for i in which])
        for i, own in zip(which, jnp.split(total, ends[:-1])):
            results[i] = own.reshape(sums[i].shape)
    return tuple(results[i] for i in range(len(spoken)))


def specs(program, of_leaves, planes, whole):
    """How the state planes are cut, where their leaves are cut like this: all alike, but for
    pooled sums, which are `whole`."""
    listed = []
    for leaf, spec, own in zip(program.leaves, of_leaves, planes):
        at = leaf.pooled_at(program.settings)
        listed.append(tuple(whole if i == at else spec for i in range(len(own))))
    return tuple(listed)
