"""Directions u = X m^ in operations of torch. A tensor becomes a matrix of chains,
[chains, length], and the windows of all coordinates are eliminated at once."""

import torch
from torch.nn.functional import pad


def to_chains(x, chains):
    if chains in ("strided", "strided_lines"):
        first = x.shape[0] if x.ndim else 1
        x = x.permute(*reversed(range(x.ndim)))
        return x.reshape(-1, first) if chains == "strided_lines" else x.reshape(1, -1)
    last = x.shape[-1] if x.ndim else 1
    return x.reshape(-1, last) if chains == "contiguous_lines" else x.reshape(1, -1)


def from_chains(x, shape, chains):
    if chains in ("strided", "strided_lines"):
        return x.reshape(tuple(reversed(shape))).permute(*reversed(range(len(shape))))
    return x.reshape(shape)


def ahead(x, k, fill=0.0):
    """x_j+k at position j; `fill` after the end of the chain."""
    k = min(k, x.shape[1])
    return pad(x[:, k:], (0, k), value=fill)


def behind(x, k):
    """x_j-k at position j; zero before the start of the chain."""
    k = min(k, x.shape[1])
    return pad(x[:, : x.shape[1] - k], (k, 0))


def is_usable(d):
    return (d > 0) & (d < float("inf"))


def factors(d, e, gamma):
    """psi and the Schur complements of a matrix with diagonal d and sub-diagonals e. A
    coordinate whose pivots are too small has psi 0, and its own entry."""
    band, size = len(e), d.shape[1]
    lower, columns, solution = [], [], []
    schur, keep = d, torch.ones_like(d, dtype=torch.bool)
    for q in range(band):
        # Row q of the window of j is coordinate j + q + 1.
        inside = torch.arange(size, device=d.device) < size - q - 1
        entry, z = ahead(d, q + 1, 1.0), e[q]
        column = [ahead(e[r], q + 1) for r in range(band - q - 1)]
        pivot = entry
        for t in range(q):
            own, below = columns[t][q - t - 1], q - t
            pivot = pivot - lower[t][q - t - 1] * own
            z = z - own * solution[t]
            column = [
                x - lower[t][below + r] * own for r, x in enumerate(column)
            ]
        keep = keep & ((gamma * entry < pivot) | ~inside)
        # If a pivot is too small, later results are not used.
        pivot = torch.where(keep & inside, pivot, 1)
        columns.append(column)
        lower.append([x / pivot for x in column])
        solution.append(z / pivot)
        schur = schur - solution[q] * z
    for q in reversed(range(band)):
        for r in range(q + 1, band):
            solution[q] = solution[q] - lower[q][r - q - 1] * solution[r]
    keep = keep & (gamma * d < schur)
    return [torch.where(keep, x, 0) for x in solution], torch.where(keep, schur, d)


def applied(psi, schur, usable, m):
    """L D L^T m."""
    # The sum first: where it cancels most of m^, both are rounded alike.
    explained = torch.zeros_like(m)
    for q, x in enumerate(psi):
        explained = explained - x * ahead(m, q + 1)
    w = torch.where(usable, (m + explained) / torch.where(usable, schur, 1), 0)
    u = w
    for q, x in enumerate(psi):
        u = u - behind(x * w, q + 1)
    return u
