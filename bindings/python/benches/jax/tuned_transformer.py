"""The second benchmark: the character-level transformer of
examples/jax/transformer.py, with every optimizer's setting found by the same search.

    python benches/jax/tuned_transformer.py                 # 117,000 parameters, 300 steps
    python benches/jax/tuned_transformer.py --size large    # 826,000 parameters
    python benches/jax/tuned_transformer.py --steps 2000    # longer
    python benches/jax/tuned_transformer.py --times         # milliseconds, on an idle machine

The first takes about an hour on 2 idle cores, each of the others half an hour; --times (with the
same --size and --steps) a few minutes. Runs are in docs/transformer/SIZE-STEPS.json, which is
written after each: what is there is not done again, so that a command that was stopped
goes on; without the file everything is. At the end tables go into docs/transformer.md, and a
plot beside the runs.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

ROOT = Path(__file__).resolve().parents[4]
sys.path.insert(0, str(ROOT / "bindings/python/examples/jax"))
import transformer
import transformer_page
from sonew.jax import instruction_set, library_version

# So many settings from all of the ranges, and more of them near the best.
TRIALS, MORE_TRIALS = 10, 6
# Decides the settings, and the weights and batches of every trial.
SEARCH_SEED = 0
ROWS = ("AdamW", "NAdamW", "Lion", "Muon", *transformer.SONEWS)

# Drawn uniformly in the logarithm; of the betas, 1 - beta is. AdamW adds eps to
# the square root, SONew to what it takes the root of, relative to the largest of a tensor.
SHARED = {"rate": (1e-3, 3e-2), "beta1": (0.03, 0.4), "beta2": (0.005, 0.2)}
ADAM = SHARED | {"eps": (1e-9, 1e-5)}
OWN = SHARED | {"eps": (1e-7, 1e-2)}
BY_UNIT, POOLED = OWN | {"gamma": (1e-3, 1e-1)}, OWN | {"shrink": (1e-2, 3e-1)}
RANGES = {name: POOLED if "pooled" in name else BY_UNIT for name in transformer.SONEWS}
RANGES |= {
    "AdamW": ADAM,
    "NAdamW": ADAM,
    # Each of its numbers moves by the whole rate.
    "Lion": SHARED | {"rate": (1e-4, 3e-3)},
    "Muon": ADAM | {"rms": (1e-1, 1e0)},
}
# Near is up to so many times as much, or as little.
NEAR = {"rate": 2, "beta1": 2, "beta2": 2, "eps": 10, "gamma": 3, "shrink": 3, "rms": 2}


class Plan(NamedTuple):
    """What is run at one size and length."""

    rows: tuple
    # No setting was chosen for its luck with one of these.
    seeds: tuple
    # What the rate of the row's best setting at the first size and length is multiplied by;
    # None is the whole search.
    factors: tuple = None
    # Each a row's best setting with something changed.
    variants: tuple = ()

    def trials(self):
        return TRIALS + MORE_TRIALS if self.factors is None else len(self.factors)

    def runs(self, rows):
        variants = [name for _, name, _ in self.variants if name in rows]
        per_row = self.trials() + len(self.seeds)
        return len(rows) * per_row + len(variants) * len(self.seeds)


FIRST = ("small", transformer.STEPS)
EMBEDDINGS = transformer.EMBEDDINGS
PLAN = Plan(
    ROWS,
    (1, 2, 3, 4, 5),
    variants=(
        ("embeddings by SONew", "SONew, tridiagonal, Nesterov", {"by_adam": ()}),
        ("the head by Adam", "Muon", {"by_adam": (*EMBEDDINGS, "head")}),
    ),
)
SMALLER_PLAN = Plan(
    (
        "AdamW",
        "Muon",
        "SONew, tridiagonal, Nesterov",
        "SONew, pooled band 32",
        "SONew, pooled rank 16",
    ),
    (1, 2, 3),
    factors=(1, 0.7, 0.5, 0.35),
)


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


def near(setting):
    """Ranges around a setting, the same factors for all optimizers."""
    around = {}
    for key, value in setting.items():
        centre = 1 - value if key.startswith("beta") else value
        around[key] = (centre / NEAR[key], centre * NEAR[key])
    return around


class Missing(Exception):
    """A run is not done, and is not to be done now."""


class Results:
    """Runs that are done, in a file that is written after each."""

    def __init__(self, folder, size, steps):
        self.size, self.steps = size, steps
        self.path = folder / f"{size}-{steps}.json"
        self.data = json.loads(self.path.read_text()) if self.path.exists() else {"runs": []}
        # With what new runs are done; without, none is.
        self.text = None
        self.count = self.total = 0

    def run(self, kind, name, setting, seed, **more):
        """The curve of a run."""
        key = {"kind": kind, "name": name, "seed": seed, "setting": setting, **more}
        key = json.loads(json.dumps(key))
        self.count += 1
        for run in self.data["runs"]:
            if key == {field: run[field] for field in run if field != "curve"}:
                return run["curve"]
        if self.text is None:
            raise Missing
        every = self.steps if kind == "trial" else max(transformer.EVERY, self.steps // 50)
        run = transformer.Run(self.text, name, setting, self.steps, seed, self.size, **more)
        curve, _ = transformer.train(run, every)
        curve = [[number, round(value, 4)] for number, value in curve]
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


def searched(results, name, plan, first):
    """The best setting, and its loss; one that is not a number is worse than
    any."""
    tried = []

    def look(candidates):
        for setting in candidates:
            loss = results.run("trial", name, setting, SEARCH_SEED)[-1][1]
            tried.append((loss if np.isfinite(loss) else np.inf, setting))
        return min(tried, key=lambda pair: pair[0])

    if plan.factors is not None:
        _, centre = searched(first, name, PLAN, None)
        rates = [float(f"{centre['rate'] * factor:.2e}") for factor in plan.factors]
        return look([centre | {"rate": rate} for rate in rates])
    _, best = look(settings(RANGES[name], TRIALS, SEARCH_SEED))
    return look(settings(near(best), MORE_TRIALS, SEARCH_SEED + 1))


class Row(NamedTuple):
    trial: float
    setting: dict
    curves: list


def outcome(results, name, plan, first):
    trial, setting = searched(results, name, plan, first)
    return Row(trial, setting, [results.run("rerun", name, setting, seed) for seed in plan.seeds])


def variants(results, plan, rows):
    """The curves of those whose rows are done."""
    found = {}
    for title, name, changes in plan.variants:
        if name in rows:
            setting = rows[name].setting
            try:
                curves = [
                    results.run("variant", name, setting, seed, **changes) for seed in plan.seeds
                ]
            except Missing:
                continue
            found[f"{name}; {title}"] = curves
    return found


def timed(text, size, rows, rounds=9, steps=10):
    """Milliseconds of a whole training step, each the median over rounds in
    which the optimizers take turns."""
    runs = {
        name: transformer.Run(text, name, row.setting, rounds * steps, 1, size)
        for name, row in rows.items()
    }
    times = {name: [] for name in rows}
    for number in range(rounds + 1):
        for name, run in runs.items():
            begun = time.perf_counter()
            for _ in range(steps):
                run.step()
            # The first round compiles.
            if number:
                times[name].append(1e3 * (time.perf_counter() - begun) / steps)
        print(f"round {number} of {rounds}", flush=True)
    return {name: round(statistics.median(values), 2) for name, values in times.items()}


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


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--size", choices=transformer.SIZES, default=FIRST[0])
    parser.add_argument("--steps", type=int, default=FIRST[1])
    parser.add_argument("--rows", nargs="+", metavar="NAME", help="search only these optimizers")
    parser.add_argument("--times", action="store_true", help="measure only milliseconds")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="where results go")
    arguments = parser.parse_args()
    size, steps = arguments.size, arguments.steps
    plan = PLAN if (size, steps) == FIRST else SMALLER_PLAN
    wanted = arguments.rows or plan.rows
    if unknown := set(wanted) - set(plan.rows):
        parser.error(f"no rows here: {', '.join(sorted(unknown))}; there are {', '.join(plan.rows)}")

    text = transformer.Text()
    folder = arguments.docs / "transformer"
    results, first = Results(folder, size, steps), Results(folder, *FIRST)

    if not arguments.times:
        results.text, results.total = text, plan.runs(wanted)
        try:
            done = {name: outcome(results, name, plan, first) for name in wanted}
        except Missing:
            parser.error(f"rates are searched around those of {first.path.name}: run that first")
        variants(results, plan, done)
        results.text = None

    rows = {}
    for name in plan.rows:
        try:
            rows[name] = outcome(results, name, plan, first)
        except Missing:
            print(f"not done: {name}")
    if arguments.times:
        milliseconds = timed(text, size, rows)
        results.data["times"] = {"milliseconds": milliseconds, "machine": machine()}
        results.write()
    page = arguments.docs / "transformer.md"
    found = transformer_page.Found(
        size, steps, plan, results.data, text, rows, variants(results, plan, rows)
    )
    transformer_page.plot(folder / f"{size}-{steps}.svg", found)
    transformer_page.write(page, found)
    print(f"written: {page}")


if __name__ == "__main__":
    main()
