"""What a file has where training runs on several processes: each process writes a file of
whole leaves, and of rows of leaves. A row is an index of the first dimension."""

import json
import os
import re
import secrets
from typing import NamedTuple, Optional

import jax
import numpy as np
from jax.experimental import multihost_utils

from . import _around

# In the text that a file has of this package: which save it is of.
SET = "set"


class Piece(NamedTuple):
    """A leaf, or some of its rows."""

    leaf: int
    # The first row and the end; None for a whole leaf.
    rows: Optional[tuple] = None

    def shape(self, whole):
        return whole if self.rows is None else (self.rows[1] - self.rows[0], *whole[1:])


def is_spread(*trees):
    """Whether arrays belong to several processes."""
    arrays = [x for x in jax.tree.leaves(trees) if isinstance(x, jax.Array)]
    return any(not x.is_fully_addressable for x in arrays)


def whole(leaves):
    """All leaves that have elements."""
    return [Piece(i) for i, a in enumerate(leaves.arrays) if np.prod(a.shape) > 0]


def to_save(leaves):
    """The pieces of each process that writes a file. Rows are written by a process that has
    them; other leaves by one process each, so that the files are about equally large."""
    written = [[] for _ in range(jax.process_count())]
    sizes, others = [0] * len(written), []
    for piece in whole(leaves):
        array = leaves.arrays[piece.leaf]
        rows = rows_of_processes(leaves, piece.leaf)
        if rows is None:
            others.append((array.size * array.dtype.itemsize, piece.leaf))
            continue
        for process, own in sorted(rows.items()):
            if own not in [rows[p] for p in rows if p < process]:
                written[process].append(Piece(piece.leaf, own))
                sizes[process] += array.size * array.dtype.itemsize // len(set(rows.values()))
    for size, leaf in sorted(others, key=lambda pair: (-pair[0], pair[1])):
        least = sizes.index(min(sizes))
        written[least].append(Piece(leaf))
        sizes[least] += size
    return {process: sorted(own) for process, own in enumerate(written) if own}


def to_load(leaves):
    """The pieces that this process needs."""

    def needed(piece):
        rows = rows_of_processes(leaves, piece.leaf)
        return piece if rows is None else Piece(piece.leaf, rows[jax.process_index()])

    return list(map(needed, whole(leaves)))


def rows_of_processes(leaves, i):
    """The rows of a leaf that each process has, if files have them: the leaf is cut between
    rows, and neither an entry of a sub-diagonal nor a chain whose correlations are pooled
    belongs to elements of two processes. None if files have the whole leaf."""
    array, kind, settings = leaves.arrays[i], leaves.kinds[i], leaves.settings
    rows, parts = rows_by_process(array)
    if kind.is_pooled(settings):
        # Sums of all chains are those of a part only between steps.
        is_between = kind.first_of_units == 0 and len(array.shape) > 1 and settings.lagged_norms
        return rows if is_between else None
    has_edges = kind.band(settings) > 0
    in_rows = kind.chains == "contiguous_lines" and len(array.shape) > 1
    # Of a leaf that is cut for the step, chains end at the cut.
    ends = bool(leaves.axes[i]) and parts == 1
    if rows is not None and (not has_edges or in_rows or ends):
        return rows
    if has_edges and not is_of_pieces(kind.chains, leaves.cut_dims[i], len(array.shape)):
        raise ValueError(
            f"{kind.name!r} is cut along its dimensions {leaves.cut_dims[i]} by partition_specs, "
            f"and its chains are {kind.chains!r}: parts have chains that are no pieces of those of "
            "the whole leaf, which a file has. Cut it along its units, or use a tool for pytrees, "
            "such as Orbax"
        )
    return None


def is_of_pieces(chains, dims, ndim):
    """Whether the chains of parts are pieces of those of the whole leaf, which is cut along
    these dimensions."""
    if chains.endswith("_lines") or ndim < 2:
        return True
    return set(dims) <= {ndim - 1 if chains == "strided" else 0}


