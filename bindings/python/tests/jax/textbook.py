"""A step with pooled correlations as in a textbook, with matrices of numpy in float64: a leaf
with strided chains, Nesterov momentum and the graft of Adam."""

import dataclasses

import numpy as np

BETA1, BETA2, EPS, SHRINK = 0.8, 0.9, 1e-4, 0.1


@dataclasses.dataclass(frozen=True)
class Case:
    """Options of the method."""

    pooling: str
    size: int
    lagged: bool = True
    damping: str = "absolute"
    gamma: float = 0.0

    def options(self):
        named = {"band": {"band": self.size}, "rank": {"rank": self.size}, "all": {}}[self.pooling]
        return {
            "beta1": BETA1, "beta2": BETA2, "eps": EPS, "shrink": SHRINK, "nesterov": True,
            "pooling": self.pooling, "lagged_norms": self.lagged, "damping": self.damping,
            "gamma": self.gamma, "graft_eps": 1e-8, **named,
        }  # fmt: skip


class Leaf:
    def __init__(self, shape, case):
        self.case, self.length = case, shape[0]
        size = int(np.prod(shape))
        self.m, self.d = np.zeros(size), np.zeros(size)
        self.pool = {"band": Band, "rank": Directions, "all": All}[case.pooling](self.length, case)
        self.ratio, self.count = 0.0, 0

    def direction(self, g):
        shape, g = g.shape, np.asarray(g, np.float64).ravel("F")
        self.count += 1
        self.m = BETA1 * self.m + (1 - BETA1) * g
        self.d = BETA2 * self.d + (1 - BETA2) * g * g
        # Nesterov momentum.
        m = (BETA1 * self.m + (1 - BETA1) * g) / (1 - BETA1**self.count)
        d = self.d / (1 - BETA2**self.count)
        a = m / (np.sqrt(d) + 1e-8)
        q = np.sqrt(d + EPS * (d.max() if self.case.damping == "relative" else 1))
        z = (g / q).reshape(-1, self.length)
        # Of more than 256 chains, groups take turns in the sums (in one of two dimensions).
        turns = min(-(-len(z) // 256), 4)
        z = z[np.arange(len(z)) // 256 % turns == self.count % turns]
        inverse = self.pool.inverse()
        self.pool.add(z)
        if not self.case.lagged:
            inverse = self.pool.inverse()
        x = (m / q).reshape(-1, self.length)
        u = (x @ inverse).ravel() / q
        own = np.linalg.norm(a) / np.linalg.norm(u)
        will_do = self.case.lagged and 0 < self.ratio <= 2 * own
        u, self.ratio = u * (self.ratio if will_do else own), own
        return u.reshape(shape, order="F")


class All:
    """P, and the inverse of all of R."""

    def __init__(self, length, case):
        self.case, self.length = case, length
        self.gram = np.zeros((length, length))

    def add(self, z):
        self.gram = BETA2 * self.gram + (1 - BETA2) * z.T @ z

    def correlations(self):
        roots = np.sqrt(np.diag(self.gram))
        outer = np.outer(roots, roots)
        r = (1 - SHRINK) * np.divide(self.gram, outer, out=np.zeros_like(outer), where=outer > 0)
        np.fill_diagonal(r, 1)
        return r

    def inverse(self):
        """A position that those before it explain too well loses its correlations with them."""
        r = self.correlations()
        for j in range(1, self.length):
            before = r[:j, :j]
            schur = 1 - r[j, :j] @ np.linalg.solve(before, r[:j, j])
            if schur <= self.case.gamma:
                r[j, :j] = r[:j, j] = 0
        return np.linalg.inv(r)

    def is_in(self, sums):
        """Whether these are the sums of a state."""
        return np.allclose(sums, np.triu(self.gram))


class Band(All):
    def inverse(self):
        """X with the sparsity of the band and (X^-1)_ij = R_ij on it; a position whose
        window is too nearly singular has no edges."""
        r = self.correlations()
        lower, d = np.eye(self.length), np.ones(self.length)
        for j in range(self.length):
            window = np.arange(j + 1, min(j + self.case.size + 1, self.length))
            block = r[np.ix_(window, window)]
            psi = np.linalg.solve(block, r[window, j])
            schur = 1 - psi @ r[window, j]
            pivots = np.linalg.cholesky(block).diagonal() ** 2
            if min([schur, *pivots]) > self.case.gamma:
                lower[window, j], d[j] = -psi, 1 / schur
        return lower @ np.diag(d) @ lower.T

    def is_in(self, sums):
        rows = [np.diagonal(self.gram, apart) for apart in range(self.case.size + 1)]
        return np.allclose(sums, [np.pad(row, (0, self.length - len(row))) for row in rows])


class Directions:
    """Orthonormal columns U and the average of P U."""

    def __init__(self, length, case):
        self.case, self.length, self.rank = case, length, min(case.size, length)
        numbers = np.array(chance(self.rank * length)).reshape(self.rank, length).T
        self.u = orthonormal(numbers, np.eye(length)[:, : self.rank])
        self.y, self.squares = np.zeros((length, self.rank)), np.zeros(length)

    def add(self, z):
        self.squares = BETA2 * self.squares + (1 - BETA2) * np.sum(z * z, 0)
        y = BETA2 * self.y + (1 - BETA2) * z.T @ (z @ self.u)
        turned = orthonormal(y, self.u)
        self.y, self.u = y @ self.u.T @ turned, turned

    def inverse(self):
        trace, length = self.squares.sum(), self.length
        if trace == 0:
            return np.eye(length)
        shrunk = lambda x: (1 - SHRINK) * x * length / trace + SHRINK
        found = np.maximum(np.diag(self.u.T @ self.y), 0)
        rest = np.min(shrunk(found))
        if self.rank < length:
            rest = shrunk(max(trace - found.sum(), 0) / (length - self.rank))
        if rest <= self.case.gamma:
            return np.eye(length)
        weights = 1 - rest / np.maximum(shrunk(found), rest)
        spread = np.where(self.squares[:, None] > 0, self.u, 0)
        return (np.eye(length) - self.u * weights @ spread.T) / rest

    def is_in(self, sums):
        if self.case.lagged:
            # Theirs turn at the beginning of the next step.
            return np.allclose(sums[0], self.squares)
        return np.allclose(sums, np.vstack([self.squares, self.y.T, self.u.T]), atol=1e-7)


def orthonormal(columns, instead):
    """Gram and Schmidt's; what is a combination of those before is replaced."""
    done = np.zeros((len(columns), 0))

    def left(x):
        for _ in range(2):
            x = x - done @ (done.T @ x)
        return x, np.linalg.norm(x)

    for r, column in enumerate(columns.T):
        own, norm = left(column)
        if norm <= 2.0**-26 * np.linalg.norm(column):
            others = [instead[:, r], *instead.T]
            enough = np.sqrt(0.5 / columns.shape[1])
            own, norm = next(x for x in map(left, others) if x[1] >= enough)
        done = np.column_stack([done, own / norm])
    return done


def chance(count):
    """The first numbers of SplitMix64 with the seed 0, in [-1, 1)."""
    found, word = [], 2**64 - 1
    for i in range(1, count + 1):
        x = i * 0x9E3779B97F4A7C15 & word
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & word
        x = (x ^ x >> 27) * 0x94D049BB133111EB & word
        found.append(((x ^ x >> 31) >> 11) / 2**52 - 1)
    return found
