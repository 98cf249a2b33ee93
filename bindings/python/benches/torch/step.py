"""Measures `SONew.step()`, tridiagonal with Adam's norm, against the step of the C API on the same
tensors and against torch.optim.AdamW(fused=True), in one process with the same threads:

    python benches/torch/step.py       # about a minute, 4 GB of memory

Prints the numbers of "What a step costs" in bindings/python/torch.md as two tables: medians of ratios
of neighbouring samples, for two large models; and for many tensors of 10 elements what a step takes
beyond that of the C API, with what two attributes of each tensor alone cost. Run it where nothing
else runs.
"""

import argparse
import statistics
import time
from ctypes import byref

import sonew
import torch
from sonew._library import c
from sonew.torch import SONew

WIDTHS = (784, 1000, 500, 250, 30, 250, 500, 1000, 784)
MODELS = {
    "autoencoder, 2.8M in 16 tensors": [
        shape for i, o in zip(WIDTHS, WIDTHS[1:]) for shape in ((o, i), (o,))
    ],
    "67M in one tensor": [(8192, 8192)],
}
COUNTS = (1, 100, 1000)
# Threads of a library spin for some milliseconds, and would slow down those of the next.
PAUSE = 0.01


def sample(step, count):
    """The median of the seconds of some steps after a first."""
    time.sleep(PAUSE)
    seconds = []
    for _ in range(count + 1):
        begun = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds[1:])


def steps(shapes, threads):
    """The steps that are compared: fused AdamW, the C API with all arguments prepared, SONew; and
    reading the addresses of all gradients."""
    params = [torch.nn.Parameter(torch.randn(shape) * 0.05) for shape in shapes]
    for p in params:
        p.grad = torch.randn_like(p) * 0.01
    adamw = torch.optim.AdamW(params, lr=1e-4, fused=True)
    optimizer = SONew(params, lr=1e-4, update="sonew", threads=threads)
    tensors = [sonew.Tensor(str(i), shape) for i, shape in enumerate(shapes)]
    own = sonew.Optimizer(tensors, threads=threads)
    at = sonew.addresses([p.data_ptr() for p in params])
    grads = sonew.addresses([p.grad.data_ptr() for p in params])
    own.step(at, grads, lr=1e-4, non_finite="unchecked")
    function, arguments = c().sonew_step, (byref(own._step), at, grads, len(params))

    def addresses():
        for p in params:
            p.grad.data_ptr()

    # With `own` itself, whose state is freed with it.
    return adamw.step, lambda: function(own.handle, *arguments), optimizer.step, addresses


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"PyTorch {torch.__version__}, libsonew {sonew.version()}, {arguments.threads} threads\n")

    print("| step | of the C API's | of `AdamW(fused=True)`'s | `AdamW(fused=True)` |\n|---|---:|---:|---:|")
    for name, shapes in MODELS.items():
        adamw, in_c, step, _ = steps(shapes, arguments.threads)
        count = 3 if len(shapes) == 1 else 10
        rows = [[sample(one, count) for one in (adamw, in_c, step)] for _ in range(arguments.rounds)]
        median = lambda of: statistics.median(map(of, rows))
        print(
            f"| {name} | {median(lambda r: r[2] / r[1]):.3f} | {median(lambda r: r[2] / r[0]):.2f} "
            f"| {1e3 * median(lambda r: r[0]):.2f} ms |",
            flush=True,
        )

    print(
        "\n| tensors of 10 | beyond the C API's step | for each tensor | `p.grad.data_ptr()` alone "
        "| step of `AdamW(fused=True)` |\n|---|---:|---:|---:|---:|"
    )
    for number in COUNTS:
        measured = steps([(10,)] * number, 1)
        rows = [[sample(one, 100) for one in measured] for _ in range(arguments.rounds)]
        median = lambda of: statistics.median(map(of, rows))
        beyond = median(lambda r: r[2] - r[1])
        print(
            f"| {number} | {1e6 * beyond:.1f} us | {1e6 * beyond / number:.2f} us "
            f"| {1e6 * median(lambda r: r[3]) / number:.2f} us | {1e6 * median(lambda r: r[0]):.1f} us |",
            flush=True,
        )


if __name__ == "__main__":
    main()
