"""What JAX and PyTorch know alike of pooled correlations."""

import functools

import numpy as np

# SONEW_MAX_POOLED_BAND, SONEW_MAX_POOLED_RANK and SONEW_MAX_POOLED_LENGTH.
MAX_BAND, MAX_RANK, MAX_LENGTH = 64, 64, 4096
# Chains that take part in the sums of a step together, and in those of one of so many steps at
# least.
GROUP, TURNS = 256, 4


def sums_shape(pooling, band, rank, is_lagged, length):
    """The shape of the state plane "pooled", of chains of this length."""
    rows = rows_of_sums(pooling, band, rank, length)
    if pooling == "rank":
        # The directions, which are last, are as many as rows but one.
        return (2 * rows + rows - 1 if is_lagged else rows + rows - 1, length)
    return (2, rows, length) if is_lagged else (rows, length)


def rows_of_sums(pooling, band, rank, length):
    """The rows of one set of sums in it, each as long as a chain. Lagged, the first set are those up
    to the step before the last, and the second, which follows, those of the last step alone."""
    return {"band": band + 1, "rank": min(rank, length) + 1, "all": length}[pooling]


def too_long(name, length):
    """What is wrong with chains of this length, all of whose correlations are to be pooled; or
    None."""
    if length <= MAX_LENGTH:
        return None
    return (
        f"{name} has chains of {length} coordinates; all correlations can be pooled of chains of "
        f"at most {MAX_LENGTH}"
    )


@functools.lru_cache(maxsize=64)
def first_directions(rank, length):
    """The directions before the first step, [rank, length]: the numbers of SplitMix64 with the
    seed 0, made orthonormal one after the other. None is nearly a combination of those before."""
    numbers = chance(rank * length).reshape(rank, length)
    q, r = np.linalg.qr(numbers.T)
    # Gram and Schmidt's factors have a positive diagonal.
    return np.copysign(1.0, np.diag(r))[:, None] * q.T


def chance(count):
    """Numbers in [-1, 1)."""
    x = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    for by, factor in (30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB):
        x = (x ^ x >> np.uint64(by)) * np.uint64(factor)
    x = x ^ x >> np.uint64(31)
    return (x >> np.uint64(11)) * 2.0**-52 - 1
