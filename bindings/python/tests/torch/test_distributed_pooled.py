"""Pooled correlations of parameters that are cut over processes between their chains: sums of products
are added up in the background, and results are those of one process."""

import pytest
import sonew
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from common import bits, make
from ranks import run_on
from sonew.torch import load, save
from test_distributed import Trace, all_bits, numbers, on_processes, result, rows, single, steps, whole
from test_distributed_checkpoint import path_of
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

# The chains of the first are three groups, which take turns and are cut elsewhere than between
# groups; of the others some processes have no rows.
SHAPES = [(601, 5), (9,), (3, 4, 5), (5, 7), (1, 8)]
STEPS = 7
ROWS = {"chains": "contiguous_lines"}
OPTIONS = {
    "band": {"pooling": "band", "band": 2},
    "rank": {"pooling": "rank", "rank": 2},
    "all": {"pooling": "all"},
    "without a norm": {"pooling": "band", "graft": "none"},
    "without stages": {"pooling": "rank", "rank": 3, "graft": "none", "damping": "absolute"},
    "relative": {"pooling": "band", "damping": "relative", "statistics": "weighted_sum"},
    "nesterov": {"pooling": "band", "nesterov": True, "chains": "contiguous"},
    "skip": {"pooling": "band", "graft": "normalized_rmsprop", "non_finite": "skip"},
    "bfloat16": {"pooling": "band", "dtype": torch.bfloat16, "master_weights": True},
}


def agree(found, expected, tolerance):
    (params, state), (whole_params, whole_state) = found, expected
    for own, other in zip(params, whole_params):
        torch.testing.assert_close(own, other, rtol=tolerance, atol=tolerance)
    for own, other in zip(state, whole_state):
        assert own.keys() == other.keys()
        for key, x in other.items():
            torch.testing.assert_close(own[key], x, rtol=10 * tolerance, atol=tolerance)


def check(count, names):
    cases = []
    for name in names:
        options = {**ROWS, **OPTIONS[name]}
        more = {"shapes": SHAPES, "dtype": options.pop("dtype", torch.float64), "count": STEPS}
        cases.append((options, more))
    # Also that all processes have the same bits.
    for (options, more), found in zip(cases, on_processes(count, cases)):
        agree(found, single(options, **more), 1e-9 if more["dtype"] == torch.float64 else 1e-2)


def test_two_processes_take_the_steps_of_one():
    check(2, ["band", "rank"])


@pytest.mark.long
@pytest.mark.parametrize("count", [2, 4])
def test_steps_are_those_of_one_process(count):
    check(count, OPTIONS)
