"""The step in operations of torch, for parameters that are not on the CPU. It computes what the
library computes, up to rounding. `torch.compile` makes few kernels of it."""

import types

import torch

from .. import _structs
from .._pooling import too_long
from . import _pooled
from ._call import not_finite, step_count
from ._noise import keys, rounded
from ._options import is_lagged, needs_scalars, pooled_shape
from ._solve import ahead, applied, behind, factors, from_chains, is_usable, to_chains

# The smallest relative damping, as in the authors' JAX code.
LEAST_RELATIVE_DAMPING = 1e-24
# The numbers that a step leaves to the next: |a| / |u|, what momentum and statistics are divided
# by, and the largest entry of the diagonal.
RATIO, CORRECTIONS, LARGEST = 0, slice(1, 3), 3
# An update with the norms of the step before may be so many times as long as with those
# of its own.
TOO_LONG = 2


def wide(device):
    """The type of norms."""
    return torch.float32 if device.type == "mps" else torch.float64


def lines(chains):
    """Pooled chains end where rows or columns do."""
    return chains if chains.endswith("lines") else chains + "_lines"


def step_of(own, group, g, p, planes, numbers, scalars):
    """The parameters, the planes and the scalars that change in a step of one tensor: `own` is
    its Tensor, g the gradient in the type of the arithmetic, numbers the factors of the step."""
    dtype, chains = g.dtype, own.chains
    adam, band = own.update == "adam", 0 if own.update == "adam" else group["band"]
    graft = "none" if adam else group["graft"]
    pooled = "pooled" in planes
    state_dtype = planes["momentum"].dtype
    beta1, beta2 = numbers["beta1"], numbers["beta2"]
    averaged = group["statistics"] == "moving_average"
    keep = beta2 if averaged else 1.0
    weight = 1 - beta2 if averaged else group["statistics_weight"]
    key_of = lambda i: None if numbers["keys"] is None else numbers["keys"][i]
    new = {}

    def stored(x, name):
        """A new plane: subnormal numbers are set to zero, then it is rounded."""
        tiny = torch.finfo(dtype if state_dtype == torch.float64 else torch.float32).tiny
        x = torch.where(x.abs() < tiny, 0, x)
        new[name] = rounded(x, state_dtype, key_of(len(new)))
        return new[name].to(dtype)

    old = {name: x.to(dtype) for name, x in planes.items() if name not in ("master", "pooled")}
    m = stored(beta1 * old["momentum"] + (1 - beta1) * g, "momentum")
    h = stored(keep * old["diagonal"] + (weight * g) * g, "diagonal")
    e = []
    for k in range(1, 0 if pooled else band + 1):
        neighbour = from_chains(ahead(to_chains(g, chains), k), g.shape, chains)
        name = f"band_{k}"
        e.append(stored(keep * old[name] + (weight * g) * neighbour, name))
    if "rms" in planes:
        norm = g.to(wide(g.device)).square().sum().sqrt().to(dtype)
        q = torch.where(norm > 0, g / torch.where(norm > 0, norm, 1), 0)
        r = stored(beta2 * old["rms"] + ((1 - beta2) * q) * q, "rms")

    if group["nesterov"]:
        m = beta1 * m + (1 - beta1) * g
    m = m / numbers["momentum"]
    divisor = numbers["statistics"]
    eps = group["graft_eps"]
    root = lambda x: x.sqrt() + eps
    quotient = lambda a, b: torch.where(b > 0, a / torch.where(b > 0, b, 1), 0)
    if graft == "adam":
        v = h / divisor if group["graft_bias_correction"] else h
        a = quotient(m, root(v))
    elif graft == "normalized_rmsprop":
        a = quotient(q, root(r))
    else:
        a = g if graft == "sgd" else m

    h, e = h / divisor, [x / divisor for x in e]
    kept = {}
    if adam:
        u = quotient(m, root(h))
    else:
        damping = group["eps"]
        if group["damping"] == "relative_lagged":
            before = scalars[LARGEST]
            largest = torch.where(torch.isfinite(h), h, 0).max().to(before.dtype)
            known = torch.where(before > 0, before, largest)
            damping = (damping * known).clamp(min=LEAST_RELATIVE_DAMPING).to(dtype)
            kept[LARGEST] = largest
        elif group["damping"] == "relative":
            t = to_chains(h, chains)
            if e:
                beside = to_chains(e[0], chains).abs()
                before = behind(beside, 1)
                t = t + torch.cat([beside[:, :1], before[:, 1:]], 1)
            damping = (damping * t.max()).clamp(min=LEAST_RELATIVE_DAMPING)
        d = h + damping
        if pooled:
            sums = planes["pooled"].to(wide(g.device)), (keep, weight), numbers["count"]
            u, new["pooled"] = _pooled.direction(lines(chains), group, m, d, g, *sums)
        else:
            m_, d_ = to_chains(m, chains), to_chains(d, chains)
            psi, schur = factors(d_, [to_chains(x, chains) for x in e], group["gamma"])
            u = from_chains(applied(psi, schur, is_usable(d_), m_), g.shape, chains)

    ratio = 1.0
    if graft != "none":
        norm, reference = (x.to(wide(g.device)).square().sum() for x in (u, a))
        own_ratio = torch.where(norm > 0, (reference / torch.where(norm > 0, norm, 1)).sqrt(), 0)
        own_ratio = torch.where(torch.isfinite(own_ratio), own_ratio, 0)
        ratio = own_ratio
        if is_lagged(group):
            before = scalars[RATIO]
            fits = (before > 0) & ~((norm > 0) & (before > TOO_LONG * own_ratio))
            ratio, kept[RATIO] = torch.where(fits, before, own_ratio), own_ratio
        ratio = ratio.to(dtype)
    rate = numbers["lr"]
    start = planes["master"] if "master" in planes else p
    x = start.to(dtype)
    x = x - (rate * numbers["weight_decay"]) * x - rate * ratio * u
    if "master" in planes:
        new["master"] = torch.where(torch.isfinite(x), x, start.to(dtype)).float()
        return new["master"].to(p.dtype), new, kept
    x = rounded(x, p.dtype, key_of(len(planes)))
    return torch.where(torch.isfinite(x), x, p), new, kept


