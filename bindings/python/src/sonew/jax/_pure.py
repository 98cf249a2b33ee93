"""The step in jax.numpy: for platforms that libsonew has no custom call for,
and for derivatives. It computes the same as the library, up to rounding.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from . import _bits, _pooled
from ._direction import directions, from_chains, to_chains
from ._settings import NUMBERS
from ._sharding import union

# The smallest relative damping, as in the authors' JAX code.
LEAST_RELATIVE_DAMPING = 1e-24
# An update with the norms of the step before may be so many times as long as with those
# of its own.
TOO_LONG = 2


class Numbers:
    """The numbers of a step: exact Python floats if they are static, otherwise
    arrays."""

    def __init__(self, program, count, traced):
        self.count = count
        traced = iter(range(traced.shape[0])), traced
        self.values = {
            name: traced[1][next(traced[0])] if value is None else value
            for name, value in zip(NUMBERS, program.numbers)
        }

    def get(self, name, dtype):
        value = self.values[name]
        return value if isinstance(value, float) else value.astype(dtype)

    def correction(self, name, dtype):
        """1 / (1 - beta^t): without the cancellation of the power near 1."""
        beta = self.get(name, dtype)
        steps = self.count.astype(dtype) + 1
        if isinstance(beta, float):
            log = math.log(beta) if beta > 0 else -math.inf
        else:
            log = jnp.log1p(beta - 1)
        return -1 / jnp.expm1(steps * log)


def ahead(x, k, fill=0.0):
    """x_j+k at position j; `fill` after the end of the chain."""
    k = min(k, x.shape[1])
    return jnp.pad(x[:, k:], ((0, 0), (0, k)), constant_values=fill)


def behind(x, k):
    """x_j-k at position j; zero before the start of the chain."""
    k = min(k, x.shape[1])
    return jnp.pad(x[:, : x.shape[1] - k], ((0, 0), (k, 0)))


def where_positive(x, function):
    """function(x) where x is positive, and zero elsewhere, in derivatives too."""
    holds = x > 0
    return jnp.where(holds, function(jnp.where(holds, x, 1)), 0)


def root(x):
    # where_positive() would turn a NaN into zero.
    return jnp.where(x == x, where_positive(x, jnp.sqrt), x)


def quotient(a, b):
    return where_positive(b, lambda b: 1 / b) * a


def finite_or(x, other):
    """x where it is finite: what is beyond the range of its type reaches no parameter."""
    return jnp.where(jnp.isfinite(x), x, other)


def squares(x):
    return jnp.sum(x * x)


@jax.custom_jvp
def finite_squares(x):
    """The squared norm; NaN if the square of an element is not finite."""
    return jnp.sum(jnp.where(x * x < jnp.inf, x * x, jnp.nan))


@finite_squares.defjvp
def _derivative(primals, tangents):
    (x,), (change,) = primals, tangents
    finite = jnp.all(x * x < jnp.inf)
    return finite_squares(x), 2 * jnp.sum(jnp.where(finite, x, 0) * change)


def sum_of(numbers):
    """A sum of scalars as a loop: compilers put a long sum of scalars once more into
    everything that depends on it."""
    rows = [sum(numbers[i : i + 8]) for i in range(0, len(numbers), 8)]
    if len(rows) == 1:
        return rows[0]
    return jax.lax.scan(lambda total, x: (total + x, None), rows[0], jnp.stack(rows[1:]))[0]


def arithmetic(target, state):
    return jnp.float64 if jnp.float64 in (target.dtype, state.dtype) else jnp.float32


@functools.partial(jax.jit, static_argnums=0)
def gradient_squares(dtype, gradient, scale):
    """The squared norm of a gradient; NaN if it is not finite."""
    return finite_squares(gradient.astype(dtype) * scale)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def take_in(settings, leaf, index, dtype, numbers, planes, gradient, norm):
    """A leaf's state updated with the gradient, and the squared norm of the
    graft's vector. `norm` is that of the gradient."""
    g = gradient.astype(dtype) * numbers["scale"]
    old = [plane.astype(dtype) for plane in planes]
    state_dtype = planes[0].dtype
    band = leaf.band(settings)

    def stored(x, plane):
        """A new plane: subnormal numbers are set to zero, then it is rounded."""
        tiny = jnp.finfo(dtype if state_dtype == jnp.float64 else jnp.float32).tiny
        x = jnp.where(jnp.abs(x) < tiny, 0, x)
        return _bits.rounded(x, state_dtype, settings, numbers["step"], index, plane)

    beta1, beta2 = numbers["beta1"], numbers["beta2"]
    keep, weight = _pooled.average(settings, numbers)
    new = [stored(beta1 * old[0] + numbers["one_minus_beta1"] * g, 0)]
    new.append(stored(keep * old[1] + (weight * g) * g, 1))
    for k in range(1, band + 1):
        neighbour = from_chains(ahead(to_chains(g, leaf.chains), k), g.shape, leaf.chains)
        new.append(stored(keep * old[1 + k] + (weight * g) * neighbour, 1 + k))
    q = jnp.where(norm > 0, 1 / jnp.where(norm > 0, norm, 1), 0) * g
    if leaf.has_rms(settings):
        rms = 2 + band
        weight = numbers["one_minus_beta2"]
        new.append(stored(beta2 * old[rms] + (weight * q) * q, rms))

    graft, eps = leaf.graft(settings), numbers["graft_eps"]
    m = momentum(settings, numbers, new[0].astype(dtype), g)
    if graft == "sgd":
        reference = squares(g)
    elif graft == "momentum":
        reference = squares(m)
    elif graft == "adam":
        h = new[1].astype(dtype) * numbers["correct_graft"]
        reference = squares(quotient(m, root(h) + eps))
    elif graft == "normalized_rmsprop":
        reference = squares(quotient(q, root(new[2 + band].astype(dtype)) + eps))
    else:
        reference = jnp.zeros((), dtype)
    # Pooled sums come with directions, and master weights with the end of the step.
    return (*new, *planes[len(new) :]), reference


