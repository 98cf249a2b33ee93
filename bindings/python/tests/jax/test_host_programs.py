"""What programs around the optimizer pass to it, and where they run it."""

import dataclasses
import functools
import inspect
import os
import subprocess
import sys
import typing
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import sonew.jax as sonew_jax
from common import bits, enable_x64, largest_difference, nothing, random_tree
from jax import export
from jax.sharding import PartitionSpec as P
from sonew.jax import fused_sonew, scale_by_sonew, sonew

SHAPES = {"w": (6, 5), "b": (5,)}


def run(code, *flags, **env):
    done = subprocess.run(
        [sys.executable, *flags, "-c", code],
        env={**os.environ, **env}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_without_docstrings_and_assertions():
    code = "import sonew.jax as s, jax.numpy as jnp; o = s.sonew(1.0, weight_decay=0.1)\n"
    code += "x = jnp.ones(2); print(o.update(x, o.init(x), x)[0].shape)"
    assert run(code, "-OO") == "(2,)\n"


@pytest.mark.parametrize("x64", [False, True])
def test_leaves_of_numpy_and_python(x64):
    with enable_x64() if x64 else nothing():
        rng = np.random.default_rng(0)
        params = {
            "double": rng.standard_normal((3, 4)),
            "single": np.float32(rng.standard_normal(3)),
            "scalar": np.float64(0.5),
            "number": 0.25,
        }
        as_jax = jax.tree.map(jnp.asarray, params)
        for make in (sonew, lambda rate: sonew(rate, weight_decay=0.1)):
            ours, theirs = ((o := make(0.1)).update(p, o.init(p), p) for p in (params, as_jax))
            assert bits(ours) == bits(theirs)
        adam = optax.adam(0.1)
        adams, _ = adam.update(params, adam.init(params), params)
        assert jax.tree.map(jnp.result_type, ours[0]) == jax.tree.map(jnp.result_type, adams)
        fused = fused_sonew(0.1, master_weights=not x64)
        ours, theirs = (fused.step(p, p, fused.init(p)) for p in (params, as_jax))
        assert bits(ours) == bits(theirs)


def test_specs_outside_of_shard_map_are_refused():
    params = random_tree(0, SHAPES)
    for optimizer in (sonew(0.1, partition_specs={"w": P(None, "x"), "b": P()}),):
        state = optimizer.init(params)
        for update in (optimizer.update, jax.jit(optimizer.update)):
            with pytest.raises(ValueError, match="cuts 'w' along the mesh axis 'x'.*shard_map"):
                update(params, state)


def test_none_in_specs_is_a_leaf_that_is_not_cut():
    params = random_tree(0, {"w": (6, 8), "b": (5,)})
    kinds = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((2,), ("x",), axis_types=kinds, devices=jax.devices()[:2])
    outcomes = []
    for bias in (None, P()):
        optimizer = fused_sonew(0.1, partition_specs={"w": P(None, "x"), "b": bias})
        specs = {"w": P(None, "x"), "b": P()}
        own = sonew_jax.ScaleBySonewState(P(), specs, specs, (specs,), (), ())
        step = jax.shard_map(
            optimizer.step, mesh=mesh, in_specs=(specs, specs, own), out_specs=(specs, own), check_vma=False
        )
        outcomes.append(bits(jax.jit(step)(params, params, optimizer.init(params))))
    assert outcomes[0] == outcomes[1]


def test_an_exported_step_in_a_new_process(tmp_path):
    params = random_tree(0, SHAPES)
    optimizer = sonew(0.1)
    flat = lambda w, b: optimizer.update({"w": w, "b": b}, optimizer.init({"w": w, "b": b}))[0]["w"]
    exported = export.export(
        jax.jit(flat),
        disabled_checks=[export.DisabledSafetyCheck.custom_call("sonew_xla_step_v1")],
    )(params["w"], params["b"])
    (tmp_path / "step").write_bytes(exported.serialize())
    np.savez(tmp_path / "params.npz", **params)
    code = f"""
import jax, numpy as np, sonew.jax as sonew_jax
from jax import export
sonew_jax.register()
sonew_jax.register()
step = export.deserialize(bytearray(open({str(tmp_path / "step")!r}, "rb").read()))
params = np.load({str(tmp_path / "params.npz")!r})
print(np.asarray(step.call(params["w"], params["b"])).tobytes().hex())
"""
    assert run(code).strip() == np.asarray(flat(**params)).tobytes().hex()


def test_master_weights_of_what_has_only_a_shape():
    """They have no values, and a step with them is not a number."""
    params = {"w": jax.ShapeDtypeStruct((3, 2), jnp.bfloat16)}
    optimizer = fused_sonew(0.1, master_weights=True)
    state = optimizer.init(params)
    real = optimizer.init({"w": jnp.ones((3, 2), jnp.bfloat16)})
    describe = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    assert describe(state) == describe(real) == describe(jax.eval_shape(optimizer.init, params))
    assert np.all(np.isnan(state.master["w"]))


def test_another_type_of_state_is_refused():
    params = random_tree(0, SHAPES)
    for dtype in ("bfloat16", {"w": "bfloat16", "b": None}, lambda path, leaf: jnp.bfloat16):
        with pytest.raises(TypeError, match="state of '[bw]' is float32, but state_dtype is bfloat16"):
            sonew(0.1, state_dtype=dtype).update(params, sonew(0.1).init(params))
    state = sonew(0.1, state_dtype="bfloat16").init(params)
    with pytest.raises(TypeError, match="state of 'b' is bfloat16, but state_dtype is float32"):
        scale_by_sonew(state_dtype=jnp.float32).update(params, state[0])


def test_kernels_stacked_by_a_scan_are_optimized_by_layer():
    """As the README says: `vmap` over the layers."""
    params = random_tree(0, {"layers": (3, 6, 5)})
    grads = [random_tree(seed, {"layers": (3, 6, 5)}) for seed in (1, 2)]
    one = sonew(0.1, weight_decay=0.1)
    stacked = optax.GradientTransformation(jax.vmap(one.init), jax.vmap(one.update))
    optimizer = optax.multi_transform(
        {"stacked": stacked, "rest": one}, lambda p: {name: "stacked" for name in p}
    )
    p, state = params, optimizer.init(params)
    layers = [{"layers": params["layers"][i]} for i in range(3)]
    states = [one.init(layer) for layer in layers]
    for g in grads:
        updates, state = jax.jit(optimizer.update)(g, state, p)
        p = optax.apply_updates(p, updates)
        for i in range(3):
            updates, states[i] = one.update({"layers": g["layers"][i]}, states[i], layers[i])
            layers[i] = optax.apply_updates(layers[i], updates)
    alone = {"layers": jnp.stack([layer["layers"] for layer in layers])}
    assert largest_difference(p, alone) < 1e-6


def test_annotations():
    """For type checkers; and what optax's own tests look for in a signature."""
    assert (Path(sonew_jax.__file__).parent / "py.typed").exists()
    assert inspect.signature(sonew).parameters["learning_rate"].annotation == optax.ScalarOrSchedule
    for name in sonew_jax.__all__:
        thing = getattr(sonew_jax, name)
        if inspect.isfunction(thing):
            hints = typing.get_type_hints(inspect.unwrap(thing))
            assert set(hints) == {*inspect.signature(thing).parameters, "return"}, name
    assert typing.get_type_hints(scale_by_sonew)["return"] is optax.GradientTransformation
    fields = typing.get_type_hints(sonew_jax.ScaleBySonewState)
    assert set(fields) == set(sonew_jax.ScaleBySonewState._fields)


@pytest.mark.parametrize("implementation", ["custom_call", "pure"])
def test_skipped_steps_are_counted(implementation):
    params = random_tree(0, SHAPES)
    spoilt = jax.tree.map(lambda x: x * jnp.inf, params)
    fused = fused_sonew(0.1, implementation=implementation)
    optimizer = sonew(0.1, implementation=implementation)
    state, other = optimizer.init(params), fused.init(params)
    for grads in (params, spoilt, params, spoilt, spoilt):
        _, state = jax.jit(optimizer.update)(grads, state, params)
        _, other = jax.jit(fused.step)(params, grads, other)
    assert [int(state[0].count), int(state[0].skipped)] == [2, 3]
    assert [int(other.count), int(other.skipped)] == [2, 3]


def test_a_schedule_of_the_weight_decay():
    params = random_tree(0, SHAPES)
    grads = random_tree(1, SHAPES)
    decay = lambda count: 0.5 * 0.25**count
    scheduled, fused = sonew(0.1, weight_decay=decay), fused_sonew(0.1, weight_decay=decay)
    state, other = scheduled.init(params), fused.init(params)
    plain = sonew(0.1)
    own = plain.init(params)
    for weight in (0.5, 0.125, 0.03125):
        without, own = plain.update(grads, own, params)
        updates, state = jax.jit(scheduled.update)(grads, state, params)
        after, other = jax.jit(fused.step)(params, grads, other)
        for name in SHAPES:
            expected = without[name] - 0.1 * weight * params[name]
            assert np.allclose(updates[name], expected, rtol=1e-5, atol=1e-6)
            assert np.allclose(after[name] - params[name], expected, rtol=1e-4, atol=1e-6)


def test_functions_of_leaves_see_the_parameters():
    """In `init` and in steps, also where gradients have another type."""
    params = random_tree(0, SHAPES, jnp.bfloat16)
    grads = random_tree(1, SHAPES, jnp.float32)
    seen = set()

    def look(value):
        def option(path, leaf):
            seen.add((leaf.dtype.name, leaf.shape))
            return value

        return option

    options = {"chains": look("contiguous_lines"), "update": look("sonew"), "state_dtype": look("float32")}
    for optimizer in (sonew(0.1, **options), scale_by_sonew(**options)):
        optimizer.update(grads, optimizer.init(params), params)
    fused = fused_sonew(0.1, learning_rate_scale=look(1.0), **options)
    fused.step(params, grads, fused.init(params))
    assert seen == {("bfloat16", (6, 5)), ("bfloat16", (5,))}


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["w", "b"], meta_fields=["name"]
)
@dataclasses.dataclass
class Module:
    """A tree that is callable, as modules of equinox are."""

    w: typing.Any
    b: typing.Any
    name: str = "linear"

    def __call__(self, x):
        raise AssertionError("it is a tree")


