"""The trajectories of the authors' own programs, which tests/golden/README.md describes, as the
tests of every framework read them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import safe_open

FOLDER = Path(__file__).resolve().parents[3] / "tests" / "golden"
FILES = sorted(path.stem for path in FOLDER.glob("*.safetensors"))
assert len(FILES) == 19
# The bounds of the README, float32 and float64; the first is for all others.
BOUNDS = {
    "": (3e-5, 1e-11),
    "torch_tds_vector": (3e-4, 1e-11),
    "torch_tds_two": (5e-4, 1e-11),
    "torch_tds_matrix_decay": (6e-2, 2e-10),
}
# graft and graft_bias_correction.
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
VECTORS = {None: "sonew", "1-d tensors take the Adam update": "adam"}


@dataclass
class Trajectory:
    """A run: options by their names in C, the first parameters, and of each step the gradients and
    the parameters after it. Numbers are float64."""

    options: dict
    lr: float
    vectors: str
    start: list
    steps: list

    def error(self, step):
        """The largest distance from the file's parameters, over the largest that those move.
        `step` takes the gradients of a step and returns the parameters after it."""
        wrong = moved = 0.0
        for grads, expected in self.steps:
            for p, e, s in zip(step(grads), expected, self.start):
                wrong = max(wrong, np.max(np.abs(np.asarray(p, np.float64) - e)))
                moved = max(moved, np.max(np.abs(e - s)))
        return wrong / moved


def bound(name, double):
    return BOUNDS.get(name, BOUNDS[""])[double]


def read(name):
    with safe_open(FOLDER / f"{name}.safetensors", "numpy") as file:
        said = file.metadata()
        arrays = {key: file.get_tensor(key) for key in file.keys()}
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
    }
    numbers = range(sum(key.startswith("param0.") for key in arrays))
    of_step = lambda kind, t: [arrays[f"{kind}.{i}"][t] for i in numbers]
    return Trajectory(
        options,
        float(said["lr"]),
        VECTORS[said.get("one_dim")],
        [arrays[f"param0.{i}"] for i in numbers],
        [(of_step("grads", t), of_step("params", t)) for t in range(int(said["steps"]))],
    )
