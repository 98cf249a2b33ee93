"""The step in operations of torch, which other devices take, run on the CPU: it computes what the
library computes, up to rounding."""

import pytest
import torch
from common import give_gradients, make, parameters
from test_bits import CASES


def difference(one, two):
    """The largest difference of two tensors, as a part of the largest number."""
    one, two = one.detach().double(), two.detach().double()
    return ((one - two).abs().max() / two.abs().max().clamp(min=1e-30)).item() if one.numel() else 0.0


TYPES = [torch.float64, torch.float32, torch.bfloat16]


def cases():
    """In the short form all options in float64, and in one of the other types."""
    for number, name in enumerate(CASES):
        for dtype in TYPES:
            is_short = dtype in (torch.float64, TYPES[1 + number % 2])
            yield pytest.param(name, dtype, marks=() if is_short else pytest.mark.long)


@pytest.mark.parametrize("name, dtype", list(cases()))
def test_agrees_with_the_library(name, dtype):
    options = CASES[name][0]
    sixteen = dtype == torch.bfloat16 or "state_dtype" in options
    if sixteen and "stochastic" in name and dtype == torch.float64:
        return
    # The first steps are ill-conditioned: statistics have rank one, and a Schur complement is a
    # difference of nearly equal numbers, which float32 rounds in other places.
    bound = 1e-11 if dtype == torch.float64 and not sixteen else 2e-2 if sixteen else 1e-3
    runs = []
    for implementation in ("library", "torch"):
        params = parameters(dtype)
        optimizer = make(params, implementation=implementation, **{"gamma": 1e-3, **options})
        for step in range(8):
            give_gradients(params, step)
            if step == 3:
                params[0].grad = None
            optimizer.step()
        runs.append((params, optimizer))
    (params, library), (others, own) = runs
    for p, q in zip(params, others):
        assert difference(p, q) <= bound
        assert set(library.state[p]) == set(own.state[q])
        for key, x in library.state[p].items():
            assert x.dtype == own.state[q][key].dtype and x.shape == own.state[q][key].shape
            assert difference(x, own.state[q][key]) <= bound, key


def test_stochastic_rounding_takes_the_same_random_bits():
    ends = []
    for implementation in ("library", "torch"):
        params = parameters(torch.bfloat16)
        optimizer = make(params, implementation=implementation, rounding="stochastic", seed=3)
        for step in range(3):
            give_gradients(params, step)
            optimizer.step()
        ends.append(params)
    for p, q in zip(*ends):
        # Rarely a number is rounded differently before the noise is added.
        assert (p != q).float().mean() < 0.02


@pytest.mark.parametrize("name", ["defaults", "lagged"])
def test_betas_of_a_schedule(name):
    ends = []
    for implementation in ("library", "torch"):
        params = parameters(torch.float64)
        optimizer = make(params, implementation=implementation, **CASES[name][0])
        for step in range(8):
            give_gradients(params, step)
            optimizer.param_groups[0]["betas"] = (0.9, 0.99) if step < 3 else (0.85 + step / 100, 0.97)
            optimizer.step()
        ends.append(params)
    assert max(map(difference, *ends)) < 1e-11


def test_a_run_moves_between_both():
    """State of the one goes on in the other."""
    ends = []
    for order in (("library", "torch"), ("torch", "library"), ("library", "library")):
        params = parameters(torch.float64)
        optimizer = None
        for part, implementation in enumerate(order):
            saved = optimizer and optimizer.state_dict()
            optimizer = make(params, implementation=implementation, lagged_norms=True, master_weights=False)
            if saved:
                for group in saved["param_groups"]:
                    group["implementation"] = implementation
                optimizer.load_state_dict(saved)
            for step in range(4 * part, 4 * part + 4):
                give_gradients(params, step)
                optimizer.step()
        ends.append(params)
    assert max(map(difference, ends[0], ends[2])) < 1e-11
    assert max(map(difference, ends[1], ends[2])) < 1e-11


@pytest.mark.parametrize("pooling", ["rank", "all"])
@pytest.mark.parametrize("lagged", [True, False])
def test_positions_that_lose_their_correlations_are_those_of_the_library(pooling, lagged):
    """A gamma above most pivots, inputs that are always zero, and gradients that are all alike."""
    ends = []
    for implementation in ("library", "torch"):
        params = parameters(torch.float64, [(20, 9), (20, 9), (600, 5)])
        options = {"pooling": pooling, "rank": 9, "gamma": 0.6, "shrink": 0.1, "lagged_norms": lagged}
        optimizer = make(params, implementation=implementation, chains="contiguous", **options)
        for step in range(6):
            give_gradients(params, step)
            params[0].grad[:, 2:4] = 0
            params[1].grad.fill_(step % 3)
            params[2].grad += 0.9 * params[2].grad.roll(1, 1)
            optimizer.step()
        ends.append(params)
    assert max(map(difference, *ends)) < 1e-9
    assert all(p.isfinite().all() for p in ends[1])


def test_the_first_directions_of_a_state_from_a_file_of_no_step():
    """They may be zero, and are then those of a new state."""
    ends = []
    for zero in (False, True):
        params = parameters(torch.float64, [(20, 9)])
        optimizer = make(params, implementation="torch", pooling="rank", rank=3)
        if zero:
            give_gradients(params, 0)
            optimizer.step()
            saved = optimizer.state_dict()
            for x in saved["state"][0].values():
                x.zero_()
            params = parameters(torch.float64, [(20, 9)])
            optimizer = make(params, implementation="torch", pooling="rank", rank=3)
            optimizer.load_state_dict(saved)
        for step in range(3):
            give_gradients(params, step)
            optimizer.step()
        ends.append(params)
    assert difference(*map(lambda params: params[0], ends)) == 0


@pytest.mark.parametrize("implementation", ["library", "torch"])
def test_all_correlations_are_pooled_of_chains_up_to_4096(implementation):
    params = parameters(shapes=[(2, 4097)])
    optimizer = make(params, implementation=implementation, pooling="all")
    give_gradients(params, 0)
    message = "chains of 4097 coordinates; all correlations can be pooled of chains of at most 4096"
    with pytest.raises((ValueError, RuntimeError), match=message):
        optimizer.step()


@pytest.mark.parametrize(
    "options",
    [
        {"lagged_norms": True},
        *(pytest.param({"pooling": pooling}, marks=pytest.mark.long) for pooling in ("rank", "all")),
    ],
    ids=str,
)
def test_compiled_once_for_all_steps(options):
    """torch.compile makes one graph of the step, whatever schedules change."""
    from torch._dynamo.utils import counters

    ends = []
    for implementation in ("torch", "compiled"):
        params = parameters(shapes=[(12, 8)])
        optimizer = make(params, implementation=implementation, **options)
        counters.clear()
        for step in range(4):
            give_gradients(params, step)
            optimizer.param_groups[0]["lr"] = 1e-2 / (1 + step)
            optimizer.step()
        ends.append(params)
    assert counters["stats"]["unique_graphs"] == 1
    assert difference(ends[0][0], ends[1][0]) < 1e-5
