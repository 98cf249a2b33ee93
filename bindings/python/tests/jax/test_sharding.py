"""Arrays that are sharded over eight devices, outside of `jax.shard_map`: results
have the bits of the step of whole arrays, and the sharding of their operands."""

import contextlib
import functools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from common import bits, combinations, largest_difference, random_tree
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from sonew.jax import adam_for_vectors, fused_sonew, sonew

SHAPES = {"bias": (16,), "cube": (2, 8, 4), "kernel": (4, 16)}
SPECS = {
    "one_axis": {"bias": P("x"), "cube": P(None, "x"), "kernel": P(None, "x")},
    "two_axes": {"bias": P(), "cube": P("y", "x"), "kernel": P("x", "y")},
    "joined_axes": {"bias": P(("x", "y")), "cube": P(None, None, "x"), "kernel": P(None, ("y", "x"))},
}
OPTIONS = {
    "decay": {"weight_decay": 0.1},
    "wide": {"band": 3, "graft": "normalized_rmsprop", "update": adam_for_vectors},
    "relative": {"damping": "relative", "clip_norm": 0.5, "state_dtype": "bfloat16"},
    "lagged": {"lagged_norms": True, "nesterov": True},
}
KNOWS = tuple(map(int, jax.__version__.split(".")[:2])) >= (0, 7)
IMPLEMENTATIONS = ["auto", "custom_call", "pure"]
KINDS = [AxisType.Explicit, AxisType.Auto]
# The partitioner of older versions takes two steps of a program apart.
WAYS = ["eager", "compiled", "together"] if KNOWS else ["eager", "compiled"]


def make_mesh(kind):
    return jax.make_mesh((4, 2), ("x", "y"), axis_types=(kind,) * 2)


def place(mesh, specs, tree):
    return {name: jax.device_put(x, NamedSharding(mesh, specs[name])) for name, x in tree.items()}


