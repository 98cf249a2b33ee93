"""The custom call against the same step in jax.numpy, on random trees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import bits, combinations, enable_x64, largest_difference, nothing
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sonew.jax import _bits, fused_sonew, scale_by_sonew

shapes = st.lists(st.integers(1, 9), max_size=4).map(tuple)
trees = st.recursive(
    shapes, lambda inner: st.lists(inner, min_size=1, max_size=3), max_leaves=5
)
chains = st.sampled_from(["contiguous", "strided", "contiguous_lines", "strided_lines"])
options = st.fixed_dictionaries(
    {
        "band": st.integers(0, 6),
        "beta1": st.sampled_from([0.0, 0.5, 0.9]),
        "beta2": st.sampled_from([0.0, 0.9, 0.999]),
        "eps": st.sampled_from([1e-2, 1.0]),
        "gamma": st.sampled_from([0.0, 1e-2, 0.3]),
        "graft": st.sampled_from(["none", "sgd", "momentum", "adam", "normalized_rmsprop"]),
        "damping": st.sampled_from(["absolute", "relative", "relative_lagged"]),
        "bias_correction": st.booleans(),
        "graft_bias_correction": st.booleans(),
        "lagged_norms": st.booleans(),
        "nesterov": st.booleans(),
        "pooling": st.sampled_from(["none", "band", "rank", "all"]),
        "rank": st.sampled_from([1, 3, 16]),
        "shrink": st.sampled_from([0.04, 0.5]),
        "clip_norm": st.sampled_from([None, 0.5, 100.0]),
        "non_finite": st.sampled_from(["skip", "unchecked"]),
        "update": st.sampled_from(["sonew", "adam"]),
        "chains": chains,
    }
)


def fill(tree, rng, dtype):
    if isinstance(tree, tuple):
        return jnp.asarray(rng.standard_normal(tree), dtype)
    return [fill(inner, rng, dtype) for inner in tree]


def both(tree, options, dtype, seed, steps=3):
    """Directions and states of both implementations."""
    outcomes = []
    for implementation in ("custom_call", "pure"):
        rng = np.random.default_rng(seed)
        optimizer = scale_by_sonew(implementation=implementation, **options)
        state, update = optimizer.init(fill(tree, rng, dtype)), jax.jit(optimizer.update)
        for _ in range(steps):
            updates, state = update(fill(tree, rng, dtype), state)
        outcomes.append((updates, state))
    return outcomes


# Values that other tests of the step in jax.numpy do not have, in every run.
SOME_OPTIONS = {
    "band": 2,
    "beta1": 0.5,
    "beta2": 0.9,
    "eps": 1e-2,
    "gamma": 0.3,
    "graft": "momentum",
    "damping": "relative",
    "bias_correction": False,
    "graft_bias_correction": True,
    "lagged_norms": False,
    "nesterov": True,
    "pooling": "none",
    "rank": 2,
    "shrink": 0.04,
    "clip_norm": 0.5,
    "non_finite": "skip",
    "update": "sonew",
    "chains": "contiguous_lines",
}
OTHERS = SOME_OPTIONS | {
    "band": 6,
    "gamma": 1e-2,
    "graft": "adam",
    "damping": "absolute",
    "bias_correction": True,
    "graft_bias_correction": False,
    "lagged_norms": True,
    "clip_norm": None,
    "non_finite": "unchecked",
    "chains": "strided_lines",
}
POOLED = SOME_OPTIONS | {"pooling": "band", "band": 5, "gamma": 1e-2, "chains": "contiguous"}
TREE = [(7, 9), [(2, 3, 8), (5,), (), (0, 4)]]


@pytest.mark.long
# The number of examples is in conftest.py.
@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(trees, options, st.integers(0, 2**32))
@example(TREE, SOME_OPTIONS, 0)
@example(TREE, OTHERS, 0)
@example(TREE, POOLED, 0)
@example(TREE, POOLED | {"pooling": "all"}, 0)
@example(TREE, OTHERS | {"pooling": "rank"}, 0)
def test_random_trees_in_float64(tree, options, seed):
    """In float64, where rounding decides nothing but what is within 1e-9 of an
    edge's removal."""
    with enable_x64():
        (ours, our_state), (pure, pure_state) = both(tree, options, jnp.float64, seed)
        # A direction is what is left of a column that may be close to those before it.
        bound = 1e-9 if options["pooling"] == "rank" else 1e-12
        assert largest_difference(our_state, pure_state) < bound
        assert largest_difference(ours, pure) < 1e-8


