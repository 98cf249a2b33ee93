"""Measures libsonew's steps against PyTorch's fused AdamW, in one process with
the same threads, and prints one table. Run it with benches/compare; what the
columns mean is in benches/README.md.
"""

import argparse
import datetime
import os
import platform
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import roofline


@dataclass
class Row:
    """A step of libsonew, and its goal."""

    name: str
    # Of each unit by itself, or of all of them together.
    band: int = 1
    pooling: str = "none"
    rank: int = 0
    graft: str = "adam"
    lagged: bool = False
    chains: str = "contiguous"
    check: bool = False
    state: str = "float32"
    # Largest ratio to AdamW, by model.
    goals: dict = field(default_factory=dict)
    # Or a bound relative to another row's ratio: its name, a factor, addends by model.
    bound: tuple = None

    def bytes(self):
        """Bytes for each parameter: it is read and written, the gradient read;
        each state plane read and written; with grafting by the norms of the step
        itself the direction written and read back; with the check the gradient
        read once more."""
        by_unit = self.band if self.pooling == "none" else 0
        planes = by_unit + 2 + (self.graft == "normalized rmsprop")
        planes *= 4 if self.state == "float32" else 2
        is_one_pass = self.graft == "none" or self.lagged
        again = 0 if is_one_pass else 8 if self.band else planes
        return 12 + 2 * planes + again + 4 * self.check

    def options(self):
        """Those of the optimizer that are the row's own."""
        own = {"band": self.band, "graft": self.graft.replace(" ", "_"), "lagged_norms": self.lagged}
        if self.pooling != "none":
            own |= {"pooling": self.pooling} | ({"rank": self.rank} if self.rank else {})
        return own


def pooled(name, **more):
    return Row(name, lagged=True, **{"chains": "contiguous_lines"} | more)


TRIDIAGONAL, PLAIN, LAGGED = "tridiagonal, Adam graft", "tridiagonal, no graft", "tridiagonal, lagged"
BAND, RANK = {"pooling": "band"}, {"pooling": "rank"}
COLUMNS, BFLOAT16 = {"chains": "strided_lines"}, {"state": "bfloat16"}
NOTHING = {"a": 0.0, "b": 0.0}
ROWS = [
    Row("diagonal, Adam graft", band=0, goals={"a": 1.4, "b": 1.5}),
    Row(PLAIN, graft="none", goals={"a": 1.3, "b": 1.5}),
    Row(TRIDIAGONAL, goals={"a": 1.75, "b": 2.0}),
    Row(TRIDIAGONAL + ", bfloat16 state", state="bfloat16", goals={"a": 1.35, "b": 1.5}),
    Row(LAGGED, lagged=True, goals={"a": 1.33, "b": 1.3}),
    Row(LAGGED + ", bfloat16 state", lagged=True, state="bfloat16", goals={"a": 1.0, "b": 1.2}),
    Row("band 4, Adam graft", band=4, goals={"a": 4.0, "b": 5.0}),
    Row(TRIDIAGONAL + ", checked", check=True, bound=(TRIDIAGONAL, 1.0, {"a": 0.12, "b": 0.2})),
    Row(PLAIN + ", columns", graft="none", chains="strided", bound=(PLAIN, 1.25, NOTHING)),
    Row(TRIDIAGONAL + ", columns", chains="strided", bound=(TRIDIAGONAL, 1.25, NOTHING)),
    Row(LAGGED + ", columns", lagged=True, chains="strided", bound=(LAGGED, 1.25, NOTHING)),
    pooled("pooled band 4", band=4, **BAND, goals={"a": 1.25, "b": 1.4}),
    pooled("pooled band 4, bfloat16 state", band=4, **BAND, **BFLOAT16, goals={"a": 1.1, "b": 1.3}),
    pooled("pooled band 4, columns", band=4, **BAND, **COLUMNS, goals={"a": 1.25, "b": 1.4}),
    pooled("pooled band 16", band=16, **BAND, goals={"a": 1.7, "b": 1.8}),
    pooled("pooled band 32", band=32, **BAND, goals={"a": 2.4, "b": 2.6}),
    pooled("pooled band 32, columns", band=32, **BAND, **COLUMNS, goals={"a": 2.4, "b": 2.6}),
    pooled("pooled rank 16", rank=16, **RANK, goals={"a": 1.8, "b": 1.9}),
    pooled("pooled rank 32", rank=32, **RANK, goals={"a": 2.8, "b": 3.0}),
]


@dataclass
class Case:
    """A model, and how long it is measured."""

    key: str
    title: str
    shapes: list
    # Steps of a sample; rounds, in full and with --quick.
    steps: int
    rounds: tuple
    # Or a bound in microseconds, instead of ratios.
    limit: float = None


