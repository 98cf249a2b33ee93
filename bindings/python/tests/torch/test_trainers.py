"""Other people's programs around an optimizer: distributed checkpoints, sharded and offloading
optimizers."""

import copy

import pytest
import torch
from common import bits, make, parameters, run, state_bits
from sonew.torch import SONew
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_state_dict,
)


def model(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2))


OPTIONS = [{}, {"lagged_norms": True, "betas": (0.8, 0.9)}, {"pooling": "band", "band": 2}]


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("options", OPTIONS)
def test_state_of_distributed_checkpoints(options, flat):
    """They make state by a step with zero gradients and learning rate 0, and load in place."""
    how = StateDictOptions(flatten_optimizer_state_dict=flat)
    one, two = model(), model(1)
    first, second = make(one.named_parameters(), **options), make(two.named_parameters(), **options)
    run(first, list(one.parameters()), 4)
    saved = copy.deepcopy(get_state_dict(one, first, options=how))
    set_state_dict(two, second, model_state_dict=saved[0], optim_state_dict=saved[1], options=how)
    for step in range(4, 7):
        run(first, list(one.parameters()), 1, start=step)
        run(second, list(two.parameters()), 1, start=step)
    assert bits(one.parameters()) == bits(two.parameters())
    assert state_bits(first) == state_bits(second)


def test_distributed_checkpoint_files(tmp_path):
    from torch.distributed import checkpoint

    one, two = model(), model(1)
    first, second = make(one.named_parameters()), make(two.named_parameters())
    run(first, list(one.parameters()), 4)
    weights, state = get_state_dict(one, first)
    checkpoint.save({"model": weights, "optimizer": state}, checkpoint_id=tmp_path)
    weights, state = get_state_dict(two, second)
    checkpoint.load({"model": weights, "optimizer": state}, checkpoint_id=tmp_path)
    set_state_dict(two, second, model_state_dict=weights, optim_state_dict=state)
    run(first, list(one.parameters()), 3, start=4)
    run(second, list(two.parameters()), 3, start=4)
    assert bits(one.parameters()) == bits(two.parameters())


def test_zero_redundancy(tmp_path):
    from torch.distributed.optim import ZeroRedundancyOptimizer

    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    try:
        params, others = parameters(), parameters()
        plain, sharded = make(params), ZeroRedundancyOptimizer(others, SONew, lr=1e-2)
        run(plain, params, 3)
        run(sharded, others, 3)
        assert bits(params) == bits(others)
    finally:
        torch.distributed.destroy_process_group()


def test_state_that_is_moved_away_between_steps():
    """As trainers do that keep the state elsewhere, or on disk, while the model computes."""
    params, others = parameters(), parameters()
    plain, moving = make(params), make(others)
    for step in range(4):
        run(plain, params, 1, start=step)
        run(moving, others, 1, start=step)
        away = {p: {k: x.numpy().copy() for k, x in own.items()} for p, own in moving.state.items()}
        for own in moving.state.values():
            own.clear()
        for p, own in moving.state.items():
            own.update({k: torch.from_numpy(x) if x.ndim else torch.tensor(x) for k, x in away[p].items()})
    assert bits(params) == bits(others)


def test_groups_and_state_of_another_optimizer_object():
    """Megatron's HybridDeviceOptimizer hands its own state and groups to the optimizers in it."""
    params, others = parameters(), parameters()
    plain, inner = make(params), make(others)
    shared_state, shared_groups = {}, [{"params": others, "lr": 1e-2}]
    inner.state, inner.param_groups = shared_state, shared_groups
    run(plain, params, 3)
    run(inner, others, 3)
    assert bits(params) == bits(others)
    assert inner.state is shared_state and set(shared_state) == set(others)
