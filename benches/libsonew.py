"""libsonew for a benchmark: the Python package, without being installed, on the library that is
measured."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bindings/python/src"))

import sonew  # noqa: E402


class Library:
    """The shared library."""

    def __init__(self, path):
        os.environ["SONEW_LIBRARY"] = str(path)

    def version(self):
        return sonew.version()


class Optimizer:
    """An optimizer for tensors of these shapes, of which every step is alike."""

    def __init__(self, shapes, *, lr, non_finite, chains, state_dtype, **options):
        tensors = [
            sonew.Tensor(f"tensor {i}", shape, chains=chains, state_dtype=state_dtype)
            for i, shape in enumerate(shapes)
        ]
        self.optimizer = sonew.Optimizer(tensors, **options)
        self.settings = {"lr": lr, "non_finite": non_finite}

    def instruction_set(self):
        return self.optimizer.info().instruction_set.decode()

    def step(self, params, grads):
        """One step over lists of pointers, made by pointers()."""
        self.optimizer.step(params, grads, **self.settings)

    def free(self):
        self.optimizer.close()


def pointers(tensors):
    """Their addresses, as the C API takes them."""
    return sonew.addresses([t.data_ptr() for t in tensors])
