"""Files of the library: a run moves between PyTorch and the C API, and goes on with the same bits."""

import numpy as np
import pytest
import sonew
import torch
from common import Reference, bits, give_gradients, make, parameters, run, state_bits
from safetensors import safe_open
from sonew.torch import SONew, load, save
from test_bits import CASES


def named(params):
    return [(str(i), p) for i, p in enumerate(params)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", CASES)
def test_a_run_goes_on_from_a_file(tmp_path, name, dtype):
    options = CASES[name][0]
    params = parameters(dtype)
    optimizer = make(named(params), **options)
    run(optimizer, params, 4)
    save(tmp_path / "run.safetensors", optimizer)
    run(optimizer, params, 4, start=4)
    others = parameters(dtype, seed=5)
    other = make(named(others), **options)
    load(tmp_path / "run.safetensors", other)
    run(other, others, 4, start=4)
    assert bits(others) == bits(params)
    assert state_bits(other) == state_bits(optimizer)


def test_to_and_from_the_c_api(tmp_path):
    params = parameters()
    optimizer = make(named(params), lagged_norms=True, weight_decay=0.1)
    run(optimizer, params, 3)
    save(tmp_path / "torch.safetensors", optimizer)
    other = Reference(params, lagged_norms=1, weight_decay=0.1)
    other.optimizer.load(tmp_path / "torch.safetensors", other.arrays)
    assert [a.tobytes() for a in other.arrays] == bits(params)
    give_gradients(params, 3)
    other.step(params, 1e-2)
    optimizer.step()
    assert [a.tobytes() for a in other.arrays] == bits(params)
    other.optimizer.save(tmp_path / "c.safetensors", other.arrays)
    news = parameters(seed=9)
    new = make(named(news), lagged_norms=True, weight_decay=0.1)
    load(tmp_path / "c.safetensors", new)
    run(new, news, 2, start=4)
    run(optimizer, params, 2, start=4)
    assert bits(news) == bits(params)


def test_what_the_file_has(tmp_path):
    params = parameters(shapes=[(3, 4)])
    optimizer = make([("fc.weight", params[0])])
    run(optimizer, params, 2)
    save(tmp_path / "run.safetensors", optimizer)
    with safe_open(tmp_path / "run.safetensors", "numpy") as file:
        assert "fc.weight/momentum" in file.keys()
        assert (file.get_tensor("fc.weight/parameter") == params[0].detach().numpy()).all()


def test_a_file_that_does_not_fit_changes_nothing(tmp_path):
    params = parameters()
    optimizer = make(named(params))
    run(optimizer, params, 2)
    save(tmp_path / "run.safetensors", optimizer)
    for wrong, said in (({"band": 2}, "band"), ({"eps": 1e-5}, "eps")):
        others = parameters(seed=3)
        other = make(named(others), **wrong)
        before = bits(others)
        with pytest.raises(sonew.LibraryError, match=said):
            load(tmp_path / "run.safetensors", other)
        assert bits(others) == before and not other.state
    load(tmp_path / "run.safetensors", make(named(parameters()), eps=1e-5), overrides=["eps"])
    with pytest.raises(ValueError, match="named_parameters"):
        save(tmp_path / "x", make(params))
    two = SONew([{"params": [("a", params[0])]}, {"params": [("b", params[1])], "graft": "none"}])
    with pytest.raises(ValueError, match="graft is 'adam' in group 0 and 'none' in group 1"):
        save(tmp_path / "x", two)


def test_groups_with_options_of_their_own(tmp_path):
    make_one = lambda ps: SONew(
        [
            {"params": [("a", ps[0])], "weight_decay": 0.1, "band": 2},
            {"params": [("b", ps[1])], "betas": (0.5, 0.9), "eps": 1e-4},
        ],
        lr=1e-2,
    )
    params, others = parameters(shapes=[(6, 5), (4, 3)]), parameters(shapes=[(6, 5), (4, 3)], seed=1)
    optimizer, other = make_one(params), make_one(others)
    run(optimizer, params, 3)
    save(tmp_path / "run.safetensors", optimizer)
    load(tmp_path / "run.safetensors", other)
    run(optimizer, params, 3, start=3)
    run(other, others, 3, start=3)
    assert bits(params) == bits(others)
    assert np.isfinite(params[0].detach().numpy()).all()
