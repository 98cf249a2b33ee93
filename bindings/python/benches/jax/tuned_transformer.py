"""The second benchmark: the character-level transformer of
examples/jax/transformer.py, with every optimizer's setting found by the same search.

    python benches/jax/tuned_transformer.py                 # 117,000 parameters, 300 steps
    python benches/jax/tuned_transformer.py --size large    # 826,000 parameters
    python benches/jax/tuned_transformer.py --steps 2000    # longer
    python benches/jax/tuned_transformer.py --times         # milliseconds, on an idle machine

The first takes about an hour on 2 idle cores, the second half an hour, and the third an hour and a
half; --times (with the same --size and --steps) a few minutes. Runs are in
docs/transformer/SIZE-STEPS.json, which is written after each: what is there is not done again, so
that a command that was stopped goes on; without the file everything is. At the end tables go into
docs/transformer.md, and a plot beside the runs.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[4]
sys.path.insert(0, str(ROOT / "bindings/python/examples/jax"))
import search
import transformer
import transformer_page
from search import Missing

ROWS = ("AdamW", "NAdamW", "Lion", "Muon", *transformer.SONEWS)
RANGES = search.ranges_of(transformer.SONEWS)


class Plan(NamedTuple):
    """What is run at one size and length."""

    rows: tuple
    # No setting was chosen for its luck with one of these.
    seeds: tuple
    # What the rate of the row's best setting at the first size and length is multiplied by;
    # None is the whole search.
    factors: tuple = None
    # What `1 - beta1` and `1 - beta2` are multiplied by, at the best of these rates.
    averages: tuple = ()
    # Each a row's best setting with something changed.
    variants: tuple = ()

    def trials(self):
        if self.factors is None:
            return search.TRIALS + search.MORE_TRIALS
        return len(self.factors) + len(self.averages)

    def runs(self, rows):
        variants = [name for _, name, _ in self.variants if name in rows]
        per_row = self.trials() + len(self.seeds)
        return len(rows) * per_row + len(variants) * len(self.seeds)


FIRST = ("small", transformer.STEPS)
EMBEDDINGS = transformer.EMBEDDINGS


def three_times(name):
    """A row with embeddings at three times the rate."""
    return ("embeddings at three times the rate", name, {"embedding_rate": 3})


PLAN = Plan(
    ROWS,
    (1, 2, 3, 4, 5),
    variants=(
        ("embeddings by SONew", "SONew, tridiagonal, Nesterov", {"by_adam": ()}),
        ("the head by Adam", "Muon", {"by_adam": (*EMBEDDINGS, "head")}),
        *map(three_times, ("AdamW", "Muon", "SONew, pooled band 32")),
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
    (1, 2, 3, 4, 5),
    factors=(1, 0.7, 0.5, 0.35, 0.25),
    variants=(three_times("SONew, pooled band 32"),),
)
# In a long run averages may be longer, too. Since rates fall to zero at its end, the steps that
# an optimizer needs are those of a run that is shorter as a whole.
LONGER_PLAN = SMALLER_PLAN._replace(
    factors=(1.4, *SMALLER_PLAN.factors),
    averages=((0.5, 0.5), (0.5, 0.25), (0.25, 0.25)),
    variants=tuple(
        ("a run of 1400 steps", name, {"steps": 1400})
        for name in ("AdamW", "Muon", "SONew, pooled band 32")
    ),
)


class Results(search.Results):
    """The runs of one size and length."""

    def __init__(self, folder, size, steps, suffix=""):
        super().__init__(folder / f"{size}-{steps}{suffix}.json")
        self.size, self.steps = size, steps
        # With what new runs are done; without, none is.
        self.text = None

    def train(self, kind, name, setting, seed, steps=None, **more):
        if self.text is None:
            raise Missing
        steps = steps or self.steps
        every = steps if kind == "trial" else max(transformer.EVERY, steps // 50)
        run = transformer.Run(self.text, name, setting, steps, seed, self.size, **more)
        curve, _ = transformer.train(run, every)
        return [[number, round(value, 4)] for number, value in curve]


def searched(results, name, plan, first):
    """The best setting, and its loss."""
    if plan.factors is None:
        return search.searched(results, name, RANGES[name])
    _, centre = searched(first, name, PLAN, None)
    rates = [float(f"{centre['rate'] * factor:.2e}") for factor in plan.factors]
    candidates = [centre | {"rate": rate} for rate in rates]
    tried = search.compared(results, name, candidates)
    _, centre = search.best(tried)
    candidates = [
        centre
        | {
            key: round(1 - (1 - centre[key]) * factor, 4)
            for key, factor in zip(("beta1", "beta2"), factors)
        }
        for factors in plan.averages
    ]
    return search.best(tried + search.compared(results, name, candidates))


def outcome(results, name, plan, first):
    trial, setting = searched(results, name, plan, first)
    curves = [results.run("rerun", name, setting, seed) for seed in plan.seeds]
    return search.Row(trial, setting, curves)


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


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--size", choices=transformer.SIZES, default=FIRST[0])
    parser.add_argument("--steps", type=int, default=FIRST[1])
    parser.add_argument("--rows", nargs="+", metavar="NAME", help="search only these optimizers")
    parser.add_argument("--times", action="store_true", help="measure only milliseconds")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="where results go")
    arguments = parser.parse_args()
    size, steps = arguments.size, arguments.steps
    plan = LONGER_PLAN if steps > FIRST[1] else PLAN if (size, steps) == FIRST else SMALLER_PLAN
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
        results.data["times"] = {"milliseconds": milliseconds, "machine": search.machine()}
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
