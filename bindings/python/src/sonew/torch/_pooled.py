"""Pooled correlations in operations of torch: the chains of a parameter are the rows of a matrix,
and share the correlations R of their positions. All but the parameter's own numbers is computed
in the wide type, whatever precision products of float32 matrices have."""

import torch
from torch.nn.functional import pad

from .._pooling import GROUP, TURNS, first_directions
from ._options import is_lagged
from ._solve import applied, factors, from_chains, is_usable, to_chains


def direction(chains, group, m, d, g, sums, average, count):
    """q^-1 R^-1 q^-1 m^, and the pooled sums after the step: `sums` are those before it, in the
    wide type."""
    shape, dtype = m.shape, m.dtype
    m, d, g = (to_chains(x, chains) for x in (m, d, g))
    usable = is_usable(d)
    over_root = lambda x: torch.where(usable, x / torch.where(usable, d, 1).sqrt(), 0)

    def kept(x):
        """What is stored counts: the type is the arithmetic's, without subnormal numbers."""
        x = x.to(dtype)
        return torch.where(x.abs() < torch.finfo(dtype).tiny, 0, x).to(sums.dtype)

    z = in_turn(over_root(g), shape, chains, count).to(sums.dtype)
    if group["pooling"] == "rank":
        sums = taken_in_along(group, sums, z, average, kept, torch.finfo(dtype).eps)
    else:
        sums = taken_in(group, sums, z, average, kept)
    u = over_root(solved(group, sums, over_root(m)))
    return from_chains(u, shape, chains), sums.to(dtype)


