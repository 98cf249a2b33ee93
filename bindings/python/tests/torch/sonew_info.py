"""SONew in the table of optimizers with which torch tests its own (OptimizerInfo).

What of torch's tests does not apply, and why:

- foreach, fused, capturable and differentiable implementations, and comparisons between them
  (supported_impls is empty): a step is one call in any case, and is not differentiable.
- Complex parameters and sparse gradients (supports_complex, supports_sparse): refused by name.
- Several devices, CUDA graphs, and state on CUDA: the table asks for them only where CUDA is.
- Error inputs of AdamW for foreach and for betas of which one is a tensor: betas are numbers, and
  tensors of one element are taken as such.
"""

from copy import deepcopy

import torch
from sonew.torch import SONew
from torch.optim.lr_scheduler import (
    ExponentialLR,
    LinearLR,
    PolynomialLR,
    ReduceLROnPlateau,
    StepLR,
)
from torch.testing._internal.common_optimizers import (
    ErrorOptimizerInput,
    OptimizerInfo,
    OptimizerInput,
    get_error_inputs_for_all_optims,
)

KWARGS = [
    {},
    {"lr": 0.01},
    {"lr": torch.tensor(0.001)},
    {"weight_decay": 0.1},
    {"maximize": True},
    {"weight_decay": 0.1, "maximize": True},
    {"betas": (0.8, 0.9), "eps": 1e-4},
    {"update": "sonew"},
    {"update": "sonew", "band": 3, "nesterov": True},
    {"update": "sonew", "band": 0},
    {"update": "sonew", "lagged_norms": True},
    {"update": "sonew", "pooling": "band", "band": 2},
    {"update": "sonew", "graft": "none"},
    {"update": "sonew", "graft": "normalized_rmsprop"},
    {"update": "sonew", "damping": "relative"},
    {"update": "sonew", "state_dtype": torch.bfloat16, "rounding": "stochastic"},
    {"update": "sonew", "implementation": "torch"},
    {"update": "sonew", "implementation": "torch", "lagged_norms": True, "maximize": True},
]

WRONG = [
    ({"lr": -1.0}, ValueError, "Invalid learning rate: -1.0"),
    ({"weight_decay": -1}, ValueError, "Invalid weight_decay value: -1"),
    ({"betas": (1.0, 0.0)}, ValueError, "Invalid beta parameter at index 0: 1.0"),
    ({"betas": (0.0, 1.0)}, ValueError, "Invalid beta parameter at index 1: 1.0"),
    ({"betas": 0.9}, ValueError, "betas is 0.9, must be two numbers"),
    ({"band": 17}, ValueError, "band is 17, must be 0 to 16"),
    ({"band": 65, "pooling": "band"}, ValueError, "band is 65, must be 0 to 64"),
    ({"band": 1.0}, TypeError, "band is 1.0, must be an int"),
    ({"gamma": 1.0}, ValueError, r"gamma is 1.0, must be in \[0, 1\)"),
    ({"eps": float("nan")}, ValueError, "eps is nan, must be finite and not negative"),
    ({"graft": "adamw"}, ValueError, "graft is 'adamw', must be one of 'none', 'sgd'"),
    ({"state_dtype": torch.float16}, ValueError, "state_dtype is 'float16', must be None"),
    ({"statistics_weight": 2.0}, ValueError, "statistics_weight must be 1"),
    ({"maximize": 1}, TypeError, "maximize is 1, must be True or False"),
    ({"seed": -1}, ValueError, "seed is -1, must be 0 to"),
]


def inputs(device, dtype=None):
    return [OptimizerInput(params=None, kwargs=deepcopy(kw), desc=str(kw)) for kw in KWARGS]


def error_inputs(device, dtype):
    found = get_error_inputs_for_all_optims(device, dtype)
    for kwargs, kind, said in WRONG:
        wrong = OptimizerInput(params=None, kwargs=kwargs, desc=said)
        found.append(ErrorOptimizerInput(wrong, error_type=kind, error_regex=said))
    complex_one = torch.rand(2, 3, device=device, dtype=torch.complex64)
    sparse_one = torch.zeros(3, layout=torch.sparse_coo, device=device, dtype=dtype)
    for p, said in ((complex_one, "does not support complex"), (sparse_one, "does not support sparse")):
        wrong = OptimizerInput(params=[p], kwargs={}, desc=said)
        found.append(ErrorOptimizerInput(wrong, error_type=ValueError, error_regex=said))
    return found


INFO = OptimizerInfo(
    SONew,
    optim_inputs_func=inputs,
    optim_error_inputs_func=error_inputs,
    scheduler_inputs=(
        [lambda opt: StepLR(opt, gamma=0.9, step_size=10)],
        [lambda opt: ExponentialLR(opt, gamma=0.9)],
        [lambda opt: LinearLR(opt, start_factor=0.4, total_iters=4)],
        [lambda opt: PolynomialLR(opt, power=0.9, total_iters=4)],
        [lambda opt: StepLR(opt, gamma=0.9, step_size=10), lambda opt: ReduceLROnPlateau(opt)],
    ),
    supported_impls=(),
    not_og_supported_flags=("maximize",),
    supports_complex=False,
)
