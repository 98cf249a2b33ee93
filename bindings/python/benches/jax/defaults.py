"""What the defaults give: the networks of the other two benchmarks, where nothing but the learning
rate is searched.

    python benches/jax/defaults.py transformer                 # 300 steps
    python benches/jax/defaults.py transformer --steps 2000    # one seed, the rates of 300 steps
    python benches/jax/defaults.py images
    python benches/jax/defaults.py flights                     # raw features

Rates are AdamW's best one of the other benchmark, whose runs have to be there, times powers of two:
the same for all rows, and further ones while the best is the first or the last. With the best
of a row, new seeds are run. Runs are in docs/transformer/small-STEPS-defaults.json and
docs/small-benchmarks/PROBLEM-defaults.json, which are written after each: what is there is not done
again. At the end a table goes into docs/choosing.md.
"""

import argparse
import functools
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parents[4]
sys.path.insert(0, str(ROOT / "bindings/python/examples/jax"))
import search
import tables
import transformer
import tuned_small
import tuned_transformer
from search import Missing

SHORTER = {"beta1": 0.85, "beta2": 0.98}
BAND, PLAIN_BAND = "SONew, pooled band 32", "SONew, pooled band 32, no Nesterov"
TRIDIAGONAL = "SONew, tridiagonal, Nesterov"


class Row(NamedTuple):
    """An optimizer at its defaults, but for what it is given."""

    name: str
    given: dict = {}

    @property
    def title(self):
        # Elsewhere all pooled rows have it, and none says so.
        name = f"{self.name}, Nesterov" if self.name == BAND else self.name
        return "; ".join([name.replace(", no Nesterov", ""), *self.numbers])

    @property
    def numbers(self):
        return [f"{key} {value:g}" for key, value in self.given.items()]


SONEWS = (
    Row("SONew, tridiagonal"),
    Row(TRIDIAGONAL),
    Row(PLAIN_BAND),
    Row(BAND),
)


class Plan(NamedTuple):
    # Of the rates that all rows have: AdamW's times two to the power of these. None takes the
    # best of 300 steps.
    powers: tuple
    # None of them is the seed of the search.
    seeds: tuple
    # The first is what the others are compared with.
    rows: tuple


PLAN = Plan(
    range(-2, 3),
    (1, 2, 3),
    (
        Row("AdamW"),
        Row("Muon"),
        *SONEWS,
        *(Row(name, SHORTER) for name in ("AdamW", TRIDIAGONAL, BAND)),
        Row(BAND, {"shrink": 0.08}),
        Row(TRIDIAGONAL, {"eps": 1e-4}),
    ),
)
# Runs of small problems are quick, and differ more.
SMALL_PLAN = PLAN._replace(seeds=(1, 2, 3, 4, 5))
LONGER_PLAN = Plan(None, (1,), (Row("AdamW"), *SONEWS))


class Benchmark(NamedTuple):
    plan: Plan
    steps: int
    digits: int
    # Runs of this program, and those of the other benchmark.
    results: search.Results
    tuned: search.Results
    # The row that the other one has by this name.
    row_of: callable
    # The one whose rates this takes.
    first: tuple = None

    def tuned_row(self, name):
        """None, if there is no such row."""
        try:
            return self.row_of(self.tuned, name)
        except (Missing, KeyError):
            return None


def of_transformer(docs, steps, text):
    folder, (size, first_steps) = docs / "transformer", tuned_transformer.FIRST
    first = of_transformer(docs, first_steps, None) if steps > first_steps else None
    results = tuned_transformer.Results(folder, size, steps, "-defaults")
    results.text = text
    row_of = functools.partial(
        tuned_transformer.outcome,
        plan=tuned_transformer.LONGER_PLAN if first else tuned_transformer.PLAN,
        first=tuned_transformer.Results(folder, *tuned_transformer.FIRST),
    )
    tuned = tuned_transformer.Results(folder, size, steps)
    return Benchmark(LONGER_PLAN if first else PLAN, steps, 3, results, tuned, row_of, first)


