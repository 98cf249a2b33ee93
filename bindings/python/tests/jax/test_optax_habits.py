"""The checks that optax's own shared tests give to every optimizer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from common import bits, combinations, enable_x64, largest_difference, random_tree
from sonew.jax import ScaleBySonewState, adam_for_vectors, fused_sonew, scale_by_sonew, sonew

OPTIONS = [
    {},
    {"band": 0},
    {"band": 4, "graft": "normalized_rmsprop"},
    {"damping": "relative", "eps": 1e-4},
    {"statistics": "weighted_sum", "eps": 1e-2},
]


def parabola():
    target = jnp.array([1.0, -2.0])
    return jnp.zeros(2), target, lambda x: jnp.sum((x - target) ** 2)


def rosenbrock():
    target = jnp.array([1.0, 1.0])
    return jnp.zeros(2), target, lambda x: (1 - x[0]) ** 2 + 100.0 * (x[1] - x[0] ** 2) ** 2


def is_short(problem, options, implementation):
    """Both problems by default; other options with one of them, and few of these in jax.numpy."""
    number = OPTIONS.index(options)
    by_turns = problem is (parabola, rosenbrock)[number % 2]
    return number == 0 or by_turns and (implementation == "custom_call" or number == 4)


@pytest.mark.parametrize(
    *combinations(
        is_short, problem=[parabola, rosenbrock], options=OPTIONS, implementation=["custom_call", "pure"]
    ),
    ids=lambda x: getattr(x, "__name__", str(x)),
)
def test_converges(problem, options, implementation):
    start, target, loss = problem()
    # A step of constant norm circles the target, so the rate decays, as in real
    # use. With summed statistics steps become shorter without that.
    rate = 0.3 if "statistics" in options else 5e-2
    schedule = optax.cosine_decay_schedule(rate, 2000)
    optimizer = sonew(schedule, implementation=implementation, **options)

    @jax.jit
    def train(x):
        def step(carry, _):
            x, state = carry
            updates, state = optimizer.update(jax.grad(loss)(x), state, x)
            return (optax.apply_updates(x, updates), state), None

        return jax.lax.scan(step, (x, optimizer.init(x)), None, length=2000)[0][0]

    assert np.allclose(train(start), target, rtol=2e-2, atol=2e-2)


def test_does_not_recompile():
    params = random_tree(0, {"w": (3, 2), "b": (2,)})
    optimizer = sonew(optax.exponential_decay(1e-2, 10, 0.9), weight_decay=1e-3)
    traced = 0

    @jax.jit
    def step(params, state):
        nonlocal traced
        traced += 1
        updates, state = optimizer.update(jax.tree.map(jnp.sin, params), state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for _ in range(4):
        params, state = step(params, state)
    assert traced == 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_types_and_structure_stay(dtype):
    with enable_x64():
        params = random_tree(1, {"w": (3, 2), "b": (2,)}, jnp.dtype(dtype))
        for optimizer in (sonew(1e-2), sonew(1e-2, weight_decay=0.1, band=3)):
            state = optimizer.init(params)
            updates, after = jax.jit(optimizer.update)(params, state, params)
            assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
                lambda x: (x.shape, x.dtype), state
            )
            assert jax.tree.structure(after) == jax.tree.structure(state)
            assert all(u.dtype == dtype for u in jax.tree.leaves(updates))
            wanted = "float64" if dtype == "float64" else "float32"
            assert state[0].momentum["w"].dtype == wanted
        fused = fused_sonew(1e-2)
        after, _ = fused.step(params, params, fused.init(params))
        assert all(p.dtype == dtype for p in jax.tree.leaves(after))


@pytest.mark.parametrize(*combinations(lambda options: OPTIONS.index(options) in (0, 2), options=OPTIONS), ids=str)
def test_in_inject_hyperparams(options):
    params = random_tree(2, {"w": (30, 20), "b": (20,)})
    static = tuple(name for name in ("band",) if name in options)
    plain = sonew(1e-2, **options)
    injected = optax.inject_hyperparams(sonew, static_args=static)(1e-2, **options)
    state, other = plain.init(params), injected.init(params)
    for seed in range(3):
        grads = random_tree(seed, {"w": (30, 20), "b": (20,)})
        updates, state = jax.jit(plain.update)(grads, state, params)
        same, other = jax.jit(injected.update)(grads, other, params)
    # beta1 = 0.9 is another number in float32.
    assert largest_difference(updates, same) < 1e-3

    # A hyperparameter may change without a compilation, also by a schedule.
    update = jax.jit(injected.update)
    other.hyperparams["learning_rate"] = jnp.float32(0.0)
    still, _ = update(grads, other, params)
    assert all(not np.any(u) for u in jax.tree.leaves(still))
    scheduled = optax.inject_hyperparams(sonew)(1e-2, eps=lambda count: 1e-2 * 0.5**count)
    updates, _ = jax.jit(scheduled.update)(grads, scheduled.init(params), params)
    assert all(np.all(np.isfinite(u)) for u in jax.tree.leaves(updates))


def test_a_traced_number_out_of_range_is_refused_on_the_cpu():
    params = jnp.ones(3)
    injected = optax.inject_hyperparams(scale_by_sonew)(implementation="custom_call")
    state = injected.init(params)
    state.hyperparams["beta1"] = jnp.float32(1.5)
    with pytest.raises(Exception, match="options.beta1 is 1.5, must be in"):
        jax.block_until_ready(jax.jit(injected.update)(params, state, params))


def test_an_int_that_is_not_static_is_refused():
    injected = optax.inject_hyperparams(sonew)(1e-2, band=2)
    with pytest.raises(TypeError, match="band .* must be a Python int.*static_args"):
        injected.init(jnp.ones(3))


def test_in_multi_steps():
    """Accumulated gradients are one step with their mean."""
    params = random_tree(3, {"w": (6, 5)})
    grads = [random_tree(seed, {"w": (6, 5)}) for seed in range(6)]
    many = optax.MultiSteps(sonew(1e-2), every_k_schedule=3)
    state, p, update = many.init(params), params, jax.jit(many.update)
    for g in grads:
        updates, state = update(g, state, p)
        p = optax.apply_updates(p, updates)
    once = sonew(1e-2)
    own, q = once.init(params), params
    for i in (0, 3):
        mean = jax.tree.map(lambda *g: sum(g) / 3, *grads[i : i + 3])
        updates, own = jax.jit(once.update)(mean, own, q)
        q = optax.apply_updates(q, updates)
    assert int(state.inner_opt_state[0].count) == 2
    assert largest_difference(p, q) < 1e-5


def test_in_multi_transform_and_masked():
    params = random_tree(4, {"w": (6, 5), "b": (5,)})
    both = optax.multi_transform(
        {"sonew": sonew(1e-2), "adam": optax.adam(1e-2)}, {"w": "sonew", "b": "adam"}
    )
    state = both.init(params)
    updates, state = jax.jit(both.update)(params, state, params)
    alone = sonew(1e-2)
    expected, _ = alone.update({"w": params["w"]}, alone.init({"w": params["w"]}))
    assert bits(updates["w"]) == bits(expected["w"])

    masked = optax.masked(scale_by_sonew(), {"w": True, "b": False})
    updates, _ = masked.update(params, masked.init(params), params)
    assert bits(updates["b"]) == bits(params["b"]) and bits(updates["w"]) != bits(params["w"])


def test_in_other_wrappers():
    params = random_tree(5, {"w": (6, 5)})
    chained = optax.chain(optax.clip_by_global_norm(1.0), sonew(1e-2))
    lookahead = optax.apply_if_finite(chained, max_consecutive_errors=2)
    updates, state = jax.jit(lookahead.update)(params, lookahead.init(params), params)
    assert np.all(np.isfinite(updates["w"]))


def test_maps_over_the_state_by_parameter():
    """What programs use to shard a state as its parameters."""
    params = random_tree(6, {"w": (6, 5), "b": (5,)})
    optimizer = sonew(1e-2, update=adam_for_vectors, band=2, lagged_norms=True)
    state = optimizer.init(params)
    ones = optax.tree_map_params(optimizer, jnp.ones_like, state)
    others = {"count": 1, "skipped": 1, "scalars": 1}
    assert all(np.all(x == 1) for x in jax.tree.leaves(ones[0]._replace(**others)))
    assert int(ones[0].count) == int(ones[0].skipped) == 0
    assert not np.any(ones[0].scalars)


def test_weight_decay_and_its_mask():
    params = random_tree(7, {"w": (6, 5), "b": (5,)})
    plain = sonew(0.1)
    expected, _ = plain.update(params, plain.init(params), params)
    for mask in ({"w": True, "b": False}, lambda p: jax.tree.map(lambda x: x.ndim > 1, p)):
        decaying = sonew(0.1, weight_decay=0.01, mask=mask)
        updates, _ = decaying.update(params, decaying.init(params), params)
        assert bits(updates["b"]) == bits(expected["b"])
        moved = np.asarray(updates["w"] - expected["w"])
        assert np.allclose(moved, -0.1 * 0.01 * params["w"], rtol=1e-3, atol=1e-7)
        fused = fused_sonew(0.1, weight_decay=0.01, mask=mask)
        after, _ = fused.step(params, params, fused.init(params))
        applied = optax.apply_updates(params, updates)
        assert largest_difference(after, applied) < 1e-6
    with pytest.raises(ValueError, match="weight decay needs the parameters"):
        decaying.update(params, decaying.init(params))
    # A step that is skipped does not decay.
    nan = jax.tree.map(lambda x: x * jnp.nan, params)
    updates, _ = decaying.update(nan, decaying.init(params), params)
    assert all(not np.any(u) for u in jax.tree.leaves(updates))


def test_the_count_saturates():
    optimizer = scale_by_sonew()
    state = optimizer.init(jnp.ones(3))
    most = jnp.iinfo(jnp.int32).max
    _, state = optimizer.update(jnp.ones(3), state._replace(count=jnp.int32(most)))
    assert int(state.count) == most


def test_the_state_is_a_named_tuple_of_arrays():
    optimizer = scale_by_sonew(band=2, graft="normalized_rmsprop")
    state = optimizer.init({"w": jnp.ones((3, 2))})
    assert isinstance(state, ScaleBySonewState) and isinstance(state, tuple)
    assert state._fields == (
        "count", "momentum", "diagonal", "bands", "rms", "master", "skipped", "scalars", "pooled"
    )  # fmt: skip
    assert len(jax.tree.leaves(state)) == 1 + 1 + 1 + 2 + 1 + 1 + 1
    assert len(set(x.unsafe_buffer_pointer() for x in jax.tree.leaves(state))) == 8


def test_schedules_of_the_statistics_weight():
    """The paper's form, H <- H + w_t g g^T: two steps by hand."""
    optimizer = scale_by_sonew(
        band=0, beta1=0.0, eps=0.25, damping="absolute", graft="none", statistics="weighted_sum",
        statistics_weight=lambda count: 1 / (1 + count),
    )  # fmt: skip
    g = jnp.array([2.0, -1.0])
    state = optimizer.init(g)
    first, state = optimizer.update(g, state)
    second, state = optimizer.update(g, state)
    assert np.allclose(first, g / (g**2 + 0.25), rtol=1e-6)
    assert np.allclose(second, g / (g**2 * 1.5 + 0.25), rtol=1e-6)


def test_empty_trees_and_leaves():
    optimizer = sonew(0.1)
    assert optimizer.update({}, optimizer.init({}), {})[0] == {}
    params = {"none": jnp.zeros((0, 3)), "some": jnp.ones(2)}
    updates, state = optimizer.update(params, optimizer.init(params), params)
    assert updates["none"].shape == (0, 3) and int(state[0].count) == 1
