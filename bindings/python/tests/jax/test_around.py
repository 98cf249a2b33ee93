"""Checkpoints of states that stand in those of optax's wrappers."""

import functools
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from common import bits, random_tree
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from safetensors import safe_open
from sonew.jax import LibraryError, fused_sonew, load, save, scale_by_sonew, sonew
from sonew.jax._around import KEY

SHAPES = {"w": (6, 5), "b": (5,), "e": (8, 2)}
SCHEDULE = optax.linear_schedule(1e-2, 0, 20)


def labels(params):
    return {name: {"w": "sonew", "b": "adam", "e": "none"}[name] for name in params}


def inner(**options):
    return optax.inject_hyperparams(sonew, static_args=("band",))(SCHEDULE, **options)


WRAPPED = {
    "chain": lambda: optax.chain(optax.clip_by_global_norm(1.0), sonew(SCHEDULE)),
    "inject": lambda: inner(),
    "inject schedules": lambda: inner(eps=lambda n: 1e-3 * 0.5**n),
    "accumulate": lambda: optax.MultiSteps(sonew(SCHEDULE), every_k_schedule=2),
    "accumulate within": lambda: optax.MultiSteps(inner(), every_k_schedule=4),
    "masked": lambda: optax.masked(sonew(SCHEDULE), {"w": True, "b": False, "e": True}),
    "masked subtree": lambda: optax.masked(inner(), lambda p: {n: x.ndim > 1 for n, x in p.items()}),
    "groups": lambda: optax.multi_transform(
        {"sonew": inner(), "adam": optax.adamw(SCHEDULE), "none": optax.set_to_zero()}, labels
    ),
    "all": lambda: optax.MultiSteps(
        optax.chain(
            optax.add_noise(0.1, 0.5, jax.random.key(3)),
            optax.masked(inner(), {"w": True, "b": False, "e": False}),
            optax.masked(optax.sgd(0.1, momentum=0.9), {"w": False, "b": True, "e": True}),
            optax.ema(0.9),
        ),
        every_k_schedule=3,
    ),
    "finite": lambda: optax.apply_if_finite(sonew(SCHEDULE), max_consecutive_errors=3),
    "averaged": lambda: optax.contrib.schedule_free(scale_by_sonew(), 1e-2),
    "fused": lambda: fused_sonew(SCHEDULE),
}


def compiled(optimizer):
    """A step of either kind. It is compiled once for all runs that are given it: some
    wrappers make another function each time that they are asked for theirs."""
    if hasattr(optimizer, "step"):
        return jax.jit(optimizer.step)
    update = jax.jit(optimizer.update)

    def step(params, grads, state):
        updates, state = update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step


@functools.lru_cache(maxsize=1)
def made(name):
    """An optimizer and its step, which runs with and without skipped steps share."""
    optimizer = WRAPPED[name]()
    return optimizer, compiled(optimizer)


def train(step, params, state, seeds, spoilt=()):
    for seed in seeds:
        grads = random_tree(seed, SHAPES)
        if seed in spoilt:
            grads["w"] = grads["w"].at[0, 0].set(jnp.nan)
        params, state = step(params, grads, state)
    return params, state


@pytest.mark.smoke
@pytest.mark.parametrize("spoilt", [(), (2, 4)], ids=["", "skipped"])
@pytest.mark.parametrize("name", WRAPPED)
def test_a_run_goes_on_as_if_it_had_not_stopped(tmp_path, name, spoilt):
    """Seven steps, of which some may be skipped, and then five more: from a file that
    is loaded into a new optimizer, the same bits."""
    path = tmp_path / "x.safetensors"
    (optimizer, step), params = made(name), random_tree(99, SHAPES)
    half = train(step, params, optimizer.init(params), range(7), spoilt)
    save(path, *half)
    fresh = random_tree(98, SHAPES)
    loaded = load(path, fresh, WRAPPED[name]().init(fresh))
    plain = lambda tree: [jax.random.key_data(x) if "key" in str(x.dtype) else x for x in jax.tree.leaves(tree)]
    assert bits(plain(loaded)) == bits(plain(half))
    again, never = (train(step, *start, range(7, 12)) for start in (loaded, half))
    assert bits(plain(again)) == bits(plain(never))
    # Nothing else is left beside the file, and other programs can read it.
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]
    with safe_open(path, "numpy") as file:
        assert np.array_equal(file.get_tensor("w/parameter"), half[0]["w"])
    # Once more, over the file that is there.
    save(path, *never)
    assert bits(plain(load(path, *half))) == bits(plain(never))


def test_a_schedule_goes_on_after_six_steps(tmp_path):
    path = tmp_path / "x.safetensors"
    schedule = optax.linear_schedule(1e-2, 0, 10)
    params, optimizer = random_tree(0, SHAPES), optax.inject_hyperparams(sonew)(schedule)
    step = compiled(optimizer)
    params, state = train(step, params, optimizer.init(params), range(6))
    save(path, params, state)
    loaded = load(path, params, optimizer.init(params))
    _, state = train(step, *loaded, [6])
    assert np.isclose(state.hyperparams["learning_rate"], 0.004)


def test_a_file_of_another_program_sets_the_counts(tmp_path):
    """As one that was saved from SONew's state alone, where it has no more."""
    path = tmp_path / "x.safetensors"
    params, optimizer = random_tree(0, SHAPES), scale_by_sonew()
    params, own = train(compiled(optimizer), params, optimizer.init(params), range(6))
    save(path, params, own)
    chained = optax.chain(optax.clip(1.0), inner())
    _, state = load(path, params, chained.init(params))
    assert state[1].count == 6 and state[1].hyperparams_states["learning_rate"].count == 6
    many = optax.MultiSteps(sonew(SCHEDULE), every_k_schedule=3)
    _, state = load(path, params, many.init(params))
    assert state.gradient_step == state.inner_opt_state[1].count == 6 and state.mini_step == 0
    with pytest.raises(ValueError, match=r"state\[1\].ema\['b'\] is not of SONew's state"):
        load(path, params, optax.chain(scale_by_sonew(), optax.ema(0.9)).init(params))
    averaged = optax.chain(scale_by_sonew(), optax.ema(0.9))
    _, state = load(path, params, averaged.init(params), common_tensors_only=True)
    assert state[0].count == 6 and state[1].count == 0