def layers(*widths):
    """Weights [out, in] and biases of fully connected layers."""
    pairs = zip(widths, widths[1:])
    return [shape for i, o in pairs for shape in ((o, i), (o,))]


CASES = [
    Case("a", "one tensor [8192, 8192]", [(8192, 8192)], 3, (15, 4)),
    Case(
        "b",
        "784-1000-500-250-30-250-500-1000-784 autoencoder",
        layers(784, 1000, 500, 250, 30, 250, 500, 1000, 784),
        10,
        (41, 9),
    ),
    Case(
        "c",
        "88-58-44-35-20-35-44-58-88 autoencoder",
        layers(88, 58, 44, 35, 20, 35, 44, 58, 88),
        300,
        (41, 9),
        limit=30.0,
    ),
]

# The worker threads of a library spin for some milliseconds while they wait for
# more work, and would slow down those of the next library.
PAUSE = 0.01

# So many optimizers are measured in one part: 4 GB of state in the largest model.
TOGETHER = 5


def sample(contestant, steps):
    """Median seconds of a step, after one that is not counted."""
    time.sleep(PAUSE)
    seconds = []
    for i in range(-1, steps):
        contestant.prepare(i + 1)
        start = time.perf_counter()
        contestant.step()
        if i >= 0:
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


class Samples:
    """The measurements of one contestant."""

    def __init__(self, contestant, len):
        self.contestant, self.len = contestant, len
        self.seconds, self.ratios = [], []

    def ratio(self):
        return statistics.median(self.ratios)

    def rate(self):
        """Bytes per second."""
        return self.contestant.bytes * self.len / statistics.median(self.seconds)


def measure(case, contestants, yardstick, stream, rounds):
    """Rounds of stream, yardstick, contestant 1, yardstick, contestant 2, ..."""
    for contestant in [stream, yardstick, *contestants]:
        sample(contestant, 2)
    length = yardstick.model.len
    streams, base = Samples(stream, stream.LEN), Samples(yardstick, length)
    rows = [Samples(c, length) for c in contestants]
    for done in range(rounds):
        progress(f"({case.key}) {case.title}: round {done + 1} of {rounds}")
        streams.seconds.append(sample(stream, 2))
        for row in rows:
            base.seconds.append(sample(yardstick, case.steps))
            row.seconds.append(sample(row.contestant, case.steps))
            row.ratios.append(row.seconds[-1] / base.seconds[-1])
    progress("")
    return streams, base, rows


def progress(text):
    if sys.stderr.isatty():
        print(f"\r{text:<79}" + ("" if text else "\r"), end="", file=sys.stderr, flush=True)
    elif text:
        print(text, file=sys.stderr, flush=True)


HEAD = ["step", "/ AdamW", "quartiles", "goal", "met", "ms", "min",
        "ns/param", "B/param", "GB/s", "of stream"]  # fmt: skip


def lines(case, streams, base, rows):
    """The cells of one model's part of the table."""
    measured = {r.contestant.name: r for r in rows}
    goals = {row.name: goal(row, case, measured) for row in ROWS}
    yield line(streams, streams)
    yield line(base, streams)
    for row in rows:
        yield line(row, streams, goals.get(row.contestant.name, ("", "")))


def goal(row, case, measured):
    """The goal as printed, and whether it was met: "?" if it is within the noise."""
    samples = measured[row.name]
    if case.limit:
        return f"{case.limit:.0f} us", verdict(samples.seconds, case.limit * 1e-6)
    limit = row.goals.get(case.key)
    if row.bound:
        other, factor, surcharges = row.bound
        limit = measured[other].ratio() * factor + surcharges[case.key]
    if limit is None:
        return "", ""
    return f"{limit:.2f}x", verdict(samples.ratios, limit)


def verdict(measured, limit):
    low, _, high = statistics.quantiles(measured, n=4)
    return "yes" if high <= limit else "NO" if low > limit else "?"


def line(samples, streams, goal=("", "")):
    ratio = spread = ""
    if samples.ratios:
        low, _, high = statistics.quantiles(samples.ratios, n=4)
        ratio, spread = f"{samples.ratio():.2f}x", f"{low:.2f}-{high:.2f}"
    median = statistics.median(samples.seconds)
    bandwidth = streams.contestant.bytes * streams.len / min(streams.seconds)
    return [
        samples.contestant.name,
        ratio,
        spread,
        *goal,
        f"{median * 1e3:#.3g}",
        f"{min(samples.seconds) * 1e3:#.3g}",
        f"{median / samples.len * 1e9:.3f}",
        str(samples.contestant.bytes),
        f"{samples.rate() / 1e9:.1f}",
        f"{samples.rate() / bandwidth:.0%}",
    ]