compiled_steps = {}


def chosen(implementation, own):
    """The step, compiled if so asked: once for each shape and kind of parameter, as often as
    there are such."""
    if implementation != "compiled":
        return step_of
    kind = own.shape, own.chains, own.update, own.dtype, own.state_dtype, own.master
    if kind not in compiled_steps:
        # Dynamo compiles one function only so many times, and these are others.
        code = step_of.__code__.replace(co_name=f"step_of_{len(compiled_steps)}")
        function = types.FunctionType(code, step_of.__globals__)
        compiled_steps[kind] = torch.compile(function, dynamic=False)
    return compiled_steps[kind]


class Call:
    """The steps of parameters that agree in their options, one after the other."""

    def __init__(self, entries, state):
        self.entries, self.state = entries, state
        first = entries[0].group
        for entry in entries:
            pools_all = first["pooling"] == "all" and "pooled" in self.planes_of(entry)
            if pools_all and (wrong := too_long(entry.name, entry.length())):
                raise ValueError(wrong)
        self.group, self.maximize, self.non_finite = first, first["maximize"], first["non_finite"]

    def planes_of(self, entry):
        """The names, types and shapes of the planes of a parameter."""
        own, group, p = entry.own, entry.group, entry.p
        kind = getattr(torch, own.state_dtype)
        both = torch.float64 if torch.float64 in (kind, p.dtype) else torch.float32
        planes = {"momentum": (kind, None), "diagonal": (kind, None)}
        if own.update == "sonew":
            pools = group["pooling"] != "none" and to_chains(p, lines(own.chains)).shape[0] > 1
            if not pools:
                planes |= {f"band_{k}": (kind, None) for k in range(1, group["band"] + 1)}
            if group["graft"] == "normalized_rmsprop":
                planes["rms"] = kind, None
            if pools:
                planes["pooled"] = both, pooled_shape(group, entry.length())
        if own.master:
            planes["master"] = torch.float32, None
        return planes

    def is_current(self):
        return True

    def finish(self):
        """Nothing of a step is ever under way."""

    discard = finish

    def take_rates(self, rates):
        self.rates = rates

    def take_betas(self, groups):
        return True

    def gradient(self, entry):
        grad = entry.p.grad
        if grad is not None and grad.layout is not torch.strided:
            raise RuntimeError(
                f"the gradient of {entry.name} is sparse: SONew does not support sparse gradients"
            )
        return grad

    def not_finite(self):
        return not_finite((entry, self.gradient(entry)) for entry in self.entries)

    @torch.no_grad()
    def step(self, grad_scale):
        """Takes the step. Returns None, or what is wrong if it was skipped because a gradient is
        not finite."""
        if self.non_finite != "unchecked" and (wrong := self.not_finite()):
            return wrong
        for index, entry in enumerate(self.entries):
            grad = self.gradient(entry)
            if grad is not None:
                self.step_one(index, entry, grad, grad_scale)
        return None

    def step_one(self, index, entry, grad, grad_scale):
        group, p = entry.group, entry.p
        own = self.state.get(p) or self.begin(entry)
        if p.numel() == 0:
            return
        planes = {name: own[name] for name in self.planes_of(entry)}
        dtype = torch.float64 if torch.float64 in (p.dtype, planes["momentum"].dtype) else torch.float32
        lr, weight_decay = self.rates[entry.g]
        number = int(own["step"]) + 1
        if number == 1 and group["pooling"] == "rank" and "pooled" in planes:
            _pooled.start(is_lagged(group), planes["pooled"])
        scalars = own.get("scalars")
        divisors, scalars = self.divisors(group, number, scalars, own, p)
        numbers = {
            "keys": None,
            "beta1": float(group["betas"][0]),
            "beta2": float(group["betas"][1]),
            "lr": float(lr),
            "weight_decay": float(weight_decay),
            "momentum": divisors[0] if group["bias_correction"] else 1.0,
            "statistics": 1.0,
            # As a tensor, so that another step is no other program.
            "count": torch.as_tensor(number, device=p.device),
        }
        if group["bias_correction"] and group["statistics"] == "moving_average":
            numbers["statistics"] = divisors[1]
        if group["rounding"] == "stochastic":
            numbers["keys"] = keys(group["seed"], number, index, len(planes), p.device)
        if group["implementation"] == "compiled":
            for name in ("beta1", "beta2", "lr", "weight_decay", "momentum", "statistics"):
                numbers[name] = torch.as_tensor(numbers[name], dtype=dtype, device=p.device)
        g = grad.to(dtype) * (-grad_scale if self.maximize else grad_scale)
        step = chosen(group["implementation"], entry.own)
        new_p, new, kept = step(entry.own, group, g, p.detach(), planes, numbers, scalars)
        p.copy_(new_p)
        for name, x in new.items():
            planes[name].copy_(x)
        for i, x in kept.items():
            scalars[i] = x
        own["step"] += 1

    def divisors(self, group, number, scalars, own, p):
        """What momentum and statistics are divided by, which follows from the product of the
        betas of all steps; and the scalars that keep it, where betas have changed."""
        first, now = (list(map(float, group[name])) for name in ("initial_betas", "betas"))
        if scalars is None and (needs_scalars(group) or now != first):
            kind = wide(p.device)
            scalars = own["scalars"] = torch.zeros(_structs.SCALARS, dtype=kind, device=p.device)
        if now == first and not self.has_changed(scalars):
            return [1 - beta**number for beta in first], scalars
        found = []
        for i in range(2):
            before = scalars[1 + i]
            before = torch.where(before == 0, 1 - first[i] ** (number - 1), before)
            after = (now[i] * before + (1 - now[i])).clamp(max=1.0)
            scalars[1 + i] = after
            found.append(after)
        return found, scalars

    @staticmethod
    def has_changed(scalars):
        return scalars is not None and bool((scalars[CORRECTIONS] != 0).any())

    def begin(self, entry):
        """The state before the first step."""
        own = self.state.setdefault(entry.p, {})
        own["step"] = step_count(0)
        for name, (dtype, shape) in self.planes_of(entry).items():
            own[name] = entry.zeros(shape, dtype)
        if "master" in own:
            own["master"].copy_(entry.p)
        return own