def test_trees_that_are_callable_are_trees():
    plain = random_tree(0, SHAPES)
    params, grads = Module(**plain), Module(**random_tree(1, SHAPES))
    options = {
        "mask": Module(True, False),
        "chains": Module("contiguous_lines", "contiguous"),
        "update": Module("sonew", "adam"),
        "state_dtype": Module("bfloat16", "float32"),
    }
    as_dict = {name: {"w": tree.w, "b": tree.b} for name, tree in options.items()}
    for make, more in [(sonew, {}), (fused_sonew, {"learning_rate_scale": (2.0, 0.5)})]:
        outcomes = []
        for kind, p, g, o in [(Module, params, grads, options), (dict, plain, vars(grads), as_dict)]:
            g = g if kind is Module else {"w": g["w"], "b": g["b"]}
            scales = {name: kind(w=value[0], b=value[1]) for name, value in more.items()}
            optimizer = make(0.1, weight_decay=0.1, **o, **scales)
            state = optimizer.init(p)
            step = optimizer.step if make is fused_sonew else None
            after = step(p, g, state) if step else optimizer.update(g, state, p)
            outcomes.append(after[0])
        assert bits({"w": outcomes[0].w, "b": outcomes[0].b}) == bits(outcomes[1])


def test_the_step_in_jax_numpy_is_not_traced_for_the_cpu(monkeypatch):
    """It takes much longer to trace than the whole of Adam."""
    from sonew.jax import _pure

    def refuse(*_):
        raise AssertionError("it was traced")

    monkeypatch.setattr(_pure, "step", refuse)
    params = random_tree(0, {"w": (7, 11), "b": (13,)})
    for optimizer in (sonew(0.1), sonew(0.1, implementation="custom_call")):
        state = optimizer.init(params)
        optimizer.update(params, state, params)
        jax.jit(optimizer.update)(params, state, params)
        jax.vmap(optimizer.update, in_axes=(0, None, None))(
            jax.tree.map(lambda x: jnp.stack([x, x]), params), state, params
        )
        with jax.disable_jit():
            optimizer.update(params, state, params)
