"""What programs do with an optimizer."""

import subprocess
import sys
import warnings

import pytest
import sonew
import torch
from common import Reference, bits, give_gradients, make, parameters, run
from sonew.torch import SONew, param_groups


def model_and_data():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3))
    return model, torch.randn(32, 8), torch.randn(32, 3)


def train(model, optimizer, x, y, steps, loss_of=None):
    loss_of = loss_of or (lambda: torch.nn.functional.mse_loss(model(x), y))
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_trains():
    model, x, y = model_and_data()
    losses = train(model, SONew(model.named_parameters(), lr=1e-2), x, y, 120)
    assert losses[-1] < 0.6 * losses[0]


def test_a_compiled_loop():
    """Dynamo leaves the step out of what it compiles."""
    losses = []
    for compiled in (False, True):
        model, x, y = model_and_data()
        optimizer = SONew(model.parameters(), lr=1e-2)

        def step(model=model, optimizer=optimizer, x=x, y=y):
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(model(x), y)
            loss.backward()
            optimizer.step()
            return loss

        one = torch.compile(step, backend="eager") if compiled else step
        losses.append([one().item() for _ in range(5)])
    assert losses[0] == losses[1]


def test_a_scheduler_with_betas():
    model, x, y = model_and_data()
    optimizer = SONew(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-2, total_steps=30)
    losses, betas = [], set()
    for _ in range(29):
        losses += train(model, optimizer, x, y, 1)
        betas.add(optimizer.param_groups[0]["betas"])
        schedule.step()
    assert losses[-1] < losses[0] and len(betas) > 20
    assert all(own["scalars"][1] > 0 for own in optimizer.state.values())


@pytest.mark.parametrize("implementation", ["library", "torch"])
@pytest.mark.parametrize("groups", [1, 2])
def test_gradients_that_are_not_finite(groups, implementation):
    for what in ("skip", "raise", "unchecked"):
        params = parameters()
        parts = [params] if groups == 1 else [params[:1], params[1:]]
        grafts = ["adam", "none"]
        optimizer = make(
            [{"params": part, "graft": graft} for part, graft in zip(parts, grafts)],
            non_finite=what,
            implementation=implementation,
        )
        run(optimizer, params, 2)
        give_gradients(params, 2)
        params[-1].grad.view(-1)[0] = float("nan")
        before = bits(params)
        if what == "raise":
            with pytest.raises(sonew.LibraryError, match="parameter 5 of group 0.*not finite|parameter 4 of group 1.*not finite") as caught:
                optimizer.step()
            assert caught.value.status == sonew.NON_FINITE_GRADIENT
        else:
            optimizer.step()
        assert optimizer.skipped == (what != "unchecked")
        if what != "unchecked":
            assert bits(params) == before
            assert all(own["step"] == 2 for own in optimizer.state.values())


def test_memory_formats():
    """Chains follow memory; a gradient in another order is brought into that of its parameter."""
    torch.manual_seed(0)
    model = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    optimizer = SONew(model.parameters(), lr=1e-2)
    weight = model.weight
    plain = torch.nn.Parameter(weight.detach().permute(0, 2, 3, 1).contiguous())
    other = SONew([plain], lr=1e-2)
    for i in range(4):
        grad = torch.randn(weight.shape)
        weight.grad = grad.contiguous() if i % 2 else grad.contiguous(memory_format=torch.channels_last)
        plain.grad = grad.permute(0, 2, 3, 1).contiguous()
        optimizer.step()
        other.step()
        assert torch.equal(weight.permute(0, 2, 3, 1), plain)
    assert optimizer.state[weight]["band_1"].stride() == weight.stride()


def test_parameters_with_gaps_are_stepped_in_copies():
    whole = torch.zeros(6, 4)
    view = whole[:, ::2].requires_grad_()
    plain = torch.zeros(6, 2, requires_grad=True)
    one, two = SONew([view], lr=0.1), SONew([plain], lr=0.1)
    for i in range(3):
        view.grad = torch.randn(6, 2)
        plain.grad = view.grad.clone()
        one.step(), two.step()
    assert torch.equal(view, plain) and (whole[:, 1::2] == 0).all()


def test_sparse_gradients_are_refused_by_name():
    embedding = torch.nn.Embedding(5, 3, sparse=True)
    optimizer = SONew(embedding.named_parameters())
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match="gradient of weight is sparse"):
        optimizer.step()


def test_state_of_another_optimizer_is_refused_by_name():
    params = parameters()
    adam = torch.optim.AdamW(params)
    run(adam, params, 1)
    saved = adam.state_dict()
    optimizer = make(params)
    # Options of the other are not those of this one, which it keeps.
    optimizer.load_state_dict(saved)
    give_gradients(params, 1)
    with pytest.raises(ValueError, match="parameter 0 of group 0 has no 'momentum'.*another optimizer"):
        optimizer.step()


def test_a_backward_pass_through_what_a_step_has_changed_is_an_error():
    w = torch.nn.Parameter(torch.ones(3, 3))
    loss = (w @ w).sum()
    w.grad = torch.ones(3, 3)
    SONew([w]).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_clipping_and_accumulation():
    model, x, y = model_and_data()
    optimizer = SONew(model.parameters(), lr=1e-2)
    for _ in range(3):
        for part in (slice(0, 16), slice(16, 32)):
            (torch.nn.functional.mse_loss(model(x[part]), y[part]) / 2).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)