@functools.partial(jax.jit, static_argnums=0)
def largest_entry(dtype, numbers, diagonal):
    """The largest H_jj that is finite."""
    h = diagonal.astype(dtype)
    return jnp.max(jnp.where(h < jnp.inf, h, 0)) * numbers["correct_statistics"]


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def largest_l1(settings, leaf, dtype, numbers, planes):
    """The largest H_jj + |H_j,j-1|; the first coordinate of a chain takes the
    entry with the second."""
    correct = numbers["correct_statistics"]
    h = to_chains(planes[1].astype(dtype), leaf.chains) * correct
    if leaf.band(settings) == 0:
        return jnp.max(h)
    e = jnp.abs(to_chains(planes[2].astype(dtype), leaf.chains) * correct)
    return jnp.max(h + behind(e, 1).at[:, 0].set(e[:, 0]))


def momentum(settings, numbers, m, g):
    """m^ of the momentum after a step with the gradient g."""
    if settings.nesterov:
        m = numbers["beta1"] * m + numbers["one_minus_beta1"] * g
    return m * numbers["correct_momentum"]


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def corrected(settings, leaf, dtype, numbers, planes, gradient, damping):
    """m^ and the damped H^ of a leaf: momentum, diagonal and sub-diagonals."""
    g = gradient.astype(dtype) * numbers["scale"]
    m = momentum(settings, numbers, planes[0].astype(dtype), g)
    h, *e = [plane.astype(dtype) * numbers["correct_statistics"] for plane in planes[1:]]
    d = root(h) + numbers["graft_eps"] if leaf.update == "adam" else h + damping
    return m, d, e