@pytest.mark.smoke
@pytest.mark.parametrize(
    *combinations(
        lambda dtype, state_dtype: (state_dtype is None) == (dtype != "float32"),
        dtype=["float32", "bfloat16", "float16"],
        state_dtype=[None, "bfloat16"],
    )
)
def test_other_types(dtype, state_dtype):
    options = {"state_dtype": state_dtype, "eps": 1e-2, "band": 2, "rounding": "stochastic"}
    (ours, our_state), (pure, pure_state) = both(
        [(50, 40), [(9,)]], options, jnp.dtype(dtype), 1, steps=1
    )
    ulp = {"float32": 1e-4, "bfloat16": 2**-7, "float16": 2**-9}[dtype]
    assert largest_difference(ours, pure) < ulp
    assert largest_difference(our_state, pure_state) < (2**-7 if state_dtype else 1e-6)


def test_stochastic_rounding_takes_the_same_random_bits():
    """Numbers that both compute exactly: what differs would be the noise."""
    optimizers = [
        fused_sonew(
            0.0,
            beta1=0.5,
            beta2=0.0,
            state_dtype="bfloat16",
            rounding="stochastic",
            seed=2**64 - 3,
            implementation=implementation,
        )
        for implementation in ("custom_call", "pure")
    ]
    rng = np.random.default_rng(1)
    grads = {"a": jnp.asarray(rng.standard_normal((64, 33)), jnp.float32)}
    states = [o.step(grads, grads, o.init(grads))[1] for o in optimizers]
    assert bits(states[0].momentum) == bits(states[1].momentum)
    exact = np.asarray(grads["a"]) / 2
    rounded = np.asarray(states[0].momentum["a"], np.float32)
    assert 0.3 < np.mean(rounded > exact) < 0.7


def test_a_gradient_that_is_not_finite_is_skipped_by_both():
    grads = {"a": jnp.ones((4, 3)), "b": jnp.array([1.0, jnp.nan])}
    for implementation in ("custom_call", "pure"):
        optimizer = fused_sonew(0.1, implementation=implementation)
        params = {"a": jnp.ones((4, 3)), "b": jnp.ones(2)}
        state = optimizer.init(params)
        skipped = state._replace(skipped=jnp.int32(1))
        after = optimizer.step(params, grads, state)
        assert bits(after) == bits((params, skipped))
        scaled = scale_by_sonew(implementation=implementation)
        updates, after = scaled.update(grads, state)
        assert bits(after) == bits(skipped)
        assert all(not np.any(u) for u in jax.tree.leaves(updates))
        unchecked = scale_by_sonew(implementation=implementation, non_finite="unchecked")
        updates, after = unchecked.update(grads, state)
        assert int(after.count) == 1 and np.all(np.isfinite(updates["a"]))


@pytest.mark.parametrize("x64", [False, True])
def test_words_of_float64_numbers(x64):
    with enable_x64() if x64 else nothing():
        numbers = [0.0, -0.0, 1.0, -2.5, 3.1e-38, 3.4e38, np.inf, -np.inf, np.nan]
        floats = jnp.asarray(numbers, jnp.float32)
        words = np.asarray(jax.jit(_bits.from_float)(floats))
        expected = np.asarray(floats).astype(np.float64).view(np.uint32).reshape(-1, 2)
        finite = ~np.isnan(numbers)
        assert np.array_equal(words[finite], expected[finite])
        to_float = jax.jit(lambda words: _bits.to_float(words, jnp.float32))
        back = np.asarray(to_float(jnp.asarray(words)))
        assert back.tobytes() == np.asarray(floats).tobytes()
        # What float32 cannot hold is rounded to nearest.
        wide = np.array([1 + 2**-24 + 2**-40, 1 + 2**-30, 1e300, 1e-300, np.pi])
        words = jnp.asarray(wide.view(np.uint32).reshape(-1, 2))
        back = np.asarray(to_float(words))
        with np.errstate(over="ignore"):
            assert np.array_equal(back, wide.astype(np.float32))
