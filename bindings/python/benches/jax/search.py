"""The search that finds every optimizer's setting, and the file of runs that are done; what
benchmarks share."""

import json
import os
import platform
import time
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from sonew.jax import instruction_set, library_version

# So many settings from all of the ranges, and more of them near the best.
TRIALS, MORE_TRIALS = 10, 6
# Decides the settings, and the weights and batches of every trial.
SEARCH_SEED = 0

# Drawn uniformly in the logarithm; of the betas, 1 - beta is. AdamW adds eps to
# the square root, SONew to what it takes the root of, relative to the largest of a tensor.
SHARED = {"rate": (1e-3, 3e-2), "beta1": (0.03, 0.4), "beta2": (0.005, 0.2)}
ADAM = SHARED | {"eps": (1e-9, 1e-5)}
OWN = SHARED | {"eps": (1e-7, 1e-2)}
BY_UNIT, POOLED = OWN | {"gamma": (1e-3, 1e-1)}, OWN | {"shrink": (1e-2, 3e-1)}
BASELINES = {
    "AdamW": ADAM,
    "NAdamW": ADAM,
    # Each of its numbers moves by the whole rate.
    "Lion": SHARED | {"rate": (1e-4, 3e-3)},
    "Muon": ADAM | {"rms": (1e-1, 1e0)},
}
# Near is up to so many times as much, or as little.
NEAR = {"rate": 2, "beta1": 2, "beta2": 2, "eps": 10, "gamma": 3, "shrink": 3, "rms": 2}


def ranges_of(sonews):
    """The ranges of the baselines, and of these SONews, each by its name."""
    return BASELINES | {name: POOLED if "pooled" in name else BY_UNIT for name in sonews}


def settings(ranges, trials, seed):
    """The settings to try: a Latin hypercube. Every range is cut into as many
    parts as there are trials, and each part is used once. The places within the
    ranges are the same for all optimizers: none has luckier draws."""
    rng = np.random.default_rng(seed)
    order = ("rate", "beta1", "beta2", "eps", "own")
    shares = {key: (rng.permutation(trials) + rng.random(trials)) / trials for key in order}

    def value(key, share):
        low, high = ranges[key]
        drawn = float(low * (high / low) ** share)
        # What is published is what was used.
        return round(1 - drawn, 4) if key.startswith("beta") else float(f"{drawn:.2e}")

    def shared(key):
        return shares[key if key in order else "own"]

    return [{key: value(key, shared(key)[i]) for key in ranges} for i in range(trials)]


def centre_of(key, value):
    return 1 - value if key.startswith("beta") else value


def near(setting):
    """Ranges around a setting, the same factors for all optimizers."""
    around = {}
    for key, value in setting.items():
        centre = centre_of(key, value)
        around[key] = (centre / NEAR[key], centre * NEAR[key])
    return around


def at_edge(ranges, setting):
    """The numbers of a setting that are outside of their ranges, or in the first or last twentieth
    of them."""
    found = []
    for key, (low, high) in ranges.items():
        share = np.log(centre_of(key, setting[key]) / low) / np.log(high / low)
        if not 0.05 <= share <= 0.95:
            found.append(key)
    return found


class Missing(Exception):
    """A run is not done, and is not to be done now."""


class Results:
    """Runs that are done, in a file that is written after each."""

    def __init__(self, path):
        self.path = path
        self.data = json.loads(path.read_text()) if path.exists() else {"runs": []}
        self.count = self.total = 0

    def train(self, kind, name, setting, seed, **more):
        """The curve of a new run: lists of a step, its loss, and what else is measured."""
        raise Missing

    def run(self, kind, name, setting, seed, **more):
        """The curve of a run, which is trained if it is not there."""
        key = {"kind": kind, "name": name, "seed": seed, "setting": setting, **more}
        key = json.loads(json.dumps(key))
        self.count += 1
        for run in self.data["runs"]:
            if key == {field: run[field] for field in run if field != "curve"}:
                return run["curve"]
        curve = self.train(kind, name, setting, seed, **more)
        print(
            f"{time.strftime('%H:%M:%S')} {self.count:3}/{self.total} {kind:7} {name:28} "
            f"seed {seed}   loss {curve[-1][1]:.4f}   {setting}",
            flush=True,
        )
        self.data["runs"].append(key | {"curve": curve})
        self.data["machine"] = machine()
        self.write()
        return curve

    def write(self):
        runs = ",\n  ".join(json.dumps(run) for run in self.data["runs"])
        rest = "".join(
            f',\n "{key}": {json.dumps(value)}' for key, value in self.data.items() if key != "runs"
        )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # A command that is stopped here leaves the file before or after.
        whole = self.path.with_suffix(".new")
        whole.write_text(f'{{"runs": [\n  {runs}\n ]{rest}\n}}\n')
        whole.replace(self.path)


def compared(results, name, candidates):
    """A trial of each setting: pairs of its loss and the setting. A loss that is not a number is
    worse than any."""
    tried = []
    for setting in candidates:
        loss = results.run("trial", name, setting, SEARCH_SEED)[-1][1]
        tried.append((loss if np.isfinite(loss) else np.inf, setting))
    return tried


def best(tried):
    return min(tried, key=lambda pair: pair[0])


def searched(results, name, ranges):
    """The best setting of the whole search, and its loss."""
    tried = compared(results, name, settings(ranges, TRIALS, SEARCH_SEED))
    _, centre = best(tried)
    more = settings(near(centre), MORE_TRIALS, SEARCH_SEED + 1)
    return best(tried + compared(results, name, more))


class Row(NamedTuple):
    """An optimizer's best setting, the loss of its trial, and the curves of its reruns."""

    trial: float
    setting: dict
    curves: list


def processor():
    names = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return names[0] if names else platform.machine()


def machine():
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "instructions": instruction_set(),
        "libsonew": library_version(),
        "jax": jax.__version__,
        "python": platform.python_version(),
    }