def rows_by_process(array):
    """For each process the rows of an array that it has, and into how many parts they are
    cut there at most; None, if processes do not have different rows, or not whole ones."""
    sharding = getattr(array, "sharding", None)
    if sharding is None or not is_spread(array) or array.is_fully_replicated:
        return None, 1
    ranges = {}
    for device, (first, *others) in sharding.devices_indices_map(array.shape).items():
        if any(cut.indices(n)[:2] != (0, n) for cut, n in zip(others, array.shape[1:])):
            return None, 1
        ranges.setdefault(device.process_index, set()).add(first.indices(array.shape[0])[:2])
    rows = {}
    for process, own in ranges.items():
        ends = sorted(own)
        if any(a[1] != b[0] for a, b in zip(ends, ends[1:])):
            return None, 1
        rows[process] = (ends[0][0], ends[-1][1])
    if set(rows) != set(range(jax.process_count())) or len(set(rows.values())) == 1:
        return None, 1
    return rows, max(map(len, ranges.values()))


def part(name, array, piece=None):
    """A piece of an array, as an array of numpy. If no process has the whole, every process
    has to call this."""
    if piece is None or piece.rows is None or not _around.is_cut(array):
        array = _around.on_host(name, array)
        return array if piece is None or piece.rows is None else array[slice(*piece.rows)]
    data = np.empty(piece.shape(array.shape), array.dtype)
    for shard in array.addressable_shards:
        first, end, _ = shard.index[0].indices(array.shape[0])
        data[first - piece.rows[0] : end - piece.rows[0]] = shard.data
    return data


def shaped_part(name, array, piece=None):
    """An array of numpy like such a piece, without its numbers."""
    if piece is None or piece.rows is None:
        return _around.shaped(name, array)
    return np.zeros(piece.shape(array.shape), array.dtype)


def placed(data, piece, like):
    """The array of which this is a piece, cut as the one that it replaces."""
    if not isinstance(like, jax.Array) or like.is_fully_addressable:
        return _around.placed(data, like)
    first = piece.rows[0] if piece is not None and piece.rows is not None else 0

    def of_device(index):
        if first:
            start, end, _ = index[0].indices(like.shape[0])
            index = (slice(start - first, end - first), *index[1:])
        return data[index]

    return jax.make_array_from_callback(like.shape, like.sharding, of_device)


def name_of(path, number, count):
    """The name of a file of several: `step.safetensors` is in
    `step-00001-of-00004.safetensors` and so on."""
    stem, extension = os.path.splitext(os.fsdecode(path))
    return f"{stem}-{number:05}-of-{count:05}{extension}"


def files(path):
    """The file of this name, or the files that several processes wrote in its place."""
    path = os.fsdecode(path)
    folder, name = os.path.split(path)
    stem, extension = os.path.splitext(name)
    pattern = re.compile(re.escape(stem) + r"-(\d{5})-of-(\d{5})" + re.escape(extension))
    matches = [pattern.fullmatch(other) for other in sorted(os.listdir(folder or "."))]
    numbers = [tuple(map(int, match.groups())) for match in matches if match]
    if not numbers:
        return [path]
    counts = sorted({count for _, count in numbers})
    if len(counts) > 1 or os.path.exists(path):
        there = [f"{count} files" for count in counts]
        there += ["one file"] if os.path.exists(path) else []
        raise ValueError(f"{path!r} was saved as {' and as '.join(there)}: remove all but one")
    (count,) = counts
    missing = sorted(set(range(1, count + 1)) - {number for number, _ in numbers})
    if missing:
        raise ValueError(f"{name_of(path, missing[0], count)!r} is missing")
    listed = [name_of(path, number, count) for number in range(1, count + 1)]
    saves = [text_of(file).get(SET) for file in listed]
    for file, save in zip(listed, saves):
        if save != saves[0]:
            raise ValueError(f"{listed[0]!r} and {file!r} are of two different saves")
    return listed


def text_of(file):
    """The text of this package in a file."""
    try:
        with open(file, "rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            metadata = json.loads(opened.read(length))["__metadata__"]
        return json.loads(metadata.get("sonew.text." + _around.KEY, "{}"))
    except (ValueError, KeyError, MemoryError, OverflowError):
        # It is damaged, which the library says better.
        return {}


def new_save():
    """A name for a save, the same on all processes."""
    drawn = np.frombuffer(secrets.token_bytes(8), np.uint32)
    return multihost_utils.broadcast_one_to_all(drawn).tobytes().hex()


def all_have(error):
    """Waits for all processes; an error of one is one of all."""
    failed = np.ravel(multihost_utils.process_allgather(np.int32(error is not None)))
    if error is not None:
        raise error
    if np.any(failed):
        raise RuntimeError(f"process {int(np.argmax(failed))} could not write its file")
