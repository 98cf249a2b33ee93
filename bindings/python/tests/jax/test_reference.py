"""The implementation that benchmarks compare with does what the authors' does."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest
from common import enable_x64
from test_golden import arrays, begin

PATH = Path(__file__).resolve().parents[2] / "benches" / "jax" / "reference.py"


def reference():
    spec = importlib.util.spec_from_file_location("reference", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["jax_tds_graft0", "jax_tds_graft1"])
def test_follows_the_authors_trajectories(name):
    with enable_x64():
        run, options, start = begin(name, double=True)
        optimizer = reference().tridiagonal(
            run.lr,
            beta1=options["beta1"],
            beta2=options["beta2"],
            eps=options["eps"],
            graft=options["graft"] == "adam",
            graft_eps=options["graft_eps"],
            relative=options["damping"] == "relative",
        )
        params, state = start, optimizer.init(start)

        def step(grads):
            nonlocal params, state
            updates, state = jax.jit(optimizer.update)(arrays(grads, True), state)
            params = optax.apply_updates(params, updates)
            return params

        assert run.error(step) < 1e-11
