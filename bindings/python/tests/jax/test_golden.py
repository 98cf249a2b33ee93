"""The trajectories of the authors' own programs, through optax's interface:
within the bounds of tests/golden/README.md."""

import itertools
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest
from common import combinations, enable_x64, nothing
from sonew.jax import adam_for_vectors, fused_sonew, sonew

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from trajectories import FILES, bound, read  # noqa: E402

TYPES = ["float32", "float64"]
UPDATES = {"sonew": "sonew", "adam": adam_for_vectors}


def begin(name, double):
    """A run, its options, and its first parameters."""
    run = read(name)
    options = {**run.options, "update": UPDATES[run.vectors]}
    return run, options, arrays(run.start, double)


def arrays(listed, double):
    return [jnp.asarray(x, jnp.float64 if double else jnp.float32) for x in listed]


# In jax.numpy these compile for seconds, or differ from others in the graft alone.
SLOW = (
    "jax_band8_graft0", "jax_band8_graft1", "jax_band4_graft0", "jax_band3_graft1", "jax_band2_graft0",
    "torch_tds_many",
)  # fmt: skip


def is_first(name, double):
    """Whether the short form has this type of a file by `sonew`; it has the other by `fused_sonew`."""
    return FILES.index(name) % 2 == double


def cases():
    for name, implementation, double in itertools.product(FILES, ("custom_call", "pure"), (False, True)):
        ours = implementation == "custom_call"
        marks = [pytest.mark.smoke] if ours else []
        # In jax.numpy most are in float64 alone.
        in_short = name not in SLOW and double != (name in ("torch_tds_vector", "torch_tds_two"))
        if not (is_first(name, double) if ours else in_short):
            marks.append(pytest.mark.long)
        case = f"{name}-{implementation}-{TYPES[double]}"
        yield pytest.param(name, implementation, double, marks=marks, id=case)


@pytest.mark.parametrize("name, implementation, double", list(cases()))
def test_follows(name, implementation, double):
    with enable_x64() if double else nothing():
        run, options, start = begin(name, double)
        optimizer = sonew(run.lr, implementation=implementation, **options)
        params, state = start, optimizer.init(start)
        update = jax.jit(optimizer.update)

        def step(grads):
            nonlocal params, state
            updates, state = update(arrays(grads, double), state, params)
            params = optax.apply_updates(params, updates)
            return params

        assert run.error(step) <= bound(name, double)


@pytest.mark.parametrize(
    *combinations(lambda *case: not is_first(*case), name=FILES, double=[False, True]),
    ids=lambda x: TYPES[x] if isinstance(x, bool) else x,
)
def test_the_fused_step_follows(name, double):
    with enable_x64() if double else nothing():
        run, options, start = begin(name, double)
        optimizer = fused_sonew(run.lr, implementation="custom_call", **options)
        params, state = start, optimizer.init(start)
        fused = jax.jit(optimizer.step)

        def step(grads):
            nonlocal params, state
            params, state = fused(params, arrays(grads, double), state)
            return params

        assert run.error(step) <= bound(name, double)