def steps(optimizer, params, state, grads):
    for g in grads:
        updates, state = optimizer.update(g, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def same_types(a, b):
    # On a mesh with explicit axes a type has the sharding.
    return jax.tree.map(jax.typeof, a) == jax.tree.map(jax.typeof, b)


def same_places(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    # Counts and norm ratios, in uint32, are whole wherever they are.
    placed = [(x, y) for x, y in pairs if x.ndim > 0 and x.dtype != np.uint32]
    return all(x.sharding.is_equivalent_to(y.sharding, x.ndim) for x, y in placed)


def is_short(implementation, kind, specs, options, way):
    """The custom call meets every sharding on both kinds of mesh, and in these cases all
    options and all ways to run two steps; the others meet some of these. On the CPU "auto" is
    the custom call."""
    i, j, k = IMPLEMENTATIONS.index(implementation), KINDS.index(kind), list(SPECS).index(specs)
    if (j, k) not in {"auto": [(0, 0), (1, 1)], "pure": [(0, 1), (0, 2), (1, 1)]}.get(implementation, [(j, k)]):
        return False
    return options == list(OPTIONS)[(i + 3 * j + k) % 4] and way == WAYS[(i + j + k) % len(WAYS)]


@pytest.mark.smoke
@pytest.mark.parametrize(
    *combinations(
        is_short, implementation=IMPLEMENTATIONS, kind=KINDS, specs=SPECS, options=OPTIONS, way=WAYS
    ),
    ids=str,
)
def test_results_are_sharded_as_their_operands(implementation, kind, specs, options, way):
    if not KNOWS and implementation == "pure" and kind == AxisType.Auto:
        pytest.skip("the partitioner of this version shards what it computes as it likes")
    mesh = make_mesh(kind)
    optimizer = sonew(0.1, implementation=implementation, **OPTIONS[options])
    whole = random_tree(0, SHAPES)
    grads = [random_tree(seed, SHAPES) for seed in (1, 2)]
    expected = steps(optimizer, whole, optimizer.init(whole), grads)
    params = place(mesh, SPECS[specs], whole)
    state = optimizer.init(params)
    assert same_places(state[0].momentum, params)
    arguments = params, state, [place(mesh, SPECS[specs], g) for g in grads]
    if way == "eager":
        outcome = steps(optimizer, *arguments)
    elif way == "compiled":
        once = optax.GradientTransformation(optimizer.init, jax.jit(optimizer.update))
        outcome = steps(once, *arguments)
    else:
        outcome = jax.jit(lambda *a: steps(optimizer, *a))(*arguments)
    # Of the step in jax.numpy the compiler fuses other operations.
    bound = 1e-3 if implementation == "pure" else 1e-6
    assert largest_difference(outcome, expected) < bound
    assert same_places(outcome, (params, state))
    assert kind == AxisType.Auto or same_types(outcome[0], params)


@pytest.mark.smoke
@pytest.mark.parametrize(
    *combinations(
        lambda implementation, kind: implementation == "custom_call" or (implementation, kind) == ("pure", KINDS[0]),
        implementation=IMPLEMENTATIONS,
        kind=KINDS,
    ),
    ids=str,
)
def test_the_fused_step_and_a_scan_over_steps(implementation, kind):
    """A scan takes a carry only if its type stays, with its sharding."""
    optimizer = fused_sonew(0.1, weight_decay=0.1, implementation=implementation)
    whole, grads = random_tree(0, SHAPES), random_tree(1, SHAPES)

    def train(params, state, grads):
        body = lambda carry, _: (optimizer.step(carry[0], grads, carry[1]), None)
        return jax.lax.scan(body, (params, state), length=3)[0]

    expected = jax.jit(train)(whole, optimizer.init(whole), grads)
    mesh = make_mesh(kind)
    params, grads = (place(mesh, SPECS["one_axis"], tree) for tree in (whole, grads))
    state = optimizer.init(params)
    outcome = jax.jit(train)(params, state, grads)
    assert same_places(outcome, (params, state))
    assert largest_difference(outcome, expected) < (1e-3 if implementation == "pure" else 1e-6)
    # Donated.
    step = jax.jit(optimizer.step, donate_argnums=(0, 2))
    assert same_places(step(params, grads, state), outcome)


@pytest.mark.parametrize("implementation", [pytest.param("auto", marks=pytest.mark.long), "custom_call", "pure"])
def test_no_device_keeps_more_than_its_part(implementation):
    mesh = make_mesh(AxisType.Auto)
    kernel = jax.device_put(jnp.ones((512, 1024)), NamedSharding(mesh, P(None, ("x", "y"))))
    for optimizer in (sonew(0.1, implementation=implementation), optax.adam(0.1)):
        state = optimizer.init(kernel)
        after = jax.jit(optimizer.update)(kernel, state, kernel)
        for x in jax.tree.leaves(after):
            if x.shape == kernel.shape:
                assert x.addressable_shards[0].data.nbytes == kernel.nbytes // 8


# What optax asks of its own optimizers, of arrays that are sharded.

LIKE_OPTAX = {
    "default": sonew(1.0),
    "pure": sonew(1.0, implementation="pure"),
    "custom_call": sonew(1.0, implementation="custom_call"),
    "decay": sonew(1.0, weight_decay=0.1, band=0),
    "wide": sonew(1.0, band=4, graft="normalized_rmsprop"),
    "relative": sonew(1.0, damping="relative", clip_norm=1.0),
    "lagged": sonew(1.0, lagged_norms=True),
    "pooled": sonew(1.0, pooling="band", band=3),
    "injected": optax.inject_hyperparams(sonew)(1.0),
}
needs_context = pytest.mark.skipif(not hasattr(jax, "set_mesh"), reason="there is no jax.set_mesh")


@pytest.fixture
def sharded_params():
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        sharding = NamedSharding(mesh, P(None, "x"))
        yield jnp.zeros((2, 8, 4), jnp.float16, out_sharding=sharding)


# optax.inject_hyperparams itself needs arrays.
@pytest.mark.parametrize("name", [name for name in LIKE_OPTAX if name != "injected"])
def test_a_state_of_what_has_only_a_shape(name):
    params = jax.ShapeDtypeStruct((2, 4, 8), jnp.float32)
    state = LIKE_OPTAX[name].init(params)
    real = LIKE_OPTAX[name].init(jnp.zeros((2, 4, 8)))
    describe = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    assert describe(state) == describe(real)


@needs_context
@pytest.mark.parametrize(*combinations(lambda name: name not in ("custom_call", "pure", "relative"), name=LIKE_OPTAX))
def test_types_of_a_state_stay_in_a_mesh(name, sharded_params):
    optimizer, params = LIKE_OPTAX[name], sharded_params
    state = optimizer.init(params)
    types = lambda tree: jax.tree.map(jax.typeof, tree)
    assert types(jax.jit(optimizer.init)(params)) == types(state)
    updates, eager = optimizer.update(params, state, params)
    assert types(eager) == types(state) and types(updates) == types(params)
    _, compiled = jax.jit(optimizer.update)(params, state, params)
    assert types(compiled) == types(eager)


def test_readme_example():
    """The README's lines for several devices, on both kinds of mesh."""
    readme = (Path(__file__).resolve().parents[2] / "jax.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    [of_arrays] = [code for code in blocks if "partition_specs=params" in code]
    [of_parts] = [code for code in blocks if "shard_map" in code]
    of_arrays = of_arrays.replace("jax.make_mesh", "make_mesh").replace("len(jax.devices())", "2")
    outcomes = []
    for kind in (AxisType.Auto, AxisType.Explicit):
        make = functools.partial(jax.make_mesh, axis_types=(kind,) * 2, devices=jax.devices()[:2])
        names = {"make_mesh": make}
        exec(of_arrays, names)
        assert names["updates"]["kernel"].sharding.spec == P(None, "model")
        exec(of_parts, names)
        params, state = names["params"], names["optimizer"].init(names["params"])
        after = jax.jit(names["step"])(params, params, state)
        assert after[0]["kernel"].sharding.spec == P(None, "model")
        outcomes.append(bits((names["updates"], after)))
    assert outcomes[0] == outcomes[1]
