"""Measures `SONew.step()` against the step of the C API on the same tensors, and against
torch.optim.AdamW(fused=True), in one process with the same threads:

    python benches/torch/step.py

Median ratios within one run, and the time of a step of many small tensors, from which the cost of
Python follows. Run it where nothing else runs.
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
    "67M, one tensor": [(8192, 8192)],
    "autoencoder, 2.8M": [s for i, o in zip(WIDTHS, WIDTHS[1:]) for s in ((o, i), (o,))],
    "400 tensors of 16": [(4, 4)] * 400,
    "1 tensor of 16": [(4, 4)],
}
# Threads of a library spin for some milliseconds, and would slow down those of the next.
PAUSE = 0.01


def sample(step, count):
    time.sleep(PAUSE)
    seconds = []
    for _ in range(count + 1):
        begun = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds[1:])


def steps(shapes, threads):
    """The steps that are compared: fused AdamW, the C API, SONew."""
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
    in_c = lambda: c().sonew_step(own.handle, byref(own._step), at, grads, len(params))
    return adamw.step, in_c, optimizer.step


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"PyTorch {torch.__version__}, libsonew {sonew.version()}, {arguments.threads} threads\n")
    print(f"{'':20} {'AdamW':>11} {'C / AdamW':>10} {'SONew / AdamW':>14} {'SONew / C':>10} {'SONew - C':>11}")
    for name, shapes in MODELS.items():
        measured = steps(shapes, arguments.threads)
        size = sum(torch.Size(s).numel() for s in shapes)
        count = 3 if size > 1 << 24 else 10 if size > 1 << 16 else 100
        rows = [[sample(step, count) for step in measured] for _ in range(arguments.rounds)]
        median = lambda of: statistics.median(map(of, rows))
        print(
            f"{name:20} {1e3 * median(lambda r: r[0]):8.3f} ms {median(lambda r: r[1] / r[0]):10.2f} "
            f"{median(lambda r: r[2] / r[0]):14.2f} {median(lambda r: r[2] / r[1]):10.3f} "
            f"{1e6 * median(lambda r: r[2] - r[1]):8.1f} us"
        )


if __name__ == "__main__":
    main()
