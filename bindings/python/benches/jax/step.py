"""What a step costs from JAX, beside the C API's own step and the algorithm of
the authors' JAX implementation, in one process on the same numbers:

    python benches/step.py            # about a minute, 4 GB of memory
    python benches/step.py --quick    # the small model only

All settings are the same: tridiagonal, Adam graft, float32, strided
chains, no check for gradients that are not finite, as many threads as there
are cores. Buffers are donated where JAX can.
"""

import argparse
import ctypes
import functools
import os
import statistics
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import reference
from sonew.jax import fused_sonew, instruction_set, library_version, sonew

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "jax"))
from c_api import Plan

RATE = 1e-4
OPTIONS = {"non_finite": "unchecked", "eps": 1e-6}


def layers(*widths):
    """Kernels [in, out] and biases of fully connected layers."""
    return [shape for i, o in zip(widths, widths[1:]) for shape in ((i, o), (o,))]


CASES = {
    "784-1000-500-250-30-250-500-1000-784 autoencoder": (
        layers(784, 1000, 500, 250, 30, 250, 500, 1000, 784),
        20,
        9,
    ),
    "one tensor [8192, 8192], 67M parameters": ([(8192, 8192)], 1, 5),
}


class Fused:
    name = "fused_sonew, compiled and donated"

    def __init__(self, params, grads):
        optimizer = fused_sonew(RATE, **OPTIONS)
        self.params = list(map(jnp.array, params))
        self.state = optimizer.init(self.params)
        self.grads = list(map(jnp.array, grads))
        self.compiled = jax.jit(optimizer.step, donate_argnums=(0, 2))

    def step(self):
        self.params, self.state = self.compiled(self.params, self.grads, self.state)

    def wait(self):
        jax.block_until_ready((self.params, self.state))


class Optax:
    """The direction, scaled and added by XLA, as optax programs do."""

    def __init__(self, optimizer, params, grads):
        @functools.partial(jax.jit, donate_argnums=(0, 1))
        def compiled(params, state, grads):
            updates, state = optimizer.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        self.compiled = compiled
        self.params = list(map(jnp.array, params))
        self.state = optimizer.init(self.params)
        self.grads = list(map(jnp.array, grads))

    def step(self):
        self.params, self.state = self.compiled(self.params, self.state, self.grads)

    wait = Fused.wait


class C:
    name = "sonew_plan_step, the C API"

    def __init__(self, params, grads):
        self.params = [aligned(p) for p in params]
        self.grads = [aligned(g) for g in grads]
        self.planes = [[aligned(np.zeros_like(p)) for _ in range(3)] for p in params]
        count = len(params)
        self.plan = Plan(
            self.params, ["float32"] * count, ["strided"] * count, ["sonew"] * count, eps=1e-6
        )
        self.number = 0

    def step(self):
        self.number += 1
        status = self.plan.step(
            self.number, self.grads, self.planes, params=self.params, lr=RATE, non_finite=1
        )
        assert status == 0

    def wait(self):
        pass


def aligned(array):
    """A copy at a multiple of 64 bytes, as XLA has its buffers."""
    memory = np.empty(array.nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def contestants(params, grads):
    yield C.name, lambda: C(params, grads)
    yield Fused.name, lambda: Fused(params, grads)
    yield "sonew and optax.apply_updates", lambda: Optax(sonew(RATE, **OPTIONS), params, grads)
    authors = reference.tridiagonal(RATE, eps=1e-6)
    yield "the authors' algorithm in JAX", lambda: Optax(authors, params, grads)


def measured(runs, repeats, rounds):
    """Median milliseconds of a step of each, taken in turns."""
    times = {name: [] for name in runs}
    for run in runs.values():
        for _ in range(2):
            run.step()
        run.wait()
    for _ in range(rounds):
        for name, run in runs.items():
            run.step()
            run.wait()
            begun = time.perf_counter()
            for _ in range(repeats):
                run.step()
                run.wait()
            times[name].append((time.perf_counter() - begun) / repeats * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="the small model only, few rounds")
    arguments = parser.parse_args()
    print(
        f"libsonew {library_version()} ({instruction_set()}), jax {jax.__version__}, "
        f"{len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}"
    )
    for title, (shapes, repeats, rounds) in CASES.items():
        if arguments.quick and rounds == 5:
            continue
        rng = np.random.default_rng(1)
        params = [rng.standard_normal(s, np.float32) * 0.05 for s in shapes]
        grads = [rng.standard_normal(s, np.float32) * 0.01 for s in shapes]
        runs = {name: make() for name, make in contestants(params, grads)}
        times = measured(runs, repeats, 3 if arguments.quick else rounds)
        base = times[C.name]
        print(f"\n{title}\n{'':36}{'ms':>9}{'/ C API':>10}{'authors /':>11}")
        for name, ms in times.items():
            authors = times["the authors' algorithm in JAX"] / ms
            print(f"{name:36}{ms:9.2f}{ms / base:10.2f}{authors:11.1f}")
        del runs
        ctypes.CDLL(None).malloc_trim(0)


if __name__ == "__main__":
    main()
