"""Leaves that are cut between chains whose correlations are pooled: their parts have the sums of
the whole leaves."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import bits, random_tree
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from sonew.jax import fused_sonew, sonew
from test_sharded_steps import LATE, collectives, needed_by_sums

# More chains than take part in the sums of one step; a cut inside of a group of these; and few
# chains, which are cut along several dimensions.
SHAPES = {"bias": (6,), "few": (5, 4, 6), "in": (6, 520), "out": (520, 4)}
SPECS = {"bias": P(), "few": P(None, "x", "y"), "in": P(None, "x"), "out": P(("x", "y"))}
CHAINS = {"bias": "contiguous", "few": "strided", "in": "strided_lines", "out": "contiguous_lines"}
UPDATES = {name: "adam" if name == "bias" else "sonew" for name in SHAPES}
OPTIONS = {"chains": CHAINS, "update": UPDATES}
BAND, RANK, ALL = ({"pooling": "band", "band": 2}, {"pooling": "rank", "rank": 2}, {"pooling": "all"})
STEPS = 5


def mesh(devices):
    by = {1: (1, 1), 2: (2, 1), 4: (2, 2)}[devices]
    return jax.sharding.Mesh(np.array(jax.devices()[:devices]).reshape(by), ("x", "y"))


def tree(seed, on, specs=SPECS, scale=1.0):
    whole = random_tree(seed, SHAPES, scale=scale)
    return {k: jax.device_put(x, NamedSharding(on, specs[k])) for k, x in whole.items()}


@functools.cache
def made(options, on):
    """An optimizer and its step, which tests share."""
    options = OPTIONS | dict(options)
    optimizer = fused_sonew(1e-2, partition_specs=None if on is None else tree(0, on), **options)
    return optimizer, jax.jit(optimizer.step)


def trained(options, on=None, steps=STEPS):
    place = lambda seed: random_tree(seed, SHAPES) if on is None else tree(seed, on)
    options = {"implementation": "custom_call"} | options
    (optimizer, step), params = made(tuple(options.items()), on), place(0)
    state = optimizer.init(params)
    for i in range(steps):
        params, state = step(params, place(i + 1), state)
    return params, state


def agree(found, expected):
    found, expected = map(jax.tree.leaves, (found, expected))
    for a, b in zip(found, expected, strict=True):
        a, b = np.asarray(a), np.asarray(b)
        # uint32 are words of float64 numbers.
        a, b = (x.view(np.float64) if x.dtype == np.uint32 else x for x in (a, b))
        assert np.allclose(a, b, rtol=1e-4, atol=1e-5)


CASES = [
    (BAND, "custom_call", 2),
    (RANK, "custom_call", 2),
    (BAND, "pure", 2),
    pytest.param(RANK, "pure", 2, marks=pytest.mark.long),
    pytest.param(ALL, "pure", 4, marks=pytest.mark.long),
    pytest.param(ALL, "custom_call", 4, marks=pytest.mark.long),
    pytest.param(RANK | {"non_finite": "unchecked", "nesterov": True}, "custom_call", 4, marks=pytest.mark.long),
    pytest.param(BAND | {"damping": "relative", "graft": "none"}, "custom_call", 4, marks=pytest.mark.long),
]  # fmt: skip


@pytest.mark.parametrize("pooling, implementation, devices", CASES, ids=str)
def test_parts_have_the_results_of_one_device(pooling, implementation, devices):
    # Of one device by the custom call alone.
    found, expected = trained({"implementation": implementation} | pooling, mesh(devices)), trained(pooling)
    agree(found, expected)
    # All devices have the same bits of the sums.
    for sums in jax.tree.leaves(found[1].pooled):
        assert sums.sharding.is_fully_replicated
        assert len({bits(shard.data)[0] for shard in sums.addressable_shards}) == 1


@pytest.mark.long
def test_on_a_mesh_with_explicit_axes_and_under_shard_map():
    options = OPTIONS | BAND
    expected = trained(BAND, mesh(4), 2)
    kind = jax.sharding.AxisType.Explicit
    explicit = jax.sharding.Mesh(mesh(4).devices, ("x", "y"), axis_types=(kind,) * 2)
    assert bits(trained(BAND, explicit, 2)) == bits(expected)

    nest = fused_sonew(1e-2, partition_specs=SPECS, **options)
    params = tree(0, mesh(4))
    state = nest.init(params)
    own = type(state)(P(), SPECS, SPECS, (), (), (), pooled=P())
    step = jax.shard_map(
        nest.step, mesh=mesh(4), in_specs=(SPECS, SPECS, own), out_specs=(SPECS, own), check_vma=False
    )
    for i in range(2):
        params, state = jax.jit(step)(params, tree(i + 1, mesh(4)), state)
    assert bits((params, state)) == bits(expected)


def test_as_an_optax_optimizer():
    params, grads = tree(0, mesh(2)), tree(1, mesh(2))
    optimizer = sonew(1e-2, partition_specs=params, **OPTIONS | BAND)
    updates, state = jax.jit(optimizer.update)(grads, optimizer.init(params), params)
    expected, _ = trained(BAND, mesh(2), 1)
    agree({name: params[name] + u for name, u in updates.items()}, expected)
    assert all(updates[name].sharding.is_equivalent_to(x.sharding, x.ndim) for name, x in params.items())


@pytest.mark.parametrize("implementation", ["custom_call", pytest.param("pure", marks=pytest.mark.long)])
def test_a_skipped_step_adds_nothing(implementation):
    """The sums of the step before, which are those of all parts, stay as they are."""
    params = tree(0, mesh(2))
    options = OPTIONS | RANK | {"implementation": implementation}
    optimizer = fused_sonew(1e-2, partition_specs=params, **options)
    step = jax.jit(optimizer.step)
    params, state = step(params, tree(1, mesh(2)), optimizer.init(params))
    grads = tree(2, mesh(2))
    grads["in"] = grads["in"].at[0, 0].set(jnp.nan)
    found, after = step(params, grads, state)
    assert int(after.skipped) == 1
    assert bits((found, after._replace(skipped=0))) == bits((params, state._replace(skipped=0)))


def test_one_collective_more_adds_the_sums_of_the_step_alone():
    """Of all leaves; each set has (band + 1) L numbers."""
    params = tree(0, mesh(4))
    optimizer = fused_sonew(1e-2, partition_specs=params, **OPTIONS | BAND | {"non_finite": "unchecked"})
    state = optimizer.init(params)
    text = jax.jit(optimizer.step).lower(params, params, state).compile().as_text()
    assert collectives(text) == ["all-reduce"] * 3
    assert len(re.findall(rf"= f32\[{3 * (5 + 6 + 4)}\]\S* all-reduce(?:-start)?\(", text)) == 1


@pytest.mark.parametrize("pooling", [BAND, pytest.param(RANK, marks=pytest.mark.long)], ids=str)
def test_late_sums_end_where_sums_in_time_do(pooling):
    """Among them those of products."""
    on, params = mesh(2), tree(0, mesh(2))
    options = OPTIONS | LATE | pooling | {"partition_specs": params, "beta2": 0.1}
    waits, late = fused_sonew(1e-2, **options), fused_sonew(1e-2, reduce_late=True, **options)
    (expected, own), (found, state) = ((params, o.init(params)) for o in (waits, late))
    steps, finish = [jax.jit(o.step) for o in (waits, late)], jax.jit(late.finish)
    was_corrected = False
    for i, scale in enumerate([1, 1, 1e-3, 1e-3, 1]):
        grads = tree(i + 1, on, scale=scale)
        expected, own = steps[0](expected, grads, own)
        found, state = steps[1](found, grads, state)
        assert int(state.is_open) == (i > 0)
        # What devices have apart is not in an array of which all have the same.
        for sums in jax.tree.leaves(state.own.pooled):
            assert len({bits(shard.data)[0] for shard in sums.addressable_shards}) == 1
        finished, ended = finish(found, state)
        assert bits((finished, ended.own)) == bits((expected, own))
        assert bits(finish(finished, ended)) == bits((finished, ended))
        was_corrected |= bits(found) != bits(finished)
    assert was_corrected
    # What is saved of a state goes on as one that was in time.
    restored = late.init(params)._replace(own=ended.own)
    found, state = finish(*steps[1](finished, tree(6, on), restored))
    assert bits((found, state.own)) == bits(steps[0](expected, tree(6, on), own))


@pytest.mark.long
def test_a_late_step_waits_for_no_sum_of_products_of_its_own():
    """Outside of the first step's branch there are two collectives, of words and of floats,
    which need the numbers and the sums of the step before alone."""
    params = tree(0, mesh(4))
    options = OPTIONS | LATE | BAND | {"partition_specs": params}
    optimizer = fused_sonew(1e-2, reduce_late=True, **options)
    state = optimizer.init(params)
    _, sums, needed = needed_by_sums(optimizer, params, state)
    assert len(sums) == 2
    arguments = jax.tree.leaves((params, state))
    allowed = [i for i, x in enumerate(arguments) if any(x is y for y in (state.numbers, *state.sums))]
    assert needed == allowed


REFUSED = [
    ("in", P("x"), {}, "cuts 'in' along its dimension 0, where its chains run"),
    ("out", P(None, "x"), {}, "cuts 'out' along its dimension 1, where its chains run"),
    ("in", P(None, "x"), {"lagged_norms": False}, "cuts 'in', whose correlations are pooled, and"),
]


@pytest.mark.parametrize("name, spec, options, message", REFUSED, ids=str)
def test_cuts_that_need_more_than_sums_of_the_step_before_are_refused(name, spec, options, message):
    params = tree(0, mesh(2), SPECS | {"out": P(), "in": P(), "few": P(), name: spec})
    optimizer = fused_sonew(1e-2, partition_specs=params, **OPTIONS | BAND | options)
    with pytest.raises(ValueError, match=message):
        optimizer.init(params)


def test_many_units_of_several_dimensions_are_cut_along_the_first_of_these():
    on = mesh(2)
    place = lambda spec: {"w": jax.device_put(np.ones((3, 20, 20), np.float32), NamedSharding(on, spec))}
    params = place(P(None, None, "x"))
    optimizer = fused_sonew(1e-2, partition_specs=params, **BAND)
    with pytest.raises(ValueError, match=r"cuts 'w' along its dimensions \(2,\), and its 400 chains"):
        optimizer.step(params, params, optimizer.init(params))
    params = place(P(None, "x"))
    optimizer = fused_sonew(1e-2, partition_specs=params, **BAND)
    jax.jit(optimizer.step)(params, params, optimizer.init(params))
