"""What programs do with torch's own optimizers, case by case."""

import copy
import io
import threading

import pytest
import torch
from common import bits, give_gradients, make, parameters, run, state_bits
from sonew.torch import SONew, param_groups
from torch.optim import lr_scheduler

loss_of = torch.nn.functional.mse_loss


def model_and_data(seed=0):
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3))
    return model, torch.randn(32, 8), torch.randn(32, 3)


@pytest.mark.parametrize("lr", [torch.tensor(1e-2), torch.tensor([1e-2]), torch.tensor(1e-2, dtype=torch.float64)])
def test_a_learning_rate_that_is_a_tensor(lr):
    """Schedules, and programs, change it in place."""
    params, others = parameters(), parameters()
    one, two = make(params, lr=lr), make(others, lr=float(lr))
    for step in range(5):
        run(one, params, 1, start=step)
        run(two, others, 1, start=step)
        lr.mul_(0.5)
        two.param_groups[0]["lr"] = float(lr)
    assert bits(params) == bits(others)
    new = make(params, lr=0.5)
    new.load_state_dict(one.state_dict())
    assert isinstance(new.param_groups[0]["lr"], torch.Tensor)


SCHEDULES = {
    "cyclic": lambda o: lr_scheduler.CyclicLR(o, 1e-3, 1e-2, step_size_up=3, cycle_momentum=True),
    "one cycle, groups": lambda o: lr_scheduler.OneCycleLR(o, max_lr=[1e-2, 2e-2], total_steps=20),
    "sequence": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=3), lr_scheduler.CosineAnnealingLR(o, 9)], [3]
    ),
    "lambda": lambda o: lr_scheduler.LambdaLR(o, [lambda n: 0.9**n, lambda n: 1.0]),
}