def show(head, parts):
    """One table: a title and the lines for each part."""
    every = [head] + [cells for _, part in parts for cells in part]
    widths = [max(len(cells[i]) for cells in every) for i in range(len(head))]

    def put(cells):
        rest = (cell.rjust(width) for cell, width in zip(cells[1:], widths[1:]))
        print("  ".join([cells[0].ljust(widths[0]), *rest]).rstrip())

    put(head)
    for title, part in parts:
        print("-" * (sum(widths) + 2 * len(widths) - 2))
        print(title)
        for cells in part:
            put(cells)


def machine(torch, library, threads):
    """The lines above the table."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((l.split(":")[1].strip() for l in info if l.startswith("model name")), cpu)
    pages = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    pages = pages.read_text().split("[")[1].split("]")[0] if pages.exists() else "unknown"
    load = os.getloadavg()[0]
    print(f"{cpu}, {os.cpu_count()} cores, huge pages: {pages}; {datetime.date.today()}, load {load:.2f}")
    print(
        f"libsonew {library.version()}, PyTorch {torch.__version__}"
        f" ({torch.backends.cpu.get_cpu_capability()}), {threads} threads each, float32"
    )


def roofline_of(case, streams, rows, threads):
    """What binds each row of libsonew in this model, which is far larger than the caches."""
    import contestants as c

    rate = streams.contestant.bytes * streams.len / min(streams.seconds)
    rows_of = {row.name: row for row in ROWS}
    found = []
    for samples in rows:
        contestant = samples.contestant
        if row := rows_of.get(contestant.name):
            progress(f"({case.key}) in the cache: {row.name}")
            make = lambda row, shapes: c.Sonew(row, c.Model(shapes), 1)
            in_cache = roofline.arithmetic(row, make, sample)
            found.append((contestant, statistics.median(samples.seconds) / samples.len, in_cache))
    progress("")
    return roofline.lines(found, rate, threads)


def arguments():
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(prog="benches/compare", description=__doc__)
    parser.add_argument("--threads", type=int, default=cores, help="of each library (default: %(default)s, all cores)")
    parser.add_argument("--quick", action="store_true", help="a quarter of the rounds")
    parser.add_argument("--model", choices=[c.key for c in CASES], action="append", help="this one only; may be repeated")
    parser.add_argument("--roofline", action="store_true", help="also print what binds each step of the large model: its bytes, or its arithmetic")
    parser.add_argument("--jax", action="store_true", help="measure Optax's AdamW, too (the launcher installs JAX)")
    parser.add_argument("--python-env", metavar="DIR", help="Python environment to use instead of target/bench-env")
    parser.add_argument("--torch-index", metavar="URL", help="where to install PyTorch from, if it is missing: the index of its CPU builds")
    parser.add_argument("--library", type=Path, required=True, help="libsonew.so (the launcher gives it)")
    parser.add_argument("--only-check", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not 1 <= args.threads <= cores:
        parser.error(f"--threads: {args.threads} is not in 1 to {cores}")
    return args


def main():
    args = arguments()
    if args.only_check:
        return
    # As many cores as threads, because JAX uses one thread per core.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    import torch

    import contestants as c
    import libsonew

    torch.set_num_threads(args.threads)
    library = libsonew.Library(args.library.resolve())
    machine(torch, library, args.threads)
    stream, parts, bounds = c.Stream(), [], []
    for case in CASES:
        if args.model and case.key not in args.model:
            continue
        progress(f"({case.key}) {case.title}: making it")
        model = c.Model(case.shapes)
        adamw = c.FusedAdamW(model)
        others = [c.FusedAdamWKernel(adamw)] + ([c.JaxAdamW(model)] if args.jax else [])
        rounds = case.rounds[args.quick]
        streams, base, rows = measure(case, others, adamw, stream, rounds)
        # Not all at once, because each has state of its own.
        for first in range(0, len(ROWS), TOGETHER):
            sonews = [c.Sonew(row, model, args.threads) for row in ROWS[first : first + TOGETHER]]
            more = measure(case, sonews, adamw, stream, rounds)
            streams.seconds += more[0].seconds
            base.seconds += more[1].seconds
            rows += more[2]
            instructions = sonews[0].optimizer.instruction_set()
            for sonew in sonews:
                sonew.optimizer.free()
        title = f"({case.key}) {case.title}: {model.len:,} parameters, {rounds} rounds"
        parts.append((title, list(lines(case, streams, base, rows))))
        if args.roofline and case.key == "a":
            bounds = list(roofline_of(case, streams, rows, args.threads))
    print(f"libsonew uses {instructions}\n")
    show(HEAD, parts)
    if bounds:
        print(f"\nnanoseconds a parameter, {args.threads} threads; cycles of one core")
        show(roofline.HEAD, [("what binds a step of 67,108,864 parameters", bounds)])


if __name__ == "__main__":
    main()
