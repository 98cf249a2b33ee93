"""Several devices on the CPU (see conftest.py), in shard_map and without."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from c_api import Plan
from common import bits, combinations, largest_difference, random_tree
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from sonew.jax import ScaleBySonewState, fused_sonew, scale_by_sonew

SHAPES = {"bias": (8,), "kernel": (6, 16), "scalar": ()}
SPECS = {"bias": P("x"), "kernel": P(None, "x"), "scalar": P()}
CHECKS = [False, True]


def mesh(**axes):
    kinds = (jax.sharding.AxisType.Auto,) * len(axes)
    devices = jax.devices()[: int(np.prod(list(axes.values())))]
    return jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=kinds, devices=devices)


def state_specs(state, specs):
    rms = specs if state.rms != () else ()
    bands = tuple(specs for _ in state.bands)
    return ScaleBySonewState(P(), specs, specs, bands, rms, ())


def under_shard_map(optimizer, mesh, specs, check):
    """A compiled step under shard_map, and the parameters and the state that it begins
    with. They are placed as the step leaves them, so that it is compiled once."""
    params = random_tree(0, SHAPES)
    state = optimizer.init(params)
    own = state_specs(state, specs)
    step = jax.shard_map(
        optimizer.step,
        mesh=mesh,
        in_specs=(specs, specs, own),
        out_specs=(specs, own),
        check_vma=check,
    )
    places = jax.tree.map(lambda spec: NamedSharding(mesh, spec), (specs, own))
    return jax.jit(step), *jax.device_put((params, state), places)


def run(mesh, specs, options, check=False, steps=3, grads=None):
    """Parameters and state after some steps under shard_map."""
    optimizer = fused_sonew(1e-2, partition_specs=specs, **options)
    step, params, state = under_shard_map(optimizer, mesh, specs, check)
    for i in range(steps):
        g = random_tree(i + 1, SHAPES) if grads is None else grads
        params, state = step(params, g, state)
    return jax.device_get((params, state))


OPTIONS = [
    {},
    {"graft": "none"},
    {"damping": "relative", "eps": 1e-4, "band": 2},
    {"damping": "relative_lagged", "eps": 1e-4, "band": 2, "graft": "none"},
    {"damping": "relative", "graft": "none", "non_finite": "unchecked"},
    {"graft": "normalized_rmsprop", "clip_norm": 0.5},
]


@pytest.mark.smoke
@pytest.mark.parametrize(
    *combinations(lambda options, check: OPTIONS.index(options) % 2 == check, options=OPTIONS, check=CHECKS),
    ids=str,
)
def test_results_do_not_depend_on_replication(options, check):
    """Two parts, each on one device or on two: the same bits."""
    once = run(mesh(x=2), SPECS, options, check)
    twice = run(mesh(x=2, y=2), SPECS, options, check)
    assert bits(once) == bits(twice)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_one_part_is_the_whole(options):
    """A mesh of one device, in stages: the bits of a step that is not cut."""
    optimizer = fused_sonew(1e-2, **options)
    params = random_tree(0, SHAPES)
    state = optimizer.init(params)
    for i in range(3):
        params, state = optimizer.step(params, random_tree(i + 1, SHAPES), state)
    assert bits(run(mesh(x=1), SPECS, options)) == bits((params, state))


# Of a graft and damping alone, the program has what others have, too.
@pytest.mark.parametrize(*combinations(lambda options: OPTIONS.index(options) in (2, 4, 5), options=OPTIONS), ids=str)
def test_the_stages_in_jax_numpy_agree(options):
    options = options | {"eps": 1e-2}
    ours = run(mesh(x=4), SPECS, options)
    pure = run(mesh(x=4), SPECS, options | {"implementation": "pure"})
    assert largest_difference(ours, pure) < 2e-4


def test_parts_keep_their_chains_and_share_their_norm():
    """Compares with steps of the C API on each part alone, without a graft, whose
    norms are then combined here."""
    beta1, beta2, eps = 0.9, 0.99, 1e-8
    grads = random_tree(1, SHAPES)
    # Damping that does not depend on the other part.
    options = {"damping": "absolute", "eps": 1e-6, "graft_eps": eps}
    params, state = run(mesh(x=2), SPECS, options, steps=1, grads=grads)
    start = jax.device_get(random_tree(0, SHAPES))
    for name, axis in [("kernel", 1), ("bias", 0)]:
        parts = np.split(np.asarray(grads[name]), 2, axis)
        directions, squares, reference = [], 0.0, 0.0
        for part in parts:
            part = np.ascontiguousarray(part)
            u, planes = np.empty_like(part), [[np.zeros_like(part) for _ in range(3)]]
            options = {"graft": "none", "damping": "absolute", "eps": 1e-6}
            with Plan([u], ["float32"], ["strided"], ["sonew"], **options) as plan:
                assert plan.step(1, [part], planes, directions=[u]) == 0
            directions.append(u)
            squares += np.sum(u.astype(np.float64) ** 2)
            momentum, diagonal = (plane.astype(np.float64) for plane in planes[0][:2])
            m, v = momentum / (1 - beta1), diagonal / (1 - beta2)
            reference += np.sum((m / (np.sqrt(v) + eps)) ** 2)
        u = np.concatenate(directions, axis) * np.sqrt(reference / squares)
        moved = start[name] - params[name]
        assert np.allclose(moved, 1e-2 * u, rtol=1e-3, atol=1e-6)
    # There are no edges across the cut: the last coordinate of each part, in
    # the order of its chain, has none.
    band = state.bands[0]
    assert np.all(band["kernel"][-1, [7, 15]] == 0) and np.all(band["bias"][[3, 7]] == 0)
    assert np.count_nonzero(band["kernel"]) == 6 * 16 - 2


def test_one_part_with_nan_skips_the_step_everywhere():
    grads = random_tree(1, SHAPES)
    grads["kernel"] = grads["kernel"].at[2, 3].set(jnp.nan)
    params, state = run(mesh(x=2, y=2), SPECS, {}, steps=1, grads=grads)
    assert bits(params) == bits(random_tree(0, SHAPES)) and int(state.count) == 0


@pytest.mark.parametrize("check", [pytest.param(False, marks=pytest.mark.long), True])
def test_directions_of_parts(check):
    """The optax transformation under shard_map."""
    optimizer = scale_by_sonew(partition_specs=SPECS)
    grads = random_tree(1, SHAPES)
    state = optimizer.init(grads)
    own = state_specs(state, SPECS)
    update = jax.shard_map(
        optimizer.update, mesh=mesh(x=2, y=2), in_specs=(SPECS, own), out_specs=(SPECS, own), check_vma=check
    )
    updates, after = jax.jit(update)(grads, state)
    params, same = run(mesh(x=2), SPECS, {}, steps=1, grads=grads)
    assert bits(after) == bits(same)
    start = random_tree(0, SHAPES)
    for name in SHAPES:
        assert np.allclose(start[name] - 1e-2 * updates[name], params[name], atol=1e-6)


def test_arrays_sharded_over_two_axes():
    specs = {"bias": P("x"), "kernel": P("y", "x"), "scalar": P()}
    both = run(mesh(x=2, y=2), specs, {})
    merged = {"bias": P(), "kernel": P(("y", "x")), "scalar": P()}
    assert np.all(np.isfinite(both[0]["kernel"]))
    one = fused_sonew(1e-2, partition_specs=merged)
    params = {"w": jnp.ones((8, 3))}
    spec = {"w": P(("y", "x"))}
    one = fused_sonew(1e-2, partition_specs=spec)
    state = one.init(params)
    own = state_specs(state, spec)
    step = functools.partial(
        jax.shard_map, in_specs=(spec, spec, own), out_specs=(spec, own), check_vma=False
    )
    together = jax.jit(step(one.step, mesh=mesh(x=2, y=2)))(params, params, state)
    spec_z = {"w": P("z")}
    other = fused_sonew(1e-2, partition_specs=spec_z)
    own_z = state_specs(state, spec_z)
    flat = jax.shard_map(
        other.step, mesh=mesh(z=4), in_specs=(spec_z, spec_z, own_z), out_specs=(spec_z, own_z), check_vma=False
    )
    assert bits(together) == bits(jax.jit(flat)(params, params, state))


def test_under_plain_jit_a_sharded_array_is_gathered():
    """What the documentation says: the result is that of the whole array, and
    XLA gathers it. `partition_specs` is the way around."""
    optimizer = fused_sonew(1e-2)
    params = random_tree(0, SHAPES)
    state = optimizer.init(params)
    expected = optimizer.step(params, params, state)
    sharding = NamedSharding(mesh(x=4), P(None, "x"))
    params["kernel"] = jax.device_put(params["kernel"], sharding)
    step = jax.jit(optimizer.step)
    assert "all-gather" in step.lower(params, params, state).compile().as_text()
    assert bits(step(params, params, state)) == bits(expected)


def test_under_plain_jit_a_replicated_array_is_not_gathered():
    optimizer = fused_sonew(1e-2)
    params = random_tree(0, SHAPES)
    state = optimizer.init(params)
    expected = optimizer.step(params, params, state)
    arguments = jax.device_put((params, params, state), NamedSharding(mesh(x=4), P()))
    step = jax.jit(optimizer.step)
    text = step.lower(*arguments).compile().as_text()
    assert not any(word in text for word in ("all-gather", "all-reduce", "collective-permute"))
    assert bits(step(*arguments)) == bits(expected)
