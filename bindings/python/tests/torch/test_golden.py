"""The trajectories of the authors' own programs, within the bounds of tests/golden/README.md: by the
library, and by operations of torch."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from sonew.torch import SONew

FOLDER = Path(__file__).resolve().parents[4] / "tests" / "golden"
FILES = sorted(path.stem for path in FOLDER.glob("*.safetensors"))
# The bounds of the README, float32 and float64; the first is for all others.
BOUNDS = {
    "": (3e-5, 1e-11),
    "torch_tds_vector": (3e-4, 1e-11),
    "torch_tds_two": (5e-4, 1e-11),
    "torch_tds_matrix_decay": (6e-2, 2e-10),
}
GRAFTS = {
    "none": ("none", True),
    "sgd, |g|": ("sgd", True),
    "momentum, |m_hat|": ("momentum", True),
    "adam, |m_hat/(sqrt(v_hat)+graft_eps)|": ("adam", True),
    "adam, |m_hat/(sqrt(v_uncorrected)+1e-8)|, per tensor": ("adam", False),
    "normalized rmsprop: n=g/|g|, s=EMA(n^2), |n/(sqrt(s)+graft_eps)|": (
        "normalized_rmsprop",
        True,
    ),
}
CHAINS = {
    "flattened row-major, whole tensor": "contiguous",
    "transposed flatten (column-major), whole tensor": "strided",
}


def test_all_files_are_there():
    assert len(FILES) == 19


def options_of(said):
    graft, graft_bias_correction = GRAFTS[said["graft"]]
    return {
        "lr": float(said["lr"]),
        "betas": (float(said["beta1"]), float(said["beta2"])),
        "eps": float(said["eps"]),
        "weight_decay": float(said.get("weight_decay", 0.0)),
        "band": int(said["band"]),
        "gamma": 0.0,
        "damping": said["eps_mode"].split(":")[0],
        "graft": graft,
        "graft_bias_correction": graft_bias_correction,
        "graft_eps": float(said.get("graft_eps", 1e-8)),
        "chains": CHAINS[said["chain"]],
        "update": "sonew" if said.get("one_dim") is None else "auto",
    }


@pytest.mark.parametrize("implementation", ["library", "torch"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", FILES)
def test_follows(name, dtype, implementation):
    with safe_open(FOLDER / f"{name}.safetensors", "numpy") as file:
        said = file.metadata()
        arrays = {key: file.get_tensor(key) for key in file.keys()}
    count = sum(key.startswith("param0.") for key in arrays)
    start = [arrays[f"param0.{i}"] for i in range(count)]
    params = [torch.nn.Parameter(torch.tensor(x, dtype=dtype)) for x in start]
    optimizer = SONew(params, implementation=implementation, **options_of(said))
    wrong = moved = 0.0
    for t in range(int(said["steps"])):
        for i, p in enumerate(params):
            p.grad = torch.from_numpy(arrays[f"grads.{i}"][t]).to(dtype)
        optimizer.step()
        for i, p in enumerate(params):
            expected = arrays[f"params.{i}"][t]
            wrong = max(wrong, np.abs(p.detach().double().numpy() - expected).max())
            moved = max(moved, np.abs(expected - start[i]).max())
    assert wrong / moved <= BOUNDS.get(name, BOUNDS[""])[dtype == torch.float64]