def test_what_is_not_on_both_sides_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    params = random_tree(0, SHAPES)
    averaged, masked = optax.chain(sonew(0.1), optax.ema(0.9)), WRAPPED["masked"]()
    save(path, params, averaged.init(params))
    with pytest.raises(ValueError, match=r"state\[1\].ema\['b'\] is in the file, but not in"):
        load(path, params, sonew(0.1).init(params))
    own = sonew(0.1).init(params)
    assert load(path, params, own, common_tensors_only=True)[1][0].count == 0
    wide = {**params, "w": jnp.ones((5, 6))}
    save(path, params, masked.init(params))
    other = {**params, "b": jnp.ones(4)}
    with pytest.raises(ValueError, match=r"params\['b'\] is float32\[5\] in the file, but .*\[4\]"):
        load(path, other, masked.init(other))
    with pytest.raises(LibraryError, match="w"):
        load(path, wide, masked.init(wide))
    # Counts of schedules that nothing here has do not matter.
    save(path, params, sonew(SCHEDULE).init(params))
    load(path, params, scale_by_sonew().init(params))


def test_what_cannot_be_saved_is_refused_by_name(tmp_path):
    path = tmp_path / "x.safetensors"
    large = {"w": jnp.arange(2048.0).reshape(2, 1024), "e": jnp.ones((3 << 10, 2048))}
    optimizer = optax.multi_transform(
        {"sonew": sonew(0.1), "adam": optax.adam(0.1)}, {"w": "sonew", "e": "adam"}
    )
    state = optimizer.init(large)
    # Zeros need no room.
    save(path, large, state)
    assert bits(load(path, large, state)) == bits((large, state))
    grads = jax.tree.map(lambda x: jnp.arange(x.size, dtype=x.dtype).reshape(x.shape), large)
    _, state = jax.jit(optimizer.update)(grads, state, large)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"\.mu\['e'\] is not of SONew's state, and too large"):
        save(path, large, state)
    with pytest.raises(TypeError, match=r"state\[1\] is a str, which a file cannot hold"):
        save(path, large, (sonew(0.1).init(large), "x"))
    stacked = jax.vmap(scale_by_sonew().init)({"w": jnp.ones((3, 4, 2))})
    with pytest.raises(ValueError, match="the state has 3 counts, as under jax.vmap"):
        save(path, {"w": jnp.ones((3, 4, 2))}, stacked)
    assert path.read_bytes() == before


def test_a_live_file_in_use_is_not_replaced(tmp_path):
    import fcntl

    path = tmp_path / "x.safetensors"
    params, optimizer = random_tree(0, SHAPES), sonew(SCHEDULE)
    save(path, params, optimizer.init(params))
    before = path.read_bytes()
    with open(path) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(LibraryError, match="in use by another optimizer") as refused:
            save(path, params, optimizer.init(params))
    assert refused.value.status == 420 and path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


def test_a_header_that_was_changed_is_refused(tmp_path):
    """What stands around is covered by the header's checksum."""
    path = tmp_path / "x.safetensors"
    params, optimizer = random_tree(0, SHAPES), sonew(SCHEDULE)
    save(path, params, optimizer.init(params))
    whole = path.read_bytes()
    with safe_open(path, "numpy") as file:
        assert json.loads(file.metadata()[f"sonew.text.{KEY}"])["around"]
    at = whole.index(KEY.encode()) + len(KEY) + 20
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(LibraryError):
        load(path, params, optimizer.init(params))


def test_what_is_loaded_is_where_the_template_is(tmp_path):
    path = tmp_path / "x.safetensors"
    optimizer = sonew(SCHEDULE, band=2)
    params = random_tree(0, {"w": (8, 16), "b": (16,)})
    params, state = params, optimizer.update(params, optimizer.init(params), params)[1]
    save(path, params, state, band=2)
    for kind in (AxisType.Explicit, AxisType.Auto):
        mesh = jax.make_mesh((4,), ("x",), axis_types=(kind,), devices=jax.devices()[:4])
        specs = {"w": P(None, "x"), "b": P("x")}
        place = lambda x, name: jax.device_put(x, NamedSharding(mesh, specs[name]))
        there = {name: place(jnp.zeros_like(x), name) for name, x in params.items()}
        template = there, optimizer.init(there)
        loaded = load(path, *template, band=2)
        assert bits(loaded) == bits((params, state))
        for x, y in zip(jax.tree.leaves(loaded), jax.tree.leaves(template), strict=True):
            assert x.sharding == y.sharding and x.committed == y.committed
        # A template needs no values.
        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), template
        )
        again = load(path, *shapes, band=2)
        assert bits(again) == bits(loaded)
        for x, y in zip(jax.tree.leaves(again), jax.tree.leaves(template), strict=True):
            assert x.sharding == y.sharding
        # Saved from there, too.
        save(tmp_path / "y.safetensors", *loaded, band=2)
        assert bits(load(tmp_path / "y.safetensors", *template, band=2)) == bits(loaded)
    with pytest.raises(TypeError, match="is a ShapeDtypeStruct, which a file cannot hold"):
        save(path, shapes[0], shapes[1], band=2)