def test_grad_scaler_leaves_the_scale_to_the_step():
    params, others = parameters(), parameters()
    optimizer = make(params, fused=True)
    other = Reference(others)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    scaler.scale(torch.zeros(()))
    for step in range(4):
        give_gradients(params, step)
        give_gradients(others, step)
        for p, q in zip(params, others):
            p.grad *= 8
        if step == 2:
            # The user unscales for clipping.
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        other.step(others, 1e-2)
    assert bits(params) == [a.tobytes() for a in other.arrays]
    assert not hasattr(optimizer, "found_inf")
    give_gradients(params, 9)
    params[0].grad[0, 0] = float("inf")
    before = bits(params)
    scaler.step(optimizer)
    scaler.update()
    assert bits(params) == before and scaler.get_scale() == 4.0


def test_two_modules_with_the_same_names():
    one, two = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    optimizer = SONew([*one.named_parameters(), *two.named_parameters()])
    params = [*one.parameters(), *two.parameters()]
    run(optimizer, params, 2)
    assert all(own["step"] == 2 for own in optimizer.state.values())


def test_another_parameter_in_the_place_of_one():
    params = parameters()
    optimizer = make(params)
    run(optimizer, params, 2)
    new = torch.nn.Parameter(torch.zeros(3, 3))
    optimizer.param_groups[0]["params"][0] = new
    new.grad = torch.ones(3, 3)
    old = params[0].detach().clone()
    optimizer.step()
    assert torch.equal(params[0], old) and (new != 0).all()


def test_embeddings_and_vectors_take_adam():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.wte = torch.nn.Embedding(7, 4)
            self.tokens = torch.nn.Embedding(7, 4)
            self.norm = torch.nn.LayerNorm(4)
            self.head = torch.nn.Linear(4, 7, bias=False)
            self.head.weight = self.tokens.weight
            self.member = torch.nn.Linear(4, 4)

    model = Model()
    sonew_ones = lambda o: {
        n
        for g in o.param_groups
        for n, p in zip(g["param_names"], g["params"])
        if "band_1" in o.state[p]
    }
    for how, expected in (
        # What is called tokens is not known to be an embedding.
        (model.named_parameters(), {"tokens.weight", "member.weight"}),
        (param_groups(model, weight_decay=0.1), {"member.weight"}),
        ([{"params": model.named_parameters(), "update": "adam"}], set()),
    ):
        optimizer = SONew(how)
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()
        assert sonew_ones(optimizer) == expected


def test_without_names_all_matrices_take_sonew():
    embedding = torch.nn.Embedding(5, 3)
    optimizer = SONew(embedding.parameters())
    embedding(torch.tensor([1])).sum().backward()
    optimizer.step()
    assert "band_1" in optimizer.state[embedding.weight]


def test_what_scripts_pass_to_adamw():
    params = parameters()
    with pytest.warns(UserWarning, match="eps is 1e-8, as scripts have it for AdamW"):
        SONew(params, lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, fused=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SONew(params, eps=1e-8, damping="absolute")
    SONew(params, lr=1e-3, foreach=False)
    SONew(params, amsgrad=False, capturable=False, differentiable=False)
    for name in ("amsgrad", "capturable", "differentiable"):
        with pytest.raises(ValueError, match=f"{name} is True, which SONew does not support"):
            SONew(params, **{name: True})


def test_each_parameter_with_an_optimizer_of_its_own():
    """As torchao's CPUOffloadOptimizer has them; they share threads."""
    params, others = parameters(), parameters()
    together, apart = make(params), [make([p]) for p in others]
    for step in range(3):
        give_gradients(params, step)
        give_gradients(others, step)
        together.step()
        for one in apart:
            one.step()
    assert bits(params) == bits(others)


def test_forked_workers_of_a_data_loader():
    model, x, y = model_and_data()
    optimizer = SONew(model.parameters(), lr=1e-2)
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(x, y), batch_size=8, num_workers=2
    )
    for _ in range(2):
        for a, b in loader:
            train(model, optimizer, a, b, 1)


def test_nothing_is_imported_that_is_not_needed():
    code = "import sys, sonew; assert 'torch' not in sys.modules and 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    # This process has imported sonew.torch.
    assert "sonew.torch" in sys.modules and "jax" not in sys.modules


def test_structs_lie_as_in_the_header():
    from ctypes import byref, c_size_t, sizeof

    from sonew import _structs
    from sonew._library import c, check

    for name, kind in _structs.STRUCTS.items():
        offset, size = c_size_t(), c_size_t()
        check(c().sonew_struct_field(name.encode(), None, byref(offset), byref(size)))
        assert size.value == sizeof(kind)
        for field, _ in kind._fields_:
            check(c().sonew_struct_field(name.encode(), field.encode(), byref(offset), byref(size)))
            own = getattr(kind, field)
            assert (own.offset, own.size) == (offset.value, size.value), (name, field)


def test_the_level_of_numpy():
    import numpy as np

    w = np.zeros((3, 4), np.float32)
    with sonew.Optimizer([sonew.Tensor("w", w.shape)]) as optimizer:
        with pytest.raises(TypeError, match="gradient of 'w' is float64, expected float32"):
            optimizer.step([w], [np.zeros((3, 4))], 0.1)
        with pytest.raises(ValueError, match="parameter of 'w' has 3 elements, and the tensor 12"):
            optimizer.step([np.zeros(3, np.float32)], [w], 0.1)
        with pytest.raises(sonew.LibraryError) as caught:
            optimizer.step([w], [w + np.nan], 0.1)
        assert caught.value.status == sonew.NON_FINITE_GRADIENT
    with pytest.raises(TypeError, match="there is no option 'bands'"):
        sonew.Optimizer([sonew.Tensor("w", w.shape)], bands=2)
    with pytest.raises(ValueError, match="graft is 'adamw', must be one of"):
        sonew.Optimizer([sonew.Tensor("w", w.shape)], graft="adamw")


warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")
