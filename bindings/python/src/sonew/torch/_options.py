"""The options of a group of parameters: what they may be, and what follows from them for a
parameter."""

import math
import numbers
import re

import torch
from torch.nn.parameter import is_lazy

from .. import _pooling, _structs

MAX_BAND = 16
NAMED = {
    "statistics": _structs.STATISTICS,
    "damping": _structs.DAMPINGS,
    "graft": _structs.GRAFTS,
    "pooling": _structs.POOLINGS,
    "rounding": _structs.ROUNDINGS,
    "chains": _structs.CHAINS,
    "update": ("auto", "sonew", "adam"),
    "non_finite": ("unchecked", "skip", "raise"),
    "implementation": ("auto", "library", "torch", "compiled"),
}
FLAGS = (
    "bias_correction",
    "graft_bias_correction",
    "nesterov",
    "master_weights",
    "maximize",
)
UNIT = ("gamma", "shrink")
NOT_NEGATIVE = ("eps", "graft_eps", "statistics_weight")
STATE_DTYPES = ("float32", "float64", "bfloat16")
# The options of a plan that a tensor cannot have for itself.
COMMON = (
    "graft",
    "statistics",
    "damping",
    "bias_correction",
    "graft_bias_correction",
    "lagged_norms",
    "nesterov",
    "pooling",
    "rank",
    "rounding",
    "seed",
    "threads",
    "statistics_weight",
    "non_finite",
    "maximize",
    "implementation",
)
# Those that a tensor can have for itself.
OWN = ("band", "eps", "gamma", "graft_eps", "shrink")
# What a parameter's place in a plan follows from; lr, weight_decay and betas may change with
# every step.
STATIC = (*COMMON, *OWN, "chains", "update", "state_dtype", "master_weights")
# For a look at them in every step.
DTYPES = {
    torch.float32: "float32",
    torch.float64: "float64",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
}

# A word, between dots and underscores, of the name of an embedding.
EMBEDDING = re.compile(r"(^|[._])(w[tp]e|emb|embs|embed|embeds|embedding|embeddings)([._]|$)")


def check_group(group):
    """Refuses options of a group that cannot be, by name, and brings what has several
    spellings to one."""
    check_numbers(group)
    if not isinstance(group["betas"], (tuple, list)):
        # Lists of configurations, and arrays.
        group["betas"] = tuple(map(float, group["betas"]))
    for name in (*NOT_NEGATIVE, *UNIT):
        check_number(name, group[name], name in UNIT)
    for name, among in NAMED.items():
        if not isinstance(group[name], str) or group[name] not in among:
            listed = ", ".join(map(repr, among))
            raise ValueError(f"{name} is {group[name]!r}, must be one of {listed}")
    for name in FLAGS:
        if not isinstance(group[name], bool):
            raise TypeError(f"{name} is {group[name]!r}, must be True or False")
    most = MAX_BAND if group["pooling"] == "none" else _pooling.MAX_BAND
    check_integer("band", group["band"], 0, most)
    check_integer("rank", group["rank"], 1, _pooling.MAX_RANK)
    check_integer("seed", group["seed"], 0, 2**64 - 1)
    if group["threads"] is not None:
        check_integer("threads", group["threads"], 0, 1024)
    if group["lagged_norms"] not in (None, True, False):
        raise TypeError(f"lagged_norms is {group['lagged_norms']!r}, must be True, False or None")
    if isinstance(group["state_dtype"], torch.dtype):
        group["state_dtype"] = str(group["state_dtype"]).removeprefix("torch.")
    if group["state_dtype"] not in (None, *STATE_DTYPES):
        raise ValueError(
            f"state_dtype is {group['state_dtype']!r}, must be None, torch.float32, "
            "torch.float64 or torch.bfloat16"
        )
    if group["statistics"] == "moving_average" and group["statistics_weight"] != 1.0:
        raise ValueError("statistics_weight must be 1 with statistics='moving_average'")


