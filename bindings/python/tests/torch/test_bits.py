"""The optimizer gives the bits of the C API, and runs that were saved, copied, pickled or moved
go on with the same bits."""

import copy
import io
import pickle

import pytest
import torch
from common import Reference, bits, give_gradients, make, parameters, run, state_bits

# Options of SONew, and of the optimizer in C.
CASES = {
    "defaults": ({}, {}),
    "band 4": ({"band": 4}, {"band": 4}),
    "diagonal": ({"band": 0}, {"band": 0}),
    "no graft": ({"graft": "none"}, {"graft": "none"}),
    "normalized rmsprop": ({"graft": "normalized_rmsprop"}, {"graft": "normalized_rmsprop"}),
    "sgd": ({"graft": "sgd", "nesterov": True}, {"graft": "sgd", "nesterov": 1}),
    "lagged": ({"lagged_norms": True}, {"lagged_norms": 1}),
    "pooled": ({"pooling": "band", "band": 3, "shrink": 0.1}, {"pooling": "band", "band": 3, "shrink": 0.1}),
    "pooled, not lagged": (
        {"pooling": "band", "lagged_norms": False},
        {"pooling": "band", "lagged_norms": 0},
    ),
    "rank": ({"pooling": "rank", "rank": 4}, {"pooling": "rank", "rank": 4}),
    "rank, not lagged": (
        {"pooling": "rank", "rank": 36, "lagged_norms": False},
        {"pooling": "rank", "rank": 36, "lagged_norms": 0},
    ),
    "all": ({"pooling": "all"}, {"pooling": "all"}),
    "relative": ({"damping": "relative", "eps": 1e-3}, {"damping": "relative", "eps": 1e-3}),
    "weighted sum": ({"statistics": "weighted_sum"}, {"statistics": "weighted_sum"}),
    "columns": ({"chains": "strided"}, {}),
    "rows": ({"chains": "contiguous_lines"}, {}),
    "no bias correction": ({"bias_correction": False}, {"bias_correction": 0}),
    "numbers": (
        {"betas": (0.8, 0.95), "eps": 1e-5, "gamma": 0.1, "graft_eps": 1e-6, "weight_decay": 0.1},
        {"beta1": 0.8, "beta2": 0.95, "eps": 1e-5, "gamma": 0.1, "graft_eps": 1e-6, "weight_decay": 0.1},
    ),
    "bfloat16 state": ({"state_dtype": torch.bfloat16}, {}),
    "stochastic": (
        {"state_dtype": torch.bfloat16, "rounding": "stochastic", "seed": 7},
        {"rounding": "stochastic", "seed": 7},
    ),
    "adam": ({"update": "adam"}, {}),
}
TYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def reference(params, own, c):
    state = "bfloat16" if own.get("state_dtype") else "default"
    return Reference(
        params,
        chains=own.get("chains", "contiguous"),
        update=own.get("update"),
        master=own.get("master_weights", False),
        state=state,
        **c,
    )


def same(params, arrays):
    return bits(params) == [a.tobytes() for a in arrays]


@pytest.mark.parametrize("name", CASES)
def test_bits_of_the_c_api(name):
    own, c = CASES[name]
    params = parameters()
    other = reference(params, own, c)
    optimizer = make(params, **own)
    for step in range(12):
        give_gradients(params, step)
        if step in (4, 7):
            # A tensor without a gradient takes no part.
            params[0].grad = None
        lr = 1e-2 / (1 + step)
        other.step(params, lr)
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()
        assert same(params, other.arrays)
    for i, p in enumerate(params):
        planes = other.optimizer.planes(i)
        state = optimizer.state[p]
        for plane, value in planes.items():
            assert bits([state[plane.replace(".", "_")]])[0] == value.tobytes(), plane
        assert set(state) - {"step", "scalars"} == {name.replace(".", "_") for name in planes}
        assert state["step"] == other.optimizer.settings(i).step_count


@pytest.mark.parametrize("master", [False, True])
@pytest.mark.parametrize("dtype", TYPES)
def test_types(dtype, master):
    if master and dtype == torch.float64:
        return
    params = parameters(dtype)
    other = reference(params, {"master_weights": master}, {})
    optimizer = make(params, master_weights=master)
    for step in range(5):
        give_gradients(params, step)
        other.step(params, 1e-2)
        optimizer.step()
    assert same(params, other.arrays)
    planes = optimizer.state[params[0]]
    assert planes["momentum"].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert ("master" in planes) == master


def test_the_threads_do_not_matter():
    runs = []
    for threads in (1, 2, 5):
        params = parameters(shapes=[(300, 500), (70,)])
        run(make(params, threads=threads), params, 4)
        runs.append(bits(params))
    assert runs[0] == runs[1] == runs[2]


def test_betas_of_a_schedule():
    params = parameters()
    other = Reference(params)
    optimizer = make(params)
    for step in range(10):
        give_gradients(params, step)
        betas = (0.9, 0.99) if step < 3 else (0.95 - step / 100, 0.99)
        optimizer.param_groups[0]["betas"] = betas
        optimizer.step()
        changed = {} if step < 3 else {"beta1": betas[0], "beta2": betas[1]}
        other.step(params, 1e-2, **changed)
        assert same(params, other.arrays)


def through_state_dict(optimizer, params, options):
    new = make(params, **options)
    new.load_state_dict(optimizer.state_dict())
    return new


def through_file(optimizer, params, options):
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    new = make(params, **options)
    new.load_state_dict(torch.load(file, weights_only=True))
    return new


