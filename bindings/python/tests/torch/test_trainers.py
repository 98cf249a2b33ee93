"""Other people's programs around an optimizer: distributed checkpoints, sharded and offloading
optimizers."""

import contextlib
import copy
import sys
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from common import bits, give_gradients, make, parameters, run, state_bits
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


class Hybrid(torch.optim.Optimizer):
    """What Megatron's HybridDeviceOptimizer does, on the CPU: copies of the parameters in float32, an
    optimizer for each of them, whose groups are replaced before a step and whose state is shown as
    that of this optimizer after it, with one more entry."""

    def __init__(self, params, inner, **defaults):
        super().__init__(params, {"offload_fraction": 1.0, "cpu_optimizer_cls": inner, **defaults})
        self.copies = {p: p.detach().clone().float() for g in self.param_groups for p in g["params"]}
        self.originals = {c: p for p, c in self.copies.items()}
        self.inner = [
            inner([{**group, "params": [self.copies[p]]}])
            for group in self.param_groups
            for p in group["params"]
        ]

    def step(self, closure=None):
        group_of = {p: g for g in self.param_groups for p in g["params"]}
        for optimizer in self.inner:
            (group,) = optimizer.param_groups
            (mine,) = group["params"]
            now = {k: v for k, v in group_of[self.originals[mine]].items() if k != "params"}
            optimizer.param_groups = [{**group, **now}]
            grad = self.originals[mine].grad
            mine.requires_grad = False
            mine.grad = None if grad is None else grad.float()
            optimizer.step(closure)
            if grad is not None:
                self.originals[mine].data.copy_(mine.data)
        self.state = defaultdict(dict)
        for optimizer in self.inner:
            for mine, own in optimizer.state.items():
                self.state[self.originals[mine]] = own
                own["master_param"] = mine

    def load_state_dict(self, saved):
        # torch casts state to the type of the parameters, which are therefore the copies here.
        for group in self.param_groups:
            group["params"] = [self.copies[p] for p in group["params"]]
        super().load_state_dict(saved)
        for group in self.param_groups:
            group["params"] = [self.originals[c] for c in group["params"]]
        self.state = {self.originals[c]: own for c, own in self.state.items()}
        for optimizer in self.inner:
            optimizer.state = defaultdict(dict)
            for mine in optimizer.param_groups[0]["params"]:
                own = optimizer.state[mine] = self.state[self.originals[mine]]
                mine.data.copy_(own["master_param"])
                for name, x in own.items():
                    own[name] = x.to("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_optimizer_of_optimizers(dtype):
    params, others = parameters(dtype), parameters(dtype)
    # float32 copies of bfloat16 parameters are what master weights are.
    plain = make(others, master_weights=dtype == torch.bfloat16)
    outer = Hybrid([{"params": params[:3]}, {"params": params[3:]}], SONew, lr=1e-2)
    schedules = [torch.optim.lr_scheduler.ExponentialLR(o, 0.8) for o in (plain, outer)]
    for step in range(6):
        params[1].grad = others[1].grad = None
        give_gradients(params, step)
        give_gradients(others, step)
        if step == 2:
            params[1].grad = others[1].grad = None
        plain.step(), outer.step()
        for schedule in schedules:
            schedule.step()
        if step == 3:
            outer.load_state_dict(copy.deepcopy(outer.state_dict()))
            assert all(own["scalars"].dtype == torch.float32 for own in outer.state.values())
        if step <= 3:
            assert bits(params) == bits(others)
    # The load has rounded "scalars" to float32.
    for p, q in zip(params, others):
        torch.testing.assert_close(p, q, rtol=1e-6 if dtype == torch.float32 else 1e-2, atol=1e-6)
    assert all(own["scalars"].dtype == torch.float64 for own in outer.state.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_checkpoints_in_the_background(tmp_path, dtype):
    """Saved while training goes on, and loaded by a run that has not stepped."""
    from torch.distributed import checkpoint

    one, two = model().to(dtype), model(1).to(dtype)
    options = {"master_weights": True, "state_dtype": torch.bfloat16, "rounding": "stochastic"}
    first, second = make(one.named_parameters(), **options), make(two.named_parameters(), **options)
    run(first, list(one.parameters()), 3)
    weights, state = get_state_dict(one, first)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    try:
        saving = checkpoint.async_save({"m": weights, "o": state}, checkpoint_id=tmp_path / "a")
        if not hasattr(checkpoint.staging, "DefaultStager"):
            # PyTorch 2.6 saves tensors that are on the CPU without a copy of its own.
            saving.result()
        run(first, list(one.parameters()), 2, start=3)
        saving.result()
        weights, state = get_state_dict(two, second)
        checkpoint.load({"m": weights, "o": state}, checkpoint_id=tmp_path / "a")
        set_state_dict(two, second, model_state_dict=weights, optim_state_dict=state)
    finally:
        torch.distributed.destroy_process_group()
    run(second, list(two.parameters()), 2, start=3)
    assert bits(one.parameters()) == bits(two.parameters())
    assert state_bits(first) == state_bits(second)


EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "torch"


def test_offloading_by_torchao(monkeypatch, tmp_path):
    """The example; its state is saved and loaded by torchao, too."""
    pytest.importorskip("torchao")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import offload

    device = "cuda" if torch.cuda.is_available() else "cpu"
    with contextlib.nullcontext() if device == "cuda" else offload.without_gpu():
        net, optimizer, losses = offload.train(30, device)
        torch.save(optimizer.state_dict(), tmp_path / "state")
        _, other, _ = offload.train(1, device)
        other.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    assert losses[-1] < 0.9 * losses[0]
    inner = [o for one in (optimizer, other) for o in one.optim_dict.values()]
    assert all(isinstance(o, SONew) and all(p.device.type == "cpu" for p in o.state) for o in inner)
    assert [state_bits(o) for o in optimizer.optim_dict.values()] == [
        state_bits(o) for o in other.optim_dict.values()
    ]
    # The same run without torchao.
    monkeypatch.setitem(sys.modules, "torchao.optim", Plain)
    plain, _, plain_losses = offload.train(30, device)
    if device == "cpu":
        assert losses == plain_losses and bits(net.parameters()) == bits(plain.parameters())


class Plain:
    """In the place of torchao's module."""

    @staticmethod
    def CPUOffloadOptimizer(params, make, **options):
        return make(params, **options)