def of_small(docs, problem, steps):
    folder = docs / "small-benchmarks"
    results = tuned_small.Results(folder, problem, steps, "-defaults")
    results.trains = True
    tuned = tuned_small.Results(folder, problem, steps)
    return Benchmark(SMALL_PLAN, steps, problem.digits, results, tuned, tuned_small.outcome)


def searched(benchmark, row):
    """The best rate and its loss; further rates are tried while the best is at an end."""
    if benchmark.first:
        return searched(benchmark.first, row)
    adamw = benchmark.tuned_row("AdamW")
    if adamw is None:
        raise Missing

    def tried(powers):
        rates = [float(f"{adamw.setting['rate'] * 2**power:.2e}") for power in powers]
        candidates = [row.given | {"rate": rate} for rate in rates]
        pairs = search.compared(benchmark.results, row.name, candidates)
        return [(loss, power, setting) for power, (loss, setting) in zip(powers, pairs)]

    first, last = benchmark.plan.powers[0], benchmark.plan.powers[-1]
    found = tried(benchmark.plan.powers)
    while True:
        loss, power, setting = search.best(found)
        if power == first:
            first -= 1
            found += tried([first])
        elif power == last:
            last += 1
            found += tried([last])
        else:
            return loss, setting


def outcome(benchmark, row):
    trial, setting = searched(benchmark, row)
    seeds = benchmark.plan.seeds
    curves = [benchmark.results.run("rerun", row.name, setting, seed) for seed in seeds]
    return search.Row(trial, setting, curves)


def report(benchmark, rows):
    seeds, digits = benchmark.plan.seeds, benchmark.digits
    goal = np.mean(tables.ends(rows[0][1].curves))
    said = f"seeds {seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"seed {seeds[0]}"
    lines = [
        ["", "rate", f"loss, {said}", "spread", "steps to AdamW's", "all numbers searched, loss"]
    ]

    def mean(curves):
        return f"{np.mean(tables.ends(curves)):.{digits}f}"

    for row, found in rows:
        tuned = None if row.given else benchmark.tuned_row(row.name)
        there = tables.reached(found.curves, goal)
        lines.append(
            [
                row.title,
                f"{found.setting['rate']:g}",
                mean(found.curves),
                tables.spread(found.curves, digits) if len(seeds) > 1 else "-",
                tables.steps_to(there, benchmark.steps),
                mean(tuned.curves[: len(seeds)]) if tuned else "-",
            ]
        )
    described = tables.machine(benchmark.results.data["machine"])
    return f"{described}. {benchmark.steps} steps.\n\n{tables.table(lines)}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("problem", choices=("transformer", "images", "flights"))
    parser.add_argument("--steps", type=int, help="other than the benchmark's own")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="where results go")
    arguments = parser.parse_args()
    if arguments.problem == "transformer":
        steps = arguments.steps or transformer.STEPS
        benchmark = of_transformer(arguments.docs, steps, transformer.Text())
        name = f"transformer-{steps}"
    else:
        problem = tuned_small.PROBLEMS[arguments.problem][0]()
        benchmark = of_small(arguments.docs, problem, arguments.steps or problem.steps)
        name = problem.name
    plan = benchmark.plan
    benchmark.results.total = len(plan.rows) * (len(plan.powers or ()) + len(plan.seeds))
    try:
        rows = [(row, outcome(benchmark, row)) for row in plan.rows]
    except Missing:
        needed = benchmark.first.results if benchmark.first else benchmark.tuned
        parser.error(f"rates are those of {needed.path.name}: run that first")
    page = arguments.docs / "choosing.md"
    tables.write(page, f"defaults-{name}", report(benchmark, rows))
    print(f"written: {page}")


if __name__ == "__main__":
    main()
