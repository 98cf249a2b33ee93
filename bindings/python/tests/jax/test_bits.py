"""The custom call against the C API: the same bits."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from c_api import Plan
from common import SHAPES, enable_x64, nothing
from sonew.jax import adam_for_vectors, fused_sonew, scale_by_sonew

STEPS = 4
VARIANTS = {
    "default": {},
    "diagonal": {"band": 0, "graft": "sgd"},
    "wide": {"band": 5, "graft": "momentum", "gamma": 0.0},
    "relative": {"damping": "relative", "eps": 1e-4, "chains": "contiguous"},
    "rmsprop": {"band": 2, "graft": "normalized_rmsprop", "chains": "contiguous_lines"},
    "plain": {"graft": "none", "bias_correction": False, "chains": "strided_lines"},
    "vectors": {"update": adam_for_vectors, "graft_bias_correction": False},
    "sum": {"statistics": "weighted_sum", "statistics_weight": 0.5, "eps": 0.1},
    "stochastic": {"state_dtype": "bfloat16", "rounding": "stochastic", "seed": 2**63 + 5},
    "clipped": {"clip_norm": 0.5, "grad_scale": 2.0},
    "lagged": {"lagged_norms": True, "band": 2},
    "absolute": {"damping": "absolute", "eps": 1e-6, "graft_eps": 1e-8},
    "nesterov": {"nesterov": True, "lagged_norms": True, "update": adam_for_vectors},
    "pooled": {"pooling": "band", "band": 20},
    "pooled, its own": {"pooling": "band", "band": 3, "lagged_norms": False, "shrink": 0.2, "damping": "relative"},
    "rank": {"pooling": "rank", "rank": 5},
    "all": {"pooling": "all", "lagged_norms": False, "update": adam_for_vectors},
    "unchecked": {"non_finite": "unchecked", "threads": 1},
}
DTYPES = {
    "float32": (jnp.float32, None),
    "float64": (jnp.float64, None),
    "bfloat16": (jnp.bfloat16, None),
    "float16": (jnp.float16, None),
    "bfloat16 state": (jnp.float32, "bfloat16"),
    "float64 state": (jnp.float32, "float64"),
}
STEP_OPTIONS = ("statistics_weight", "clip_norm", "grad_scale")


def numbers(rng, shape, dtype, tiny):
    x = rng.standard_normal(shape)
    if tiny:
        # Mostly numbers whose squares are subnormal, or zero, in float32.
        x = x * 10.0 ** rng.integers(-24, -17, shape)
    return np.array(x).astype(dtype)


def c_plan(params, options):
    """A plan and zero planes for an optimizer's options, in its own words."""
    own = {k: v for k, v in options.items() if k not in (*STEP_OPTIONS, "non_finite", "threads")}
    chains = own.pop("chains", "strided")
    update = own.pop("update", "sonew")
    state = own.pop("state_dtype", None)
    updates = [update((), p) if callable(update) else update for p in params]
    states = [state or ("float64" if p.dtype == np.float64 else "float32") for p in params]
    states = [jnp.dtype(s) for s in states]
    plan = Plan(params, states, [chains] * len(params), updates, **own)
    pooled = own.get("pooling", "none") != "none"
    band, rms = 0 if pooled else own.get("band", 1), own.get("graft") == "normalized_rmsprop"
    counts = [2 + (band + rms if u == "sonew" else 0) for u in updates]
    planes = [
        [np.zeros(p.shape, s) for _ in range(n)] for p, s, n in zip(params, states, counts)
    ]
    if pooled:
        for p, own_planes, u in zip(params, planes, updates):
            if u == "sonew":
                # The chain is the first dimension.
                own_planes.append(np.zeros(sums_shape(own, p.shape[0] if p.ndim else 1), np.float32))
    return plan, planes


def sums_shape(own, length):
    """The shape of pooled sums."""
    lagged = own.get("lagged_norms", True)
    if own["pooling"] == "rank":
        rank = min(own["rank"], length)
        return (3 * rank + 2 if lagged else 2 * rank + 1, length)
    rows = length if own["pooling"] == "all" else own["band"] + 1
    return (2, rows, length) if lagged else (rows, length)


def planes_of(state, i, leaf):
    """A leaf's planes in a state, in the C API's order."""
    trees = [state.momentum, state.diagonal, *state.bands]
    trees += [state.rms] if state.rms != () else []
    trees += [state.pooled] if state.pooled != () else []
    found = [tree[leaf] for tree in trees]
    return [np.asarray(x) for x in found if not hasattr(x, "_fields")]


def cases():
    for (name, options), dtype in itertools.product(VARIANTS.items(), DTYPES):
        plain = name in ("default", "rmsprop", "relative", "nesterov")
        if dtype == "float32" or plain and "state_dtype" not in options:
            yield pytest.param(name, dtype, id=f"{name}-{dtype}")


@functools.lru_cache(maxsize=1)
def compiled(variant, dtypes):
    """Both kinds of optimizers, and their steps: for tiny numbers the programs are the same."""
    options, state_dtype = VARIANTS[variant], DTYPES[dtypes][1]
    if state_dtype:
        options = {**options, "state_dtype": state_dtype}
    fused = fused_sonew(0.013, weight_decay=0.1, implementation="custom_call", **options)
    scaled = scale_by_sonew(implementation="custom_call", **options)
    return options, fused, scaled, jax.jit(fused.step), jax.jit(scaled.update)


