"""What torch asks of each optimizer of its table (OptimizerInfo), asked of SONew: with torch's own
test classes, decorators and comparisons. sonew_info.py lists what does not apply."""

import pickle
import tempfile
import warnings
from copy import deepcopy

import torch
from sonew_info import INFO
from torch.nn import Parameter
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.testing._internal.common_device_type import instantiate_device_type_tests
from torch.testing._internal.common_optimizers import (
    OptimizerErrorEnum,
    _get_optim_inputs_including_global_cliquey_kwargs,
    optims,
)
from torch.testing._internal.common_utils import TestCase, parametrize

TABLE = [INFO]
TYPES = [torch.float32, torch.float64, torch.bfloat16]


def all_inputs(device, dtype, info):
    return _get_optim_inputs_including_global_cliquey_kwargs(device, dtype, info)


def problem(device, dtype=torch.float32, contiguous=True):
    """A small regression: its parameters, and a closure."""
    torch.manual_seed(1)
    if contiguous:
        weight, bias = torch.randn(10, 5), torch.randn(10)
    else:
        weight, bias = torch.randn(10, 5, 2)[..., 0], torch.randn(10, 2)[..., 0]
    weight = Parameter(weight.to(device, dtype)) if contiguous else weight.to(device, dtype).detach()
    bias = Parameter(bias.to(device, dtype)) if contiguous else bias.to(device, dtype).detach()
    weight.requires_grad_(), bias.requires_grad_()
    x = torch.randn(5, device=device, dtype=dtype)
    return weight, bias, x


def closure_of(optimizer, weight, bias, x):
    def closure():
        optimizer.zero_grad()
        loss = (weight.mv(x) + bias).pow(2).sum()
        loss.backward()
        return loss

    return closure


