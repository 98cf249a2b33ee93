"""What binds each step of the table: the bytes that it moves, or its arithmetic."""

import statistics
from pathlib import Path

# The length of chains, and how many there are in the smaller and the larger tensor, where chains
# are rows and where they are columns. The larger ones stay in the second-level cache of a core.
ROWS, COLUMNS = (512, 8, 40), (128, 128, 256)
ROUNDS = 15

HEAD = ["step", "B/param", "memory", "arithmetic", "cycles/param", "bound by", "measured",
        "of the bound"]  # fmt: skip


def arithmetic(row, make, sample):
    """Seconds that one thread takes for a parameter that is in the cache. What a call and a
    tensor take is left out: it is the difference of two tensors, by that of their parameters."""

    across = row.chains.startswith("strided")
    length, *chains = COLUMNS if across else ROWS
    shapes = [(length, count) if across else (count, length) for count in chains]
    few, many = (make(row, [shape]) for shape in shapes)
    differences = [sample(many, 40) - sample(few, 40) for _ in range(ROUNDS)]
    for contestant in (few, many):
        contestant.optimizer.free()
    return statistics.median(differences) / (length * (chains[1] - chains[0]))


def clock():
    """Cycles of a second, as the system has it now, or None."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    found = [float(line.split(":")[1]) * 1e6 for line in lines if line.startswith("cpu MHz")]
    return max(found) if found else None


def lines(rows, rate, threads):
    """The cells of the table, of (contestant, its seconds a parameter in memory, and in the cache
    by one thread), where the memory gives so many bytes a second."""
    hertz = clock()
    for contestant, measured, of_thread in rows:
        memory, computed = contestant.bytes / rate, of_thread / threads
        bound = max(memory, computed)
        yield [
            contestant.name,
            str(contestant.bytes),
            f"{memory * 1e9:.3f}",
            f"{computed * 1e9:.3f}",
            f"{of_thread * hertz:.2f}" if hertz else "",
            "memory" if memory >= computed else "arithmetic",
            f"{measured * 1e9:.3f}",
            f"{measured / bound:.2f}x",
        ]
