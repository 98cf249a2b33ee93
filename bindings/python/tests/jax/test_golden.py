"""The trajectories of the authors' own programs, through optax's interface:
within the bounds of tests/golden/README.md."""

import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from common import enable_x64, nothing
from safetensors import safe_open
from sonew.jax import adam_for_vectors, fused_sonew, sonew

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
TYPES = ["float32", "float64"]
UPDATES = {None: "sonew", "1-d tensors take the Adam update": adam_for_vectors}


def test_all_files_are_there():
    assert len(FILES) == 19


def read(name, dtype):
    with safe_open(FOLDER / f"{name}.safetensors", "numpy") as file:
        said = file.metadata()
        arrays = {key: file.get_tensor(key) for key in file.keys()}
    count = sum(key.startswith("param0.") for key in arrays)
    graft, graft_bias_correction = GRAFTS[said["graft"]]
    options = {
        "band": int(said["band"]),
        "beta1": float(said["beta1"]),
        "beta2": float(said["beta2"]),
        "eps": float(said["eps"]),
        "gamma": 0.0,
        "damping": said["eps_mode"].split(":")[0],
        "graft": graft,
        "graft_bias_correction": graft_bias_correction,
        "graft_eps": float(said.get("graft_eps", 1e-8)),
        "weight_decay": float(said.get("weight_decay", 0.0)),
        "chains": CHAINS[said["chain"]],
        "update": UPDATES[said.get("one_dim")],
    }
    start = [jnp.asarray(arrays[f"param0.{i}"], dtype) for i in range(count)]
    steps = [
        ([arrays[f"grads.{i}"][t] for i in range(count)], [arrays[f"params.{i}"][t] for i in range(count)])
        for t in range(int(said["steps"]))
    ]
    return options, float(said["lr"]), start, steps


def error(start, steps, step):
    """The largest distance from the file's parameters, over the largest that
    those move."""
    wrong = moved = 0.0
    for grads, expected in steps:
        params = step([jnp.asarray(g, start[0].dtype) for g in grads])
        for p, e, s in zip(params, expected, start):
            wrong = max(wrong, np.max(np.abs(np.asarray(p, np.float64) - e)))
            moved = max(moved, np.max(np.abs(e - np.asarray(s, np.float64))))
    return wrong / moved


def cases():
    for name, implementation, double in itertools.product(FILES, ("custom_call", "pure"), (False, True)):
        marks = [pytest.mark.smoke] if implementation == "custom_call" else []
        # In jax.numpy all files in float64, and in float32 those that compile soonest.
        if implementation == "pure" and not double and not name.startswith("torch"):
            marks = [pytest.mark.long]
        case = f"{name}-{implementation}-{TYPES[double]}"
        yield pytest.param(name, implementation, double, marks=marks, id=case)


@pytest.mark.parametrize("name, implementation, double", list(cases()))
def test_follows(name, implementation, double):
    with enable_x64() if double else nothing():
        options, lr, start, steps = read(name, jnp.float64 if double else jnp.float32)
        optimizer = sonew(lr, implementation=implementation, **options)
        params, state = start, optimizer.init(start)
        update = jax.jit(optimizer.update)

        def step(grads):
            nonlocal params, state
            updates, state = update(grads, state, params)
            params = optax.apply_updates(params, updates)
            return params

        assert error(start, steps, step) <= BOUNDS.get(name, BOUNDS[""])[double]


@pytest.mark.parametrize("double", [False, True], ids=TYPES)
@pytest.mark.parametrize("name", FILES)
def test_the_fused_step_follows(name, double):
    with enable_x64() if double else nothing():
        options, lr, start, steps = read(name, jnp.float64 if double else jnp.float32)
        optimizer = fused_sonew(lr, implementation="custom_call", **options)
        params, state = start, optimizer.init(start)
        fused = jax.jit(optimizer.step)

        def step(grads):
            nonlocal params, state
            params, state = fused(params, grads, state)
            return params

        assert error(start, steps, step) <= BOUNDS.get(name, BOUNDS[""])[double]