@pytest.mark.smoke
@pytest.mark.parametrize("tiny", [False, True], ids=["normal", "tiny"])
@pytest.mark.parametrize("variant, dtypes", list(cases()))
def test_same_bits_as_the_c_api(variant, dtypes, tiny):
    """Tiny numbers show that the flush-to-zero mode, in which XLA calls
    handlers, does not reach the arithmetic."""
    dtype = DTYPES[dtypes][0]
    double = "float64" in dtypes
    with enable_x64() if double else nothing():
        options, fused, scaled, step, update = compiled(variant, dtypes)
        rng = np.random.default_rng(1)
        names = sorted(SHAPES)
        start = {name: numbers(rng, SHAPES[name], dtype, False) for name in names}
        params = jax.tree.map(jnp.asarray, start)
        state, other = fused.init(params), scaled.init(params)

        c_params = [start[name].copy() for name in names]
        c_directions = [np.empty_like(p) for p in c_params]
        plan, c_planes = c_plan(c_params, options)
        plan_u, c_planes_u = c_plan(c_params, options)
        step_options = {k: options[k] for k in STEP_OPTIONS if k in options}
        step_options["non_finite"] = options.get("non_finite") == "unchecked"
        with plan, plan_u:
            for number in range(1, STEPS + 1):
                grads = {name: numbers(rng, SHAPES[name], dtype, tiny) for name in names}
                c_grads = [grads[name] for name in names]
                params, state = step(params, grads, state)
                updates, other = update(grads, other)
                status = plan.step(
                    number, c_grads, c_planes, params=c_params, lr=0.013, weight_decay=0.1, **step_options
                )
                assert status == 0
                status = plan_u.step(
                    number, c_grads, c_planes_u, directions=c_directions, **step_options
                )
                assert status == 0
                for i, name in enumerate(names):
                    assert np.asarray(params[name]).tobytes() == c_params[i].tobytes(), name
                    assert np.asarray(updates[name]).tobytes() == c_directions[i].tobytes(), name
                    for ours, c in zip(planes_of(state, i, name), c_planes[i], strict=True):
                        assert ours.tobytes() == c.tobytes(), name
                    for ours, c in zip(planes_of(other, i, name), c_planes_u[i], strict=True):
                        assert ours.tobytes() == c.tobytes(), name
                    if len(state.scalars):
                        for own, c in ((state, plan), (other, plan_u)):
                            kept = np.asarray(own.scalars)[i].view(np.float64)[:, 0]
                            assert list(kept) == [c.scalars[i][0], c.scalars[i][3]], name
        assert int(state.count) == int(other.count) == STEPS


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_master_weights(dtype):
    rng = np.random.default_rng(2)
    start = numbers(rng, (50, 40), jnp.dtype(dtype), False)
    optimizer = fused_sonew(1e-3, master_weights=True, implementation="custom_call")
    params = {"w": jnp.asarray(start)}
    state = optimizer.init(params)
    c_params = [start.copy()]
    plan = Plan(c_params, ["float32"], ["strided"], ["sonew"], master=True)
    planes = [[np.zeros(start.shape, np.float32) for _ in range(3)] + [start.astype(np.float32)]]
    with plan:
        for number in range(1, STEPS + 1):
            grad = numbers(rng, start.shape, start.dtype, False)
            params, state = jax.jit(optimizer.step)(params, {"w": jnp.asarray(grad)}, state)
            assert plan.step(number, [grad], planes, params=c_params, lr=1e-3) == 0
        assert np.asarray(params["w"]).tobytes() == c_params[0].tobytes()
        assert np.asarray(state.master["w"]).tobytes() == planes[0][3].tobytes()


def test_a_traced_learning_rate_is_the_float32_number():
    rng = np.random.default_rng(3)
    start, grad = (numbers(rng, (300, 200), np.float32, False) for _ in range(2))

    @jax.jit
    def step(params, grads, state, lr):
        return fused_sonew(lr, implementation="custom_call").step(params, grads, state)

    state = fused_sonew(1.0).init(jnp.asarray(start))
    params, _ = step(jnp.asarray(start), jnp.asarray(grad), state, jnp.float32(0.1))
    c_params, planes = [start.copy()], [[np.zeros_like(start) for _ in range(3)]]
    with Plan(c_params, ["float32"], ["strided"], ["sonew"]) as plan:
        assert plan.step(1, [grad], planes, params=c_params, lr=float(np.float32(0.1))) == 0
    assert np.asarray(params).tobytes() == c_params[0].tobytes()


def test_scales_of_the_learning_rate():
    rng = np.random.default_rng(4)
    start, grad = ([numbers(rng, s, np.float32, False) for s in ((60, 50), (9,))] for _ in range(2))
    optimizer = fused_sonew(0.1, learning_rate_scale=[0.5, 3.0], implementation="custom_call")
    params = [jnp.asarray(p) for p in start]
    params, _ = jax.jit(optimizer.step)(params, [jnp.asarray(g) for g in grad], optimizer.init(params))
    c_params = [p.copy() for p in start]
    planes = [[np.zeros_like(p) for _ in range(3)] for p in start]
    with Plan(c_params, ["float32"] * 2, ["strided"] * 2, ["sonew"] * 2) as plan:
        assert plan.step(1, grad, planes, params=c_params, lr=0.1, lr_scales=[0.5, 3.0]) == 0
    for ours, c in zip(params, c_params):
        assert np.asarray(ours).tobytes() == c.tobytes()