@pytest.mark.parametrize("implementation", ["library", "torch"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_go_on_after_a_load(name, implementation):
    def start():
        params = parameters()
        groups = [{"params": params[:2]}, {"params": params[2:], "betas": (0.8, 0.95), "graft": "sgd"}]
        optimizer = SONew(groups, lr=1e-2, implementation=implementation)
        return params, optimizer, SCHEDULES[name](optimizer)

    def take(params, optimizer, schedule, steps):
        for step in steps:
            give_gradients(params, step)
            optimizer.step()
            schedule.step()

    params, optimizer, schedule = start()
    take(params, optimizer, schedule, range(5))
    file = io.BytesIO()
    torch.save([optimizer.state_dict(), schedule.state_dict(), params], file)
    others, new, new_schedule = start()
    file.seek(0)
    states = torch.load(file, weights_only=True)
    new.load_state_dict(states[0])
    new_schedule.load_state_dict(states[1])
    with torch.no_grad():
        for p, saved in zip(others, states[2]):
            p.copy_(saved)
    take(params, optimizer, schedule, range(5, 11))
    take(others, new, new_schedule, range(5, 11))
    assert bits(params) == bits(others) and state_bits(optimizer) == state_bits(new)


def test_closures():
    model, x, y = model_and_data()
    optimizer = SONew(model.named_parameters(), lr=1e-2)

    def closure():
        assert torch.is_grad_enabled()
        optimizer.zero_grad()
        loss = loss_of(model(x), y)
        loss.backward()
        return loss

    with torch.no_grad():
        losses = [optimizer.step(closure).item() for _ in range(20)]
    assert losses[-1] < losses[0]
    before, state = bits(model.parameters()), state_bits(optimizer)

    def broken():
        closure()
        raise ArithmeticError("out of data")

    with pytest.raises(ArithmeticError):
        optimizer.step(broken)
    assert (before, state) == (bits(model.parameters()), state_bits(optimizer))
    assert optimizer.step(lambda: None) is None


@pytest.mark.parametrize("implementation", ["library", "torch"])
def test_parts_that_are_frozen_for_a_while(implementation):
    """Each parameter counts its own steps."""
    params, others = parameters(), parameters()
    one = make(params, implementation=implementation)
    apart = [make([p], implementation=implementation) for p in others]
    for step in range(8):
        give_gradients(params, step)
        give_gradients(others, step)
        for i, (p, q) in enumerate(zip(params, others)):
            if (step + i) % 3 == 0:
                p.grad = q.grad = None
        one.step()
        for optimizer in apart:
            optimizer.step()
    assert bits(params) == bits(others)
    assert {int(own["step"]) for own in one.state.values()} <= {5, 6}


def test_maximize_of_one_group():
    params, others = parameters(), parameters()
    one = SONew([{"params": params[:2], "maximize": True}, {"params": params[2:]}], lr=1e-2)
    two = make(others)
    for step in range(4):
        give_gradients(params, step)
        give_gradients(others, step)
        for p in others[:2]:
            p.grad.neg_()
        one.step(), two.step()
    assert bits(params) == bits(others)
    assert all((p.grad == -q.grad).all() for p, q in zip(params[:2], others))


def test_a_hook_that_changes_gradients():
    params, others = parameters(), parameters()
    one, two = make(params), make(others)
    one.register_step_pre_hook(
        lambda o, *_: torch.nn.utils.clip_grad_norm_(o.param_groups[0]["params"], 1.0) and None
    )
    for step in range(3):
        give_gradients(params, step)
        give_gradients(others, step)
        torch.nn.utils.clip_grad_norm_(others, 1.0)
        one.step(), two.step()
    assert bits(params) == bits(others)


def test_steps_in_the_backward_pass():
    """An optimizer for each parameter, which steps as soon as its gradient is there."""
    results = []
    for in_backward in (False, True):
        model, x, y = model_and_data()
        if in_backward:
            optimizers = {p: SONew([p], lr=1e-2) for p in model.parameters()}

            def step(p, optimizers=optimizers):
                optimizers[p].step()
                optimizers[p].zero_grad()

            for p in model.parameters():
                p.register_post_accumulate_grad_hook(step)
        else:
            optimizer = SONew(model.parameters(), lr=1e-2)
        for _ in range(4):
            loss_of(model(x), y).backward()
            if not in_backward:
                optimizer.step()
                optimizer.zero_grad()
        results.append(bits(model.parameters()))
    assert results[0] == results[1]


def test_groups_that_are_added_later():
    params, others = parameters(), parameters()
    one = SONew(params[:2], lr=1e-2)
    two = [SONew(others[:2], lr=1e-2)]
    for step in range(6):
        if step == 2:
            one.add_param_group({"params": params[2], "lr": 0.1, "band": 3})
            two.append(SONew([others[2]], lr=0.1, band=3))
        if step == 4:
            one.add_param_group({"params": iter(params[3:]), "graft": "none"})
            two.append(SONew(others[3:], lr=1e-2, graft="none"))
        run(one, params, 1, start=step)
        give_gradients(others, step)
        for optimizer in two:
            optimizer.step()
    assert bits(params) == bits(others)
    with pytest.raises(ValueError, match="some parameters appear in more than one parameter group"):
        one.add_param_group({"params": params[0]})
    before = len(one.param_groups)
    with pytest.raises(ValueError, match="band is 17"):
        one.add_param_group({"params": torch.zeros(2, requires_grad=True), "band": 17})
    assert len(one.param_groups) == before


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("implementation", ["library", "torch"])
def test_grad_scaler_by_both_protocols(fused, implementation):
    """With the one the step takes the scale; without it GradScaler unscales before, and leaves
    the step out. Which one it is, the argument says, as with torch's own optimizers: Lightning
    clips no gradients where the step takes the scale."""
    params, others = parameters(), parameters()
    groups = [{"params": params[:1]}, {"params": params[1:], "band": 2, "graft": "none"}]
    one = SONew(groups, lr=1e-2, implementation=implementation, fused=fused)
    assert one._step_supports_amp_scaling is fused
    assert not getattr(SONew(parameters()), "_step_supports_amp_scaling", False)
    two = SONew([{**g, "params": others[:1] if i == 0 else others[1:]} for i, g in enumerate(groups)],
                lr=1e-2, implementation=implementation)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
    scaler.scale(torch.zeros(()))
    for step in range(7):
        give_gradients(params, step)
        give_gradients(others, step)
        overflow = step == 3
        for p in params:
            p.grad *= scaler.get_scale()
        if overflow:
            params[2].grad.view(-1)[1] = float("inf")
        if step == 5:
            scaler.unscale_(one)
            torch.nn.utils.clip_grad_norm_(params, 1e6)
        scaler.step(one)
        scaler.update()
        if not overflow:
            two.step()
    for p, q in zip(params, others):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-8)
    assert all(own["step"] == 6 for own in one.state.values())


@pytest.mark.parametrize("backend", [pytest.param("eager", marks=pytest.mark.long), "aot_eager"])
def test_compiled_loops(backend):
    """The model and its loss compiled; the step alone, with its schedule; a loop of steps."""
    def train(compile_model, compile_step):
        model, x, y = model_and_data()
        optimizer = SONew(model.named_parameters(), lr=torch.tensor(1e-2))
        schedule = lr_scheduler.ExponentialLR(optimizer, 0.9)
        compiled = lambda f, wanted: torch.compile(f, backend=backend) if wanted else f
        net = compiled(model, compile_model)

        def update():
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()

        update = compiled(update, compile_step)
        for _ in range(4):
            loss_of(net(x), y).backward()
            update()
        return bits(model.parameters())

    torch._dynamo.reset()
    expected = train(False, False)
    assert train(True, False) == expected
    assert train(False, True) == expected
    assert train(True, True) == expected


def test_a_compiled_step_of_its_own():
    torch._dynamo.reset()
    params, others = parameters(), parameters()
    one, two = make(params), make(others)
    step = torch.compile(one.step, backend="eager")
    for n in range(3):
        give_gradients(params, n)
        give_gradients(others, n)
        step(), two.step()
    assert bits(params) == bits(others)


def test_transposed_parameters():
    torch.manual_seed(0)
    p = torch.randn(5, 7).t().requires_grad_()
    plain = p.detach().t().contiguous().requires_grad_()
    one, two = SONew([p], lr=1e-2), SONew([plain], lr=1e-2)
    for _ in range(3):
        p.grad = torch.randn(7, 5)
        plain.grad = p.grad.t().contiguous()
        one.step(), two.step()
    assert torch.equal(p.t(), plain)


REFUSED = [
    (torch.zeros(3, dtype=torch.complex64), "first.w is complex"),
    (torch.zeros(3, 3).to_sparse(), "first.w is sparse"),
    (torch.zeros(3, 3).to_sparse_csr(), "first.w is sparse"),
    (torch.zeros((1,) * 9), "first.w has 9 dimensions"),
    (torch.zeros(3).to(torch.float8_e4m3fn), "first.w is torch.float8_e4m3fn"),
    (torch.zeros(1).expand(5), "first.w has elements that share memory"),
]


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize("p, said", REFUSED)
def test_what_is_refused_by_name(p, said):
    with pytest.raises(ValueError, match=said):
        SONew([("first.w", p.requires_grad_())])
    optimizer = SONew(parameters())
    with pytest.raises(ValueError, match="parameter 0 of group 1 "):
        optimizer.add_param_group({"params": p})
    with pytest.raises(TypeError):
        SONew([("first.w", [1.0])])


def test_types_in_one_optimizer():
    types = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
    params = [parameters(dtype, shapes=[(6, 5)])[0] for dtype in types]
    others = [parameters(dtype, shapes=[(6, 5)])[0] for dtype in types]
    for options in ({}, {"state_dtype": torch.bfloat16, "rounding": "stochastic"}):
        one, apart = make(params, **options), [make([p], **options) for p in others]
        for step in range(4):
            give_gradients(params, step)
            give_gradients(others, step)
            one.step()
            for optimizer in apart:
                optimizer.step()
        if not options:
            assert bits(params) == bits(others)
        assert all((p.isfinite()).all() for p in params)


def test_a_whole_optimizer_in_a_file():
    params = parameters(torch.bfloat16)
    optimizer = make(params, master_weights=True, state_dtype=torch.bfloat16, rounding="stochastic")
    optimizer.param_groups[0]["betas"] = (0.8, 0.9)
    run(optimizer, params, 3)
    file = io.BytesIO()
    torch.save({"optimizer": optimizer, "params": params}, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    copied, copies = copy.deepcopy((optimizer, params))
    run(optimizer, params, 3, start=3)
    run(loaded["optimizer"], loaded["params"], 3, start=3)
    run(copied, copies, 3, start=3)
    assert bits(params) == bits(loaded["params"]) == bits(copies)
    assert state_bits(optimizer) == state_bits(loaded["optimizer"]) == state_bits(copied)


def test_a_state_dict_is_not_changed_by_steps_after_a_load():
    """And one of an optimizer that has not stepped loads."""
    params = parameters()
    optimizer = make(params)
    fresh = copy.deepcopy(optimizer.state_dict())
    run(optimizer, params, 2)
    saved = optimizer.state_dict()
    new, copies = make(params), copy.deepcopy(saved)
    new.load_state_dict(saved)
    run(new, params, 1, start=2)
    for own, before in zip(saved["state"].values(), copies["state"].values()):
        assert all(torch.equal(own[name], before[name]) for name in own)
    new.load_state_dict(fresh)
    assert not new.state
    run(new, params, 1, start=3)
    assert all(own["step"] == 1 for own in new.state.values())


def test_names_in_state_dicts():
    model, x, y = model_and_data()
    optimizer = SONew(model.named_parameters())
    loss_of(model(x), y).backward()
    optimizer.step()
    saved = optimizer.state_dict()
    assert saved["param_groups"][0]["param_names"] == [n for n, _ in model.named_parameters()]


def test_embeddings():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.words = torch.nn.Embedding(7, 4, padding_idx=0)
            self.bag = torch.nn.EmbeddingBag(7, 4)
            self.head = torch.nn.Linear(4, 7)
            self.scale = torch.nn.Parameter(torch.ones(()))
            self.frozen = torch.nn.Parameter(torch.ones(3, 3), requires_grad=False)

    model = Model()
    groups = param_groups(model, weight_decay=0.1, lr=1e-2)
    optimizer = SONew(groups)
    listed = {n: g for g in optimizer.param_groups for n in g["param_names"]}
    assert {n: (g["update"], g["weight_decay"], g["lr"]) for n, g in listed.items()} == {
        "head.weight": ("sonew", 0.1, 1e-2),
        "words.weight": ("adam", 0.1, 1e-2),
        "bag.weight": ("adam", 0.1, 1e-2),
        "head.bias": ("adam", 0.0, 1e-2),
        "scale": ("adam", 0.0, 1e-2),
    }


def test_optimizers_in_threads():
    results, given = {}, [model_and_data(seed % 2) for seed in range(4)]

    def train(seed):
        model, x, y = given[seed]
        optimizer = SONew(model.parameters(), lr=1e-2)
        for _ in range(20):
            optimizer.zero_grad()
            loss_of(model(x), y).backward()
            optimizer.step()
        results[seed] = bits(model.parameters())

    threads = [threading.Thread(target=train, args=(seed,)) for seed in range(4)]
    [t.start() for t in threads], [t.join() for t in threads]
    assert results[0] == results[2] and results[1] == results[3] and results[0] != results[1]


def test_averaged_weights_and_swapped_tensors():
    model, x, y = model_and_data()
    averaged = torch.optim.swa_utils.AveragedModel(model)
    optimizer = SONew(model.parameters(), lr=1e-2)
    for step in range(4):
        optimizer.zero_grad()
        loss_of(model(x), y).backward()
        optimizer.step()
        averaged.update_parameters(model)
        if step == 1:
            optimizer.zero_grad()
            # As Module.to() does, if it is asked to.
            other = torch.nn.Parameter(model[0].weight.detach().clone())
            torch.utils.swap_tensors(model[0].weight, other)


def test_parameters_that_share_memory_with_processes():
    model, x, y = model_and_data()
    optimizer = SONew(model.parameters(), lr=1e-2)
    results = []
    for shared in (False, True):
        model, x, y = model_and_data()
        optimizer = SONew(model.parameters(), lr=1e-2)
        for step in range(4):
            if shared and step == 2:
                model.share_memory()
                for own in optimizer.state.values():
                    for value in own.values():
                        value.share_memory_()
            optimizer.zero_grad()
            loss_of(model(x), y).backward()
            optimizer.step()
        results.append(bits(model.parameters()))
    assert results[0] == results[1]


@pytest.mark.parametrize(
    "implementation, said",
    [("library", r"'momentum' of w has shape \(6, 4\), expected \(3, 4\)"), ("torch", "size")],
)
def test_a_parameter_that_has_become_smaller(implementation, said):
    """Pruning cuts rows off where they are, so that the address stays."""
    p = torch.nn.Parameter(torch.ones(6, 4))
    optimizer = SONew([("w", p)], implementation=implementation)
    p.grad = torch.ones(6, 4)
    optimizer.step()
    p.grad, p.data = None, p.data[:3]
    p.grad = torch.ones(3, 4)
    with pytest.raises((RuntimeError, ValueError), match=said):
        optimizer.step()


def test_gradients_of_another_type():
    if not hasattr(torch.Tensor, "grad_dtype"):
        return
    for wanted in (torch.bfloat16, None):
        p, q = (torch.nn.Parameter(torch.ones(600, 4)) for _ in range(2))
        p.grad_dtype = wanted
        one, two = make([("w", p)]), make([("w", q)])
        for step in range(3):
            grad = torch.randn(600, 4).bfloat16()
            q.grad = grad.float()
            p.grad = grad if wanted or step else grad.float()
            if wanted is None and step:
                with pytest.raises(RuntimeError, match="gradient of w is torch.bfloat16"):
                    one.step()
            else:
                one.step(), two.step()
        if wanted:
            assert torch.equal(p, q)