def in_turn(z, shape, chains, count):
    """Zero for chains that take no part in the sums of the parameter's step of this number."""
    number = torch.arange(len(z), device=z.device)
    if chains == "strided_lines":
        # They are counted as they lie in memory.
        number = number.reshape(shape[1:]).permute(*reversed(range(len(shape) - 1))).flatten()
    turns = min(-(-len(z) // GROUP), TURNS)
    return torch.where((number // GROUP % turns == count % turns)[:, None], z, 0)


def taken_in(group, sums, z, average, kept):
    """The sums of a band, or of all correlations, after a step."""
    keep, weight = average
    if group["pooling"] == "all":
        products = weight * (z.T @ z).triu()
    else:
        ahead = pad(z, (0, group["band"]))
        rows = [(z * ahead[:, i : i + z.shape[1]]).sum(0) for i in range(group["band"] + 1)]
        products = weight * torch.stack(rows)
    if is_lagged(group):
        return torch.stack([kept(keep * sums[0] + sums[1]), kept(products)])
    return kept(keep * sums + products)


def solved(group, sums, x):
    """R^-1 x of all chains."""
    shrink, gamma, lagged = group["shrink"], group["gamma"], is_lagged(group)
    if group["pooling"] == "rank":
        return solved_along(*parts(lagged, sums), shrink, gamma, x.to(sums.dtype)).to(x.dtype)
    current = sums[0] if lagged else sums
    if group["pooling"] == "all":
        lower = factor(correlations(current, shrink), gamma)
        return torch.cholesky_solve(x.T.to(sums.dtype), lower).T.to(x.dtype)
    psi, schur = factors(torch.ones_like(current[:1]), band_of(current, shrink), gamma)
    psi, schur = [row.to(x.dtype) for row in psi], schur.to(x.dtype)
    return applied(psi, schur, torch.ones_like(schur, dtype=torch.bool), x)


def inverse_roots(squares):
    """Zero where a sum is no number of use."""
    roots = 1 / squares.sqrt()
    return torch.where(torch.isfinite(roots), roots, 0)


def shrunk(rho, shrink):
    return (1 - shrink) * torch.where(torch.isfinite(rho), rho.clamp(-1, 1), 0)


def band_of(sums, shrink):
    """(1 - shrink) P_i[j] / sqrt(P_0[j] P_0[j + i]) for i from 1 on, each of one chain."""
    band, length = sums.shape[0] - 1, sums.shape[1]
    roots = inverse_roots(sums[0])
    ahead = pad(roots, (0, band))
    return [shrunk(sums[i : i + 1] * roots * ahead[i : i + length], shrink) for i in range(1, band + 1)]


def correlations(sums, shrink):
    """All of R."""
    roots = inverse_roots(sums.diagonal())
    above = shrunk(sums * roots[:, None] * roots, shrink).triu(1)
    return above + above.T + torch.eye(len(sums), dtype=sums.dtype, device=sums.device)


# An operation of its own, since what it does depends on numbers, which torch.compile has not.
@torch.library.custom_op("sonew::factor", mutates_args=())
def factor(r: torch.Tensor, gamma: float) -> torch.Tensor:
    """The lower factor of R, where a position whose pivot is not above gamma loses its
    correlations with those before it."""
    lower, info = torch.linalg.cholesky_ex(r)
    if info == 0 and (lower.diagonal().square() > gamma).all():
        # As the fake one is: the factor comes with its columns along memory.
        return lower.contiguous()
    lower = torch.zeros_like(r)
    for j in range(len(r)):
        left = r[j:, j] - lower[j:, :j] @ lower[j, :j]
        keeps = left[0] > gamma
        lower[j, :j] = torch.where(keeps, lower[j, :j], 0)
        left = torch.where(keeps, left, r[j:, j])
        lower[j:, j] = left / left[0].sqrt()
    return lower


@factor.register_fake
def _factor(r, gamma):
    return torch.empty_like(r)


def parts(lagged, sums):
    """The sums of a rank, squares of positions and then the products along each direction;
    those of the last step alone, if they are apart; and the directions, each a row."""
    sets = 2 if lagged else 1
    rank = (len(sums) - sets) // (sets + 1)
    return sums.split([1 + rank, (sets - 1) * (1 + rank), rank])


def start(lagged, sums):
    """Gives the directions before the first step to the plane of sums, if it has none."""
    *_, directions = parts(lagged, sums)
    if not directions.any():
        first = torch.from_numpy(first_directions(*directions.shape))
        directions.copy_(first)


def taken_in_along(group, sums, z, average, kept, tolerance):
    """The sums of a rank, and the directions, after a step."""
    keep, weight = average
    before, last, directions = parts(is_lagged(group), sums)

    def products(directions):
        along = z @ directions.T
        return weight * torch.cat([z.square().sum(0, keepdim=True), along.T @ z])

    if is_lagged(group):
        before, directions = turned(kept(keep * before + last), directions, kept, tolerance)
        return torch.cat([before, kept(products(directions)), directions])
    now = kept(keep * before + products(directions))
    return torch.cat(turned(now, directions, kept, tolerance))


def turned(sums, directions, kept, tolerance):
    """Sums and directions after a step of subspace iteration."""
    sums = torch.where(torch.isfinite(sums).all(), sums, 0)
    new = orthonormal(sums[1:], directions, tolerance)
    along = (new @ directions.T) @ sums[1:]
    return torch.cat([sums[:1], kept(along)]), kept(new)


# One operation for torch.compile, which would write all rows out.
@torch.library.custom_op("sonew::orthonormal", mutates_args=())
def orthonormal(rows: torch.Tensor, instead: torch.Tensor, tolerance: float) -> torch.Tensor:
    """Rows become orthonormal, one after the other: each is what is left of it without those
    before it. Where its square is not above `tolerance` times what it was, the row of the same
    number of `instead`, which are orthonormal, takes its place; if too little is left of that,
    the first of which enough is."""
    count = len(rows)
    enough = 0.5 / count
    left_of_instead = torch.ones_like(rows[:, 0])
    done = torch.zeros_like(rows)
    largest = rows.abs().amax(1, keepdim=True)
    # So that squares are not beyond the range.
    rows = rows / torch.where(largest > 0, largest, 1)
    for r in range(count):
        has_enough = left_of_instead >= enough
        first = has_enough.int().argmax()
        other = torch.where(has_enough[r], instead[r], instead.index_select(0, first[None])[0])
        both, square = torch.stack([rows[r], other]), rows[r].square().sum()
        # Twice: what rounding has left the first time goes the second time.
        for _ in range(2):
            both = both - (both @ done[:r].T) @ done[:r]
        own, others = both.square().sum(1)
        is_new = own > tolerance * square
        row, square = torch.where(is_new, both[0], both[1]), torch.where(is_new, own, others)
        # It is zero only if `instead` are not orthonormal, in state that no step has left.
        is_there = is_new | (square >= enough / 2)
        done[r] = torch.where(is_there, row / torch.where(is_there, square, 1).sqrt(), 0)
        left_of_instead -= (instead @ done[r]).square()
    return done


@orthonormal.register_fake
def _orthonormal(rows, instead, tolerance):
    return torch.empty_like(rows)


def solved_along(before, last, directions, shrink, gamma, x):
    """R^-1 x along directions, whose sums are those before the last step's."""
    (rank, length), squares = directions.shape, before[0]
    along = (directions * before[1:]).sum(1).clamp(min=0)
    trace = squares.sum()
    mean = trace / length
    is_usable = (mean > 0) & (mean < float("inf"))
    of_mean = lambda x: (1 - shrink) * (x / torch.where(is_usable, mean, 1)) + shrink
    # Where directions span everything, nothing is along the rest.
    others = (trace - along.sum()).clamp(min=0) / max(length - rank, 1)
    rest = of_mean(others) if rank < length else of_mean(along).amin()
    is_usable = is_usable & (rest > gamma)
    rest = torch.where(is_usable, rest, 1)
    weights = torch.where(is_usable, 1 - rest / torch.maximum(of_mean(along), rest), 0)
    # A position without products has no part in directions: what rounding leaves there would be
    # multiplied with the largest 1 / q.
    spread = torch.where(squares > 0, directions, 0)
    return (x - ((x @ directions.T) * weights) @ spread) / rest