def check_numbers(group):
    """The same for those that schedules change with every step."""
    lr = group["lr"]
    if isinstance(lr, torch.Tensor) and lr.numel() != 1:
        raise ValueError("Tensor lr must be 1-element")
    check_number("lr", lr)
    check_number("weight_decay", group["weight_decay"])
    try:
        first, second = map(float, group["betas"])
    except (TypeError, ValueError):
        raise ValueError(f"betas is {group['betas']!r}, must be two numbers") from None
    for i, beta in enumerate((first, second)):
        if not 0.0 <= beta < 1.0:
            raise ValueError(f"Invalid beta parameter at index {i}: {beta}")


def check_number(name, value, unit=False):
    tensor = isinstance(value, torch.Tensor)
    if not tensor and (isinstance(value, bool) or not isinstance(value, numbers.Real)):
        raise TypeError(f"{name} is {value!r}, must be a number")
    if not 0.0 <= float(value) < (1.0 if unit else math.inf):
        spelled = {"lr": "learning rate", "weight_decay": "weight_decay value"}.get(name)
        if spelled:
            # As torch's own optimizers say it.
            raise ValueError(f"Invalid {spelled}: {value}")
        what = "in [0, 1)" if unit else "finite and not negative"
        raise ValueError(f"{name} is {value}, must be {what}")


def check_integer(name, value, least, most):
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} is {value!r}, must be an int")
    if not least <= value <= most:
        raise ValueError(f"{name} is {value}, must be {least} to {most}")


def check_parameter(name, p):
    """Refuses what cannot be a parameter of this optimizer."""
    if is_lazy(p):
        raise ValueError(f"{name} has no shape yet: its lazy module must run before the first step")
    if p.is_complex():
        raise ValueError(
            f"{name} is complex: SONew does not support complex parameters. "
            "torch.view_as_real(parameter) is a real view of one"
        )
    if p.layout is not torch.strided:
        raise ValueError(f"{name} is sparse: SONew does not support sparse parameters")
    if p.dtype not in DTYPES:
        raise ValueError(
            f"{name} is {p.dtype}, must be float32, float64, bfloat16 or float16"
        )
    if may_overlap(p):
        raise ValueError(
            f"{name} has elements that share memory (strides {p.stride()}): SONew needs a place "
            "for each"
        )
    if p.ndim > _structs.MAX_DIMS:
        raise ValueError(f"{name} has {p.ndim} dimensions, at most {_structs.MAX_DIMS} are possible")


def may_overlap(p):
    """Whether elements of a tensor may share a place: whether a dimension steps into what those
    of smaller strides reach."""
    reach = 0
    for stride, size in sorted(zip(p.stride(), p.shape)):
        if size > 1:
            if stride <= reach:
                return p.numel() > 0
            reach += (size - 1) * stride
    return False


def is_dtensor(p):
    """Whether a parameter is a DTensor, without torch's distributed part if it is none."""
    return hasattr(p, "to_local")


def update_of(group, index, p):
    """ "sonew" or "adam": how a parameter of a group is updated."""
    if group["update"] != "auto":
        return group["update"]
    if p.ndim <= 1:
        return "adam"
    names = group.get("param_names")
    return "adam" if names and EMBEDDING.search(names[index]) else "sonew"


def state_dtype_of(group, p):
    """The type of a parameter's state planes, "master" excepted."""
    if group["state_dtype"] is not None:
        return getattr(torch, group["state_dtype"])
    return torch.float64 if p.dtype == torch.float64 else torch.float32


def is_lagged(group):
    """Whether norms, and pooled correlations, are those of the step before."""
    lagged = group["lagged_norms"]
    return group["pooling"] != "none" if lagged is None else lagged


def needs_scalars(group):
    """Whether a step needs numbers that the step before left, besides the planes."""
    return is_lagged(group) or group["damping"] == "relative_lagged"


def pooled_shape(group, length):
    """The shape of "pooled", of chains of this length."""
    return _pooling.sums_shape(
        group["pooling"], group["band"], group["rank"], is_lagged(group), length
    )


def pooled_count(group, length):
    """The numbers of one set of sums in "pooled"."""
    rows = _pooling.rows_of_sums(group["pooling"], group["band"], group["rank"], length)
    return rows * length


def name_of(groups, g, i):
    """What a parameter is called in messages: its name, or its place."""
    names = groups[g].get("param_names")
    return names[i] if names else f"parameter {i} of group {g}"