def step(program, count, traced, reached, parts, scalars, targets, grads, planes):
    """The results of `_step.run`."""
    run = Run(program, count, traced, parts, scalars, targets, grads, planes)
    if not program.staged:
        known = {}
        while (stage := run.advance(known)) is not None:
            known[stage] = run.numbers
        return run.taken(), (), run.scalars, run.targets, run.planes
    known = {
        stage: [run.reduced(stage, reached[i, :, j]) for j in range(len(grads))]
        for i, stage in enumerate(program.reached)
    }
    run.advance(known)
    numbers = tuple(jnp.stack([_bits.from_float(x) for x in pair]) for pair in run.numbers)
    return run.taken(), numbers, run.scalars, run.targets, run.planes


class Run:
    """A step, or one stage of it."""

    def __init__(self, program, count, traced, parts, scalars, targets, grads, planes):
        self.program, self.settings = program, program.settings
        self.all, self.parts = Numbers(program, count, traced), parts
        self.targets, self.grads, self.planes = targets, grads, planes
        # Those of the step before, and of this one.
        self.before = self.scalars = scalars
        like = targets if program.has_target else grads
        self.dtypes = [arithmetic(t, p[0]) for t, p in zip(like, planes)]
        self.types = [t.dtype for t in like]
        self.step_number = count + 1
        self.ok = None
        self.clip = None
        self.references = None
        self.directions = None
        self.numbers = self.nothing()

    def nothing(self):
        return [(jnp.zeros((), dtype),) * 2 for dtype in self.dtypes]

    def leaves(self):
        # Without their names, so that similar leaves share a compiled function.
        nameless = [dataclasses.replace(leaf, name="") for leaf in self.program.leaves]
        return zip(nameless, self.dtypes, self.grads, self.planes)

    def values(self, dtype):
        """The numbers that the functions of a leaf need, in its arithmetic type."""
        settings = self.settings
        get = lambda name: jnp.asarray(self.all.get(name, dtype), dtype)
        one = jnp.ones((), dtype)
        corrects = settings.bias_correction
        averaged = settings.statistics == "moving_average"
        statistics = self.all.correction("beta2", dtype) if corrects and averaged else one
        as_given = ("gamma", "graft_eps", "statistics_weight", "eps", "shrink")
        values = {name: get(name) for name in as_given}
        for name in ("beta1", "beta2"):
            # 1 - beta is computed before rounding to dtype if beta is static.
            values[name], values["one_minus_" + name] = get(name), jnp.asarray(
                1 - self.all.get(name, dtype), dtype
            )
        values |= {
            "correct_momentum": self.all.correction("beta1", dtype) if corrects else one,
            "correct_statistics": statistics,
            "correct_graft": statistics if settings.graft_bias_correction else one,
            "scale": get("grad_scale") * (1 if self.clip is None else self.clip.astype(dtype)),
            "step": self.step_number,
        }
        return values

    def reduced(self, stage, parts):
        """A leaf's numbers of a stage, reduced over its parts."""
        dtype = self.dtypes[0]
        first, second = (_bits.to_float(parts[:, i], dtype) for i in (0, 1))
        return (jnp.max(first) if stage == "largest_l1" else jnp.sum(first)), jnp.sum(second)

    def advance(self, known):
        """Continues to the next stage that the step has, or to its end. `known`
        are the reduced numbers of the stages before it."""
        stages = self.program.stages()
        if "gradient_squares" in stages:
            if not known:
                scale = lambda dtype: jnp.asarray(self.all.get("grad_scale", dtype), dtype)
                self.numbers = [
                    (gradient_squares(dtype, gradient, scale(dtype)), jnp.zeros((), dtype))
                    for _, dtype, gradient, _ in self.leaves()
                ]
                return "gradient_squares"
            self.take_gradient_squares(known["gradient_squares"])
        last = list(known)[-1] if known else None
        if last in (None, "gradient_squares"):
            self.statistics(known)
            if "largest_l1" in stages:
                return self.largest_l1()
        if "norms" in stages and "norms" not in known:
            return self.norms(known)
        self.apply(known)
        return None

    def take_gradient_squares(self, numbers):
        all_squares = [first for first, _ in numbers]
        wide = jnp.result_type(*self.dtypes)
        total = sum_of([x.astype(wide) for x in all_squares])
        if self.program.refuses():
            self.ok = total == total
        self.gradient_norms = [where_positive(x, jnp.sqrt) for x in all_squares]
        clips = self.all.values["clip_norm"]
        if not (isinstance(clips, float) and clips == 0.0):
            norm = where_positive(total, jnp.sqrt)
            most = self.all.get("clip_norm", wide)
            self.clip = jnp.where(norm > most, most / jnp.where(norm > most, norm, 1), 1)
            self.gradient_norms = [
                x * self.clip.astype(x.dtype) for x in self.gradient_norms
            ]

    def kept(self, new, old):
        """The new values, or the old ones if the step is refused."""
        return new if self.ok is None else jnp.where(self.ok, new, old)

    def statistics(self, known):
        planes, self.references = [], []
        for i, (leaf, dtype, gradient, old) in enumerate(self.leaves()):
            norm = jnp.zeros((), dtype)
            if "gradient_squares" in known:
                norm = self.gradient_norms[i].astype(dtype)
            values = self.values(dtype)
            index = i if self.settings.rounding == "stochastic" else 0
            new, reference = take_in(
                self.settings, leaf, index, dtype, values, old, gradient, norm
            )
            planes.append(tuple(map(self.kept, new, old)))
            self.references.append(reference)
        self.planes = tuple(planes)

    def largest_l1(self):
        numbers = []
        for (leaf, dtype, _, planes), reference in zip(self.leaves(), self.references):
            l1 = jnp.zeros((), dtype)
            if self.program.relative(leaf):
                values = self.values(dtype)
                if self.settings.damping == "relative_lagged":
                    l1 = largest_entry(dtype, values, planes[1])
                else:
                    l1 = largest_l1(self.settings, leaf, dtype, values, planes)
            numbers.append((l1, reference))
        self.numbers = numbers
        return "largest_l1"

    def all_directions(self, known):
        if self.directions is None:
            arrays, pooled, planes_after = [], {}, list(self.planes)
            for i, (leaf, dtype, gradient, planes) in enumerate(self.leaves()):
                values = self.values(dtype)
                damping = values["eps"]
                if self.program.relative(leaf):
                    l1 = known["largest_l1"][i][0].astype(dtype)
                    if self.settings.damping == "relative_lagged":
                        before = _bits.to_float(self.before[:, 1][i], dtype)
                        l1 = jnp.where(before > 0, before, l1)
                    damping = jnp.maximum(damping * l1, LEAST_RELATIVE_DAMPING)
                own = planes[: 2 + leaf.band(self.settings)]
                arrays.append(
                    corrected(self.settings, leaf, dtype, values, own, gradient, damping)
                )
                if leaf.is_pooled(self.settings):
                    m, d, _ = arrays[-1]
                    g = gradient.astype(dtype) * values["scale"]
                    at = 2 + leaf.has_rms(self.settings)
                    # Later calls find that one before them has taken the gradient in.
                    takes_in = "norms" not in known
                    pooled[i], sums = _pooled.direction(
                        self.settings, leaf, takes_in, values, planes[at], m, d, g, self.part(i)
                    )
                    sums = self.kept(sums, planes[at])
                    planes_after[i] = (*planes[:at], sums, *planes[at + 1 :])
            gamma = lambda i: self.values(self.dtypes[i])["gamma"]
            self.directions = directions(self.program.leaves, arrays, gamma)
            for i, u in pooled.items():
                self.directions[i] = u
            self.planes = tuple(planes_after)
        return self.directions

    def part(self, i):
        """Which chains of the whole leaf those of a part are, or None."""
        is_part = self.program.has_parts and self.program.leaves[i].axes
        return self.parts[i] if is_part else None

    def norms(self, known):
        numbers = []
        for i, leaf in enumerate(self.program.leaves):
            pair = self.nothing()[i]
            if leaf.graft(self.settings) != "none":
                reference = self.references[i] if self.references else pair[1]
                pair = squares(self.all_directions(known)[i]), reference
            numbers.append(pair)
        self.numbers = numbers
        return "norms"

    def ratios(self, known):
        """What each leaf's direction is multiplied by, for the norm of its graft."""
        found = [jnp.ones((), dtype) for dtype in self.dtypes]
        groups = {}
        for i, (leaf, dtype, _, _) in enumerate(self.leaves()):
            if leaf.graft(self.settings) != "none":
                squared_norm, reference = known["norms"][i]
                if "largest_l1" in known:
                    reference = known["largest_l1"][i][1]
                pair = squared_norm.astype(dtype), reference.astype(dtype)
                groups.setdefault((dtype, union(*pair)), {})[i] = pair
        for pairs in groups.values():
            # Together, because every function of a scalar takes long to compile.
            norms, references = map(jnp.stack, zip(*pairs.values()))
            ratios = root(references) * where_positive(norms, jax.lax.rsqrt)
            # Where a norm is beyond the range of its type, the direction is zero.
            ratios = jnp.where(norms < jnp.inf, finite_or(ratios, 0), 0)
            if self.settings.lagged_norms:
                ratios = self.lagged(list(pairs), norms, ratios)
            for place, i in enumerate(pairs):
                found[i] = ratios[place]
        return found

    def lagged(self, leaves, norms, own):
        """The ratios of the step before, where they will do, in place of these leaves'
        own; which are kept for the next."""
        words = self.before[:, 0][np.array(leaves)]
        before = _bits.to_float(words, own.dtype)
        is_too_long = (norms > 0) & (before > TOO_LONG * own)
        self.keep(leaves, 0, _bits.from_float(own))
        return jnp.where((before > 0) & ~is_too_long, before, own)

    def keep(self, leaves, which, words):
        """Numbers of these leaves are kept for the next step."""
        columns = [self.scalars[:, i] for i in range(self.scalars.shape[1])]
        old, others = columns[which], [i for i in range(len(self.grads)) if i not in set(leaves)]
        rows = [self.kept(words, old[np.array(leaves)]), old[np.array(others, int)]]
        columns[which] = jnp.concatenate(rows)[np.argsort(leaves + others)]
        self.scalars = jnp.stack(columns, 1)

    def keep_largest(self, known):
        """What lagged damping is relative to in the next step."""
        groups = {}
        for i, (leaf, dtype, _, _) in enumerate(self.leaves()):
            if self.settings.damping == "relative_lagged" and self.program.relative(leaf):
                groups.setdefault(dtype, {})[i] = known["largest_l1"][i][0].astype(dtype)
        for largest in groups.values():
            numbers = finite_or(jnp.stack(list(largest.values())), 0)
            self.keep(list(largest), 1, _bits.from_float(numbers))

    def apply(self, known):
        self.keep_largest(known)
        targets, planes, ratios = [], [], self.ratios(known)
        found = self.all_directions(known)
        for i, (leaf, dtype, _, state) in enumerate(self.leaves()):
            u, ratio = found[i], ratios[i]
            key = (self.settings, self.step_number, i, len(state))
            if self.program.direction:
                new = _bits.rounded(ratio * u, self.types[i], *key)
                new = finite_or(new, jnp.zeros_like(new))
                old = self.targets[i] if self.program.staged else jnp.zeros_like(new)
                targets.append(self.kept(new, old))
                planes.append(state)
                continue
            rate = self.all.get("learning_rate", dtype) * leaf.lr_scale
            decay = rate * (self.all.get("weight_decay", dtype) * leaf.weight_decay)
            old = state[-1] if leaf.master else self.targets[i]
            p = old.astype(dtype)
            p = p - decay * p - (rate * ratio) * u
            if leaf.master:
                master = self.kept(finite_or(p.astype(jnp.float32), old), state[-1])
                state = (*state[:-1], master)
                new = master.astype(self.types[i])
            else:
                new = finite_or(_bits.rounded(p, self.types[i], *key), old)
            targets.append(self.kept(new, self.targets[i]))
            planes.append(state)
        self.targets, self.planes = tuple(targets), tuple(planes)

    def taken(self):
        return jnp.int32(1) if self.ok is None else self.ok.astype(jnp.int32)