def through_older_hooks(optimizer, params, options):
    """A hook of the program replaces the dict."""
    new = make(params, **options)
    new.register_load_state_dict_pre_hook(lambda _, d: {k: copy.deepcopy(v) for k, v in d.items()})
    new.load_state_dict(optimizer.state_dict())
    return new


WAYS = [through_state_dict, through_file, through_older_hooks]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["defaults", "lagged", "pooled", "stochastic", "normalized rmsprop"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_saved_run_goes_on_with_the_same_bits(name, way, dtype):
    options = {**CASES[name][0], "master_weights": name == "lagged"}
    params = parameters(dtype)
    optimizer = make(params, **options)
    run(optimizer, params, 5)
    copies = [torch.nn.Parameter(p.detach().clone()) for p in params]
    new = way(optimizer, copies, options)
    assert state_bits(new) == state_bits(optimizer)
    run(optimizer, params, 5, start=5)
    run(new, copies, 5, start=5)
    assert bits(copies) == bits(params)
    assert state_bits(new) == state_bits(optimizer)


def test_float32_state_of_bfloat16_parameters_comes_back():
    params = parameters(torch.bfloat16)
    optimizer = make(params)
    run(optimizer, params, 2)
    new = through_state_dict(optimizer, params, {})
    for own in new.state.values():
        assert all(x.dtype == torch.float32 for name, x in own.items() if name != "scalars")
    assert state_bits(new) == state_bits(optimizer)


@pytest.mark.parametrize("way", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_copies_go_on_with_the_same_bits(way):
    params = parameters()
    optimizer = make(params, betas=(0.9, 0.95), lagged_norms=True)
    run(optimizer, params, 5)
    other, others = way((optimizer, params))
    run(optimizer, params, 3, start=5)
    run(other, others, 3, start=5)
    assert bits(params) == bits(others)
    # Neither is a view of the other.
    assert state_bits(other) == state_bits(optimizer)
    run(optimizer, params, 1, start=9)
    assert state_bits(other) != state_bits(optimizer)


def test_a_schedule_of_betas_goes_on_after_a_load():
    params = parameters()
    optimizer = make(params)
    schedule = [(0.9, 0.99), (0.9, 0.99), (0.8, 0.97), (0.85, 0.98), (0.7, 0.9)]

    def take(optimizer, params, steps):
        for step in steps:
            give_gradients(params, step)
            optimizer.param_groups[0]["betas"] = schedule[step]
            optimizer.step()

    for at in (1, 2, 3, 4):
        params = parameters()
        optimizer = make(params)
        take(optimizer, params, range(at))
        copies = [torch.nn.Parameter(p.detach().clone()) for p in params]
        new = through_file(optimizer, copies, {"betas": (0.5, 0.6)})
        take(optimizer, params, range(at, 5))
        take(new, copies, range(at, 5))
        assert bits(params) == bits(copies)


def test_moved_parameters_and_state():
    """Trainers move both about: `.data` of a parameter, the dict of its state, single tensors."""
    params = parameters()
    optimizer = make(params)
    other_params = parameters()
    other = make(other_params)
    for step in range(12):
        if step == 2:
            for p in params:
                p.data = p.data.clone()
        if step == 4:
            for own in optimizer.state.values():
                own["momentum"] = own["momentum"].clone()
        if step == 5:
            for own in optimizer.state.values():
                own["diagonal"].data = own["diagonal"].data.clone()
        if step == 6:
            optimizer.state = {p: dict(own) for p, own in optimizer.state.items()}
        if step == 7:
            for p in params:
                optimizer.state[p] = {k: x.clone() for k, x in optimizer.state[p].items()}
        if step == 8:
            optimizer.param_groups = [dict(group) for group in optimizer.param_groups]
        if step == 9:
            group = optimizer.param_groups[0]
            optimizer.param_groups = [
                {**group, "params": group["params"][:2]},
                {**group, "params": group["params"][2:]},
            ]
        for one, own in ((optimizer, params), (other, other_params)):
            run(one, own, 1, start=step)
    assert bits(params) == bits(other_params)


def test_counts_that_a_program_sets():
    params = parameters()
    optimizer = make(params)
    run(optimizer, params, 2)
    copies = [torch.nn.Parameter(p.detach().clone()) for p in params]
    new = through_state_dict(optimizer, copies, {})
    # In place, as distributed checkpoints load.
    for own in new.state.values():
        own["step"].fill_(7)
    for own in optimizer.state.values():
        own["step"] = torch.tensor(7.0)
    run(optimizer, params, 2, start=2)
    run(new, copies, 2, start=2)
    assert bits(params) == bits(copies)
    assert all(own["step"] == 9 for own in new.state.values())


def test_large_planes():
    """They lie in mappings of their own, which belong to the tensors."""
    shape = (1100, 1000)
    params = parameters(shapes=[shape])
    params.append(torch.nn.Parameter(params[0].detach().t().contiguous().t() + 1))
    optimizer = make(params)
    run(optimizer, params, 2)
    planes = [own["momentum"] for own in optimizer.state.values()]
    assert len({plane.data_ptr() % 4096 for plane in planes}) == 2
    assert planes[1].stride() == params[1].stride() == (1, 1100)
    copies = [torch.nn.Parameter(p.detach().clone()) for p in params]
    for way in (through_state_dict, through_file):
        new = way(optimizer, copies, {})
        assert new.state[copies[1]]["momentum"].stride() == (1, 1100)
        assert state_bits(new) == state_bits(optimizer)
    other, others = copy.deepcopy((optimizer, params))
    del optimizer, planes
    run(other, others, 1, start=2)
    run(new, copies, 1, start=2)
    assert bits(others) == bits(copies)
