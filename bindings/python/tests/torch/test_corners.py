"""Programs that are set up differently: default devices and types, entries of their own in state,
tensors that have become others where they are."""

import copy
import pickle

import numpy as np
import pytest
import torch
from common import bits, give_gradients, make, parameters, run
from sonew.torch import SONew, load, save

OPTIONS = [
    {},
    {"lagged_norms": True, "betas": (0.8, 0.9)},
    {"pooling": "band", "band": 2},
    {"pooling": "rank", "rank": 2},
    {"state_dtype": torch.bfloat16, "rounding": "stochastic"},
]
LARGE = [(1100, 1000), (6, 5)]


@pytest.fixture
def default_device():
    yield torch.set_default_device
    torch.set_default_device(None)


@pytest.fixture
def default_dtype():
    yield torch.set_default_dtype
    torch.set_default_dtype(torch.float32)


def named(params):
    return [(str(i), p) for i, p in enumerate(params)]


@pytest.mark.parametrize("implementation", ["library", "torch"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_another_default_device(options, implementation, default_device, tmp_path):
    """A script that trains on another device may have parameters on the CPU, too."""
    shapes = [(6, 5), (4,)] if implementation == "torch" or "pooling" in options else [*LARGE, (4,)]
    params, others = parameters(shapes=shapes), parameters(shapes=shapes)
    one = make(named(params), implementation=implementation, **options)
    two = make(named(others), implementation=implementation, **options)
    for step in range(4):
        give_gradients(params, step)
        give_gradients(others, step)
        one.step()
        default_device("meta")
        if step == 2:
            two.param_groups[0]["betas"] = (0.7, 0.9)
        two.step()
        if step == 1:
            two.load_state_dict(copy.deepcopy(two.state_dict()))
            save(tmp_path / "run", two)
            load(tmp_path / "run", two)
        default_device(None)
        if step == 1:
            one.param_groups[0]["betas"] = (0.7, 0.9)
    assert bits(params) == bits(others)


@pytest.mark.parametrize("implementation", ["library", "torch"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_another_default_type(options, implementation, default_dtype):
    params, others = parameters(shapes=[(6, 5), (4,)]), parameters(shapes=[(6, 5), (4,)])
    one = make(params, implementation=implementation, **options)
    two = make(others, implementation=implementation, **options)
    for step, dtype in enumerate((torch.float64, torch.float16, torch.bfloat16)):
        give_gradients(params, step)
        give_gradients(others, step)
        one.step()
        default_dtype(dtype)
        two.step()
        default_dtype(torch.float32)
    assert bits(params) == bits(others)


@pytest.mark.parametrize("implementation", ["library", "torch"])
@pytest.mark.parametrize("options", [*OPTIONS, {"damping": "relative"}], ids=str)
def test_parameters_without_elements(options, implementation):
    shapes = [(6, 5), (0, 3), (0,), (4,)]
    params, others = parameters(shapes=shapes), parameters(shapes=[(6, 5), (4,)])
    one = make(params, implementation=implementation, **options)
    two = make(others, implementation=implementation, **options)
    for step in range(4):
        give_gradients(params, step)
        for p, q in zip(others, (params[0], params[3])):
            p.grad = q.grad.clone()
        one.step(), two.step()
        if step == 1:
            one.load_state_dict(copy.deepcopy(one.state_dict()))
    if "rounding" not in options:
        assert bits([params[0], params[3]]) == bits(others)


@pytest.mark.parametrize("implementation", ["library", "torch"])
def test_entries_of_the_program_in_state(implementation):
    """Under its own keys, and beside the state of a parameter, as averages are kept."""
    params, others = parameters(), parameters()
    one, two = make(params, implementation=implementation), make(others, implementation=implementation)
    for step in range(8):
        run(one, params, 1, start=step)
        run(two, others, 1, start=step)
        two.state["seen"] = step
        for p in others:
            two.state[p]["average"] = p.detach().clone()
            two.state[p]["seen"], two.state[p]["nothing"] = step, None
        if step == 3:
            two.load_state_dict(copy.deepcopy(two.state_dict()))
        if step == 5:
            two, others = pickle.loads(pickle.dumps((two, others)))
        assert two.state["seen"] == step
        assert all(two.state[p]["seen"] == step and (two.state[p]["average"] == p).all() for p in others)
    assert bits(params) == bits(others)


def test_entries_of_the_program_make_no_new_plan():
    params = parameters()
    optimizer = make(params)
    run(optimizer, params, 1)
    for own in optimizer.state.values():
        own["average"] = None
    run(optimizer, params, 1, start=1)
    calls = optimizer._calls
    for step in range(2, 5):
        for own in optimizer.state.values():
            own["average"] = torch.zeros(3)
        run(optimizer, params, 1, start=step)
        assert optimizer._calls is calls


@pytest.mark.parametrize(
    "changed, said",
    [
        (lambda x: x.view(4, 9), r"'momentum' of w has shape \(6, 6\), expected \(4, 9\)"),
        (lambda x: x.view(torch.bfloat16), r"'momentum' of w has shape \(6, 6\), expected \(6, 12\)"),
        (lambda x: x.t(), r"'momentum' of w has the strides \(6, 1\), and the parameter \(1, 6\)"),
        (lambda x: x[:3], r"'momentum' of w has shape \(6, 6\), expected \(3, 6\)"),
    ],
)
def test_a_parameter_that_has_become_another_where_it_is(changed, said):
    p = torch.nn.Parameter(torch.ones(6, 6))
    optimizer = make([("w", p)])
    run(optimizer, [p], 2)
    p.grad, address = None, p.data_ptr()
    p.data = changed(p.data)
    assert p.data_ptr() == address
    p.grad = torch.ones(p.shape).to(p)
    before = p.detach().clone()
    with pytest.raises(ValueError, match=said):
        optimizer.step()
    assert torch.equal(p, before)


@pytest.mark.parametrize("shape, stride", [((3, 3), (1, 1)), ((3, 3), (2, 1)), ((2, 3, 2), (1, 2, 5))])
def test_elements_that_may_share_a_place_are_refused(shape, stride):
    p = torch.as_strided(torch.zeros(64), shape, stride).requires_grad_()
    places = torch.as_strided(torch.arange(64), shape, stride).flatten().tolist()
    assert len(set(places)) < len(places)
    with pytest.raises(ValueError, match="w has elements that share memory"):
        SONew([("w", p)])


@pytest.mark.parametrize("shape, stride", [((3, 3), (1, 4)), ((2, 3, 2), (1, 4, 2)), ((1, 3), (0, 2)), ((0, 3), (0, 0))])
def test_elements_that_share_no_place_are_taken(shape, stride):
    p = torch.as_strided(torch.zeros(64), shape, stride).requires_grad_()
    plain = torch.zeros(shape, requires_grad=True)
    for one in (p, plain):
        optimizer = SONew([one], lr=0.1, chains="contiguous_lines", graft="sgd", update="adam")
        for step in range(3):
            give_gradients([one], step)
            optimizer.step()
    assert torch.equal(p, plain)


class Wrapped(torch.Tensor):
    """A tensor around another, as quantized weights are; its own elements are nowhere."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        inner = lambda x: x.inner if isinstance(x, Wrapped) else x
        found = function(*map(inner, args), **(kwargs or {}))
        return Wrapped(found) if isinstance(found, torch.Tensor) else found


def test_tensors_without_memory_of_their_own_are_refused():
    p = torch.nn.Parameter(Wrapped(torch.ones(3, 2)))
    p.grad = Wrapped(torch.ones(3, 2))
    with pytest.raises(ValueError, match="w is a Wrapped without memory of its own"):
        SONew([("w", p)]).step()
    p = torch.nn.Parameter(torch.ones(3, 2))
    optimizer = make([("w", p)])
    for step in range(3):
        # What has memory has been seen before.
        if step == 2:
            p.grad.untyped_storage().resize_(0)
            with pytest.raises(RuntimeError, match="the gradient of w is a Tensor without memory"):
                optimizer.step()
        else:
            run(optimizer, [p], 1)
    assert optimizer.state[p]["step"] == 2


@pytest.mark.parametrize("transposed", [False, True])
def test_gradients_whose_sign_is_not_in_memory(transposed):
    """torch has it beside the imaginary part of a conjugate."""
    torch.manual_seed(0)
    params = parameters(shapes=[(4, 5)]), parameters(shapes=[(4, 5)])
    optimizers = make(params[0]), make(params[1])
    for _ in range(3):
        x = torch.randn(5, 4).t() if transposed else torch.randn(4, 5)
        params[0][0].grad, params[1][0].grad = torch._neg_view(x), -x
        for optimizer in optimizers:
            optimizer.step()
    assert bits(params[0]) == bits(params[1])


def test_parameters_that_a_lazy_module_makes_later():
    models = [torch.nn.Sequential(torch.nn.LazyLinear(4), torch.nn.Linear(4, 2)) for _ in range(2)]
    early = make(models[0].named_parameters())
    with pytest.raises(ValueError, match="0.weight has no shape yet: its lazy module must run before"):
        early.step()
    for model in models:
        model(torch.ones(1, 3))
    models[1].load_state_dict(models[0].state_dict())
    late = make(models[1].named_parameters())
    for model, optimizer in zip(models, (early, late)):
        run(optimizer, list(model.parameters()), 3)
    assert bits(models[0].parameters()) == bits(models[1].parameters())


class Pair:
    """A list of a configuration, such as OmegaConf's."""

    def __init__(self, *numbers):
        self.numbers = numbers

    def __iter__(self):
        return iter(self.numbers)


BETAS = [[0.8, 0.9], Pair(0.8, 0.9), np.array([0.8, 0.9]), (torch.tensor(0.8, dtype=torch.float64), 0.9)]


@pytest.mark.parametrize("betas", BETAS, ids=lambda x: type(x).__name__)
def test_betas_are_any_two_numbers(betas):
    params, others = parameters(), parameters()
    one, two = make(params, betas=(0.8, 0.9)), make(others, betas=betas)
    run(one, params, 2), run(two, others, 2)
    two.load_state_dict(copy.deepcopy(two.state_dict()))
    run(one, params, 2, start=2), run(two, others, 2, start=2)
    assert bits(params) == bits(others)


@pytest.mark.parametrize("betas", [0.9, "ab", (0.9,), (0.9, 0.99, 0.999), None, ("a", "b")])
def test_betas_that_are_no_two_numbers(betas):
    with pytest.raises(ValueError, match="betas is .*, must be two numbers"):
        SONew(parameters(), betas=betas)


def test_the_interpreter_is_free_during_a_step():
    """ctypes holds its lock in functions of a PyDLL alone."""
    import ctypes

    from sonew._library import c

    assert isinstance(c(), ctypes.CDLL) and not isinstance(c(), ctypes.PyDLL)