class TestTable(TestCase):
    @optims(TABLE)
    def test_inputs_name_no_implementation(self, device, dtype, optim_info):
        for one in optim_info.optim_inputs_func(device=device):
            assert not {"foreach", "fused", "differentiable"} & set(one.kwargs)

    @optims([info for info in TABLE if info.optim_error_inputs_func])
    def test_errors(self, device, dtype, optim_info):
        for error in optim_info.optim_error_inputs_func(device=device, dtype=dtype):
            given = error.optimizer_error_input
            assert error.error_on == OptimizerErrorEnum.CONSTRUCTION_ERROR
            params = given.params if given.params is not None else [Parameter(torch.randn(1, 1))]
            make = lambda: optim_info.optim_cls(params, **given.kwargs)
            if issubclass(error.error_type, Warning):
                with self.assertWarnsRegex(error.error_type, error.error_regex):
                    make()
            else:
                with self.assertRaisesRegex(error.error_type, error.error_regex):
                    make()

    @parametrize("contiguous", [True, False])
    @parametrize("with_schedule", [True, False])
    @optims(TABLE, dtypes=[torch.float32, torch.float64])
    def test_goes_the_right_way(self, device, dtype, optim_info, contiguous, with_schedule):
        schedules = optim_info.scheduler_inputs if with_schedule else [None]
        for number, given in enumerate(all_inputs(device, dtype, optim_info)):
            if with_schedule and number > 3 and "betas" not in given.kwargs:
                continue
            for make_schedules in schedules:
                weight, bias, x = problem(device, dtype, contiguous)
                # A schedule changes a learning rate that is a tensor in place.
                optimizer = optim_info.optim_cls([weight, bias], **deepcopy(given.kwargs))
                schedulers = [make(optimizer) for make in make_schedules or []]
                closure = closure_of(optimizer, weight, bias, x)
                first = closure().item()
                for _ in range(20):
                    loss = optimizer.step(closure)
                    for one in schedulers:
                        one.step(loss) if isinstance(one, ReduceLROnPlateau) else one.step()
                if given.kwargs.get("maximize"):
                    self.assertGreater(closure().item(), first, given.desc)
                else:
                    self.assertLess(closure().item(), first, given.desc)

    @optims(TABLE, dtypes=[torch.float32])
    def test_contiguity_changes_nothing(self, device, dtype, optim_info):
        for given in all_inputs(device, dtype, optim_info):
            ends = []
            for contiguous in (True, False):
                weight, bias, x = problem(device, dtype, contiguous=False)
                if contiguous:
                    weight = weight.detach().contiguous().requires_grad_()
                    bias = bias.detach().contiguous().requires_grad_()
                optimizer = optim_info.optim_cls([weight, bias], **given.kwargs)
                closure = closure_of(optimizer, weight, bias, x)
                for _ in range(4):
                    optimizer.step(closure)
                ends.append((weight.detach().clone(), bias.detach().clone()))
            self.assertEqual(ends[0], ends[1], rtol=1e-5, atol=1e-6)

    @optims(TABLE, dtypes=[torch.float32])
    def test_tensor_lr(self, device, dtype, optim_info):
        for given in all_inputs(device, dtype, optim_info):
            kwargs = {**given.kwargs, "lr": 0.01}
            for lr in (torch.tensor(0.01, dtype=torch.float64), torch.tensor([0.01], dtype=torch.float64)):
                weight, bias, x = problem(device)
                others = [deepcopy(weight), deepcopy(bias)]
                one = optim_info.optim_cls([weight, bias], **{**kwargs, "lr": lr})
                two = optim_info.optim_cls(others, **kwargs)
                for step in range(4):
                    one.step(closure_of(one, weight, bias, x))
                    two.step(closure_of(two, *others, x))
                    self.assertEqual([weight, bias], others, rtol=0, atol=0)
                    lr *= 0.5
                    two.param_groups[0]["lr"] *= 0.5
                    assert one.param_groups[0]["lr"] is lr

    @optims(TABLE, dtypes=[torch.float32])
    def test_groups_have_their_own_options(self, device, dtype, optim_info):
        for given in all_inputs(device, dtype, optim_info):
            kwargs = {k: v for k, v in given.kwargs.items() if k not in ("lr", "weight_decay")}
            for own in ({"lr": 0.0}, {"weight_decay": 0.5}, {"band": 0}, {"gamma": 0.3, "betas": (0.5, 0.5)}):
                together, apart = problem(device), problem(device)
                groups = [{"params": [together[0]]}, {"params": [together[1]], **own}]
                one = optim_info.optim_cls(groups, **{"lr": 1e-3, **kwargs})
                two = [
                    optim_info.optim_cls([apart[0]], **{"lr": 1e-3, **kwargs}),
                    optim_info.optim_cls([apart[1]], **{"lr": 1e-3, **kwargs, **own}),
                ]
                if kwargs.get("rounding") == "stochastic":
                    continue
                for _ in range(4):
                    closure_of(one, *together)()
                    one.step()
                    for x in apart[:2]:
                        x.grad = None
                    closure_of(two[0], *apart)()
                    for optimizer in two:
                        optimizer.step()
                    self.assertEqual(together, apart, rtol=0, atol=0)

    @parametrize("is_named", [True, False])
    @optims(TABLE, dtypes=[torch.float32])
    def test_state_dict_is_deterministic(self, device, dtype, optim_info, is_named):
        for given in all_inputs(device, dtype, optim_info):
            weight, bias, x = problem(device)
            name = lambda ps: list(zip(("weight", "bias"), ps)) if is_named else ps
            optimizer = optim_info.optim_cls(name([weight, bias]), **given.kwargs)
            for _ in range(3):
                optimizer.step(closure_of(optimizer, weight, bias, x))
            others = [Parameter(p.detach().clone()) for p in (weight, bias)]
            other = optim_info.optim_cls(name(others), **given.kwargs)
            saved = deepcopy(optimizer.state_dict())
            other.load_state_dict(deepcopy(saved))
            self.assertEqual(saved, deepcopy(optimizer.state_dict()))
            for _ in range(3):
                optimizer.step(closure_of(optimizer, weight, bias, x))
                other.step(closure_of(other, *others, x))
                self.assertEqual([weight, bias], others, rtol=0, atol=0)
            self.assertEqual(optimizer.state_dict(), other.state_dict(), rtol=0, atol=0)
            repr(optimizer)

    @optims(TABLE, dtypes=[torch.float32])
    def test_can_load_older_state_dict(self, device, dtype, optim_info):
        for given in all_inputs(device, dtype, optim_info):
            weight, bias, x = problem(device)
            optimizer = optim_info.optim_cls([weight, bias], **given.kwargs)
            optimizer.step(closure_of(optimizer, weight, bias, x))
            old = deepcopy(optimizer.state_dict())
            for flag in optim_info.not_og_supported_flags:
                for group in old["param_groups"]:
                    group.pop(flag, None)
            optimizer.load_state_dict(old)
            optimizer.step(closure_of(optimizer, weight, bias, x))

    @optims(TABLE, dtypes=[torch.float32])
    def test_from_and_to_named_state_dict(self, device, dtype, optim_info):
        for given in all_inputs(device, dtype, optim_info)[:4]:
            for from_named in (True, False):
                weight, bias, x = problem(device)
                pair = [("w", weight), ("b", bias)]
                first, second = (pair, [weight, bias]) if from_named else ([weight, bias], pair)
                optimizer = optim_info.optim_cls(first, **given.kwargs)
                optimizer.step(closure_of(optimizer, weight, bias, x))
                other = optim_info.optim_cls(second, **given.kwargs)
                other.load_state_dict(deepcopy(optimizer.state_dict()))
                other.step(closure_of(other, weight, bias, x))

    @parametrize("is_named", [True, False])
    @optims(TABLE, dtypes=[torch.float32])
    def test_save_load_with_weights_only(self, device, dtype, optim_info, is_named):
        for given in all_inputs(device, dtype, optim_info):
            weight, bias, x = problem(device)
            params = [("w", weight), ("b", bias)] if is_named else [weight, bias]
            optimizer = optim_info.optim_cls(params, **given.kwargs)
            optimizer.step(closure_of(optimizer, weight, bias, x))
            saved = optimizer.state_dict()
            with tempfile.TemporaryFile() as file:
                torch.save(saved, file)
                file.seek(0)
                self.assertEqual(saved, torch.load(file, weights_only=True))

    @optims(TABLE, dtypes=[torch.float32])
    def test_loads_a_step_that_is_no_tensor(self, device, dtype, optim_info):
        weight, bias, x = problem(device)
        optimizer = optim_info.optim_cls([weight, bias])
        optimizer.step(closure_of(optimizer, weight, bias, x))
        saved = deepcopy(optimizer.state_dict())
        for own in saved["state"].values():
            own["step"] = own["step"].item()
        optimizer.load_state_dict(saved)
        optimizer.step(closure_of(optimizer, weight, bias, x))
        assert optimizer.state[weight]["step"] == 2

    @optims(TABLE, dtypes=[torch.float32])
    def test_deepcopy_and_pickle(self, device, dtype, optim_info):
        public = lambda x: {k for k in x.__dict__ if not k.startswith("_")}
        for given in all_inputs(device, dtype, optim_info):
            weight, bias, x = problem(device)
            optimizer = optim_info.optim_cls([weight, bias], **given.kwargs)
            optimizer.step(closure_of(optimizer, weight, bias, x))
            for other in (deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
                self.assertEqual(public(optimizer), public(other))
                others = other.param_groups[0]["params"]
                other.step(closure_of(other, *others, x))

    @optims(TABLE, dtypes=[torch.float32])
    def test_hooks(self, device, dtype, optim_info):
        order = []
        note = lambda what: lambda *_: order.append(what)
        weight, bias, x = problem(device)
        optimizer = optim_info.optim_cls([weight, bias])
        hooks = [
            optimizer.register_step_pre_hook(note("pre")),
            optimizer.register_step_post_hook(note("post")),
            register_optimizer_step_pre_hook(note("global pre")),
            register_optimizer_step_post_hook(note("global post")),
            optimizer.register_state_dict_pre_hook(note("state")),
            optimizer.register_state_dict_post_hook(note("stated")),
            optimizer.register_load_state_dict_pre_hook(note("load")),
            optimizer.register_load_state_dict_post_hook(note("loaded")),
        ]
        optimizer.step(closure_of(optimizer, weight, bias, x))
        optimizer.load_state_dict(optimizer.state_dict())
        for hook in hooks:
            hook.remove()
        optimizer.step(closure_of(optimizer, weight, bias, x))
        steps = ["global pre", "pre", "post", "global post"]
        self.assertEqual(order, [*steps, "state", "stated", "load", "loaded"])
        changed = optimizer.register_step_pre_hook(lambda _, args, kwargs: ((optimizer, lambda: 7), {}))
        assert optimizer.step() == 7
        changed.remove()

    @optims(TABLE, dtypes=TYPES)
    def test_no_gradients_no_step(self, device, dtype, optim_info):
        for given in all_inputs(device, dtype, optim_info):
            params = [Parameter(torch.randn(2, 3, device=device, dtype=dtype)) for _ in range(2)]
            old = deepcopy(params)
            optimizer = optim_info.optim_cls(params, **given.kwargs)
            optimizer.step()
            self.assertEqual(params, old, rtol=0, atol=0)
            assert not optimizer.state

    @optims(TABLE, dtypes=TYPES)
    def test_zero_gradients_change_nothing(self, device, dtype, optim_info):
        """And so do the steps with learning rate 0 with which distributed checkpoints make state."""
        for given in all_inputs(device, dtype, optim_info):
            for kwargs in ({**given.kwargs, "weight_decay": 0.0}, {**given.kwargs, "lr": 0.0}):
                p = Parameter(torch.randn(5, 4, device=device, dtype=dtype))
                old = deepcopy(p)
                p.grad = torch.zeros_like(p)
                optimizer = optim_info.optim_cls([p], **kwargs)
                optimizer.step()
                optimizer.step()
                self.assertEqual(p, old, rtol=0, atol=0)
                assert all(torch.isfinite(x).all() for x in optimizer.state[p].values())

    @optims(TABLE, dtypes=[torch.float32])
    def test_state_is_not_empty(self, device, dtype, optim_info):
        for given in all_inputs(device, dtype, optim_info):
            weight, bias, x = problem(device)
            optimizer = optim_info.optim_cls([weight, bias], **given.kwargs)
            optimizer.step(closure_of(optimizer, weight, bias, x))
            for own in optimizer.state.values():
                assert own["step"] == 1 and own["diagonal"].abs().sum() > 0

    @optims(TABLE, dtypes=[torch.float32])
    def test_add_param_group(self, device, dtype, optim_info):
        weight, bias, x = problem(device)
        optimizer = optim_info.optim_cls([weight])
        optimizer.step(closure_of(optimizer, weight, bias, x))
        optimizer.add_param_group({"params": bias, "lr": 0.5})
        old = bias.detach().clone()
        optimizer.step(closure_of(optimizer, weight, bias, x))
        assert (bias != old).any() and optimizer.state[bias]["step"] == 1
        with self.assertRaisesRegex(ValueError, "Invalid learning rate"):
            optimizer.add_param_group({"params": torch.zeros(2, requires_grad=True), "lr": -1.0})
        assert len(optimizer.param_groups) == 2
        optimizer.step(closure_of(optimizer, weight, bias, x))

    @optims(TABLE, dtypes=[torch.float32])
    def test_grad_scaling_with_autocast(self, device, dtype, optim_info):
        for given in all_inputs(device, dtype, optim_info)[:12]:
            if given.kwargs.get("maximize"):
                continue
            runs = []
            for scaled in (True, False):
                torch.manual_seed(3)
                model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 8))
                optimizer = optim_info.optim_cls(model.parameters(), **deepcopy(given.kwargs))
                scaler = torch.amp.GradScaler("cpu", enabled=scaled, init_scale=4.0, growth_interval=3)
                for i in range(6):
                    optimizer.zero_grad()
                    with torch.autocast("cpu", enabled=False):
                        loss = model(torch.ones(8) * (i + 1)).square().mean()
                    scaler.scale(loss).backward()
                    if scaled and i == 2:
                        model[0].weight.grad[0, 0] = float("inf")
                    if not (i == 2 and not scaled):
                        scaler.step(optimizer)
                    scaler.update()
                runs.append([p.detach().clone() for p in model.parameters()])
            # A scale is a power of two.
            self.assertEqual(runs[0], runs[1], rtol=1e-6, atol=1e-7)


instantiate_device_type_tests(TestTable, globals(), only_for="cpu")
warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")
