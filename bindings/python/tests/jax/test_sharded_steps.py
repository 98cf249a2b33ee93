"""Whole arrays that are cut for the step: `partition_specs=params`."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from common import bits, random_tree
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from sonew.jax import ScaleBySonewState, fused_sonew, sonew

SHAPES = {"bias": (8,), "both": (4, 6), "kernel": (6, 16), "scale": ()}
# Leaves that are cut along different axes, and one that is not cut.
SPECS = {"bias": P("x"), "both": P("y", "x"), "kernel": P(None, ("x", "y")), "scale": P()}
KINDS = [
    pytest.param(AxisType.Auto, marks=pytest.mark.smoke),
    pytest.param(AxisType.Explicit, marks=pytest.mark.long),
]
LATE = {"lagged_norms": True, "non_finite": "unchecked"}


def make_mesh(kind=AxisType.Auto, names=("x", "y")):
    devices = np.array(jax.devices()[:4]).reshape(2, 2)
    return jax.sharding.Mesh(devices, names, axis_types=(kind,) * 2)


def tree(seed, mesh=None, scale=1.0):
    whole = random_tree(seed, SHAPES, scale=scale)
    mesh = mesh or make_mesh()
    return {k: jax.device_put(x, NamedSharding(mesh, SPECS[k])) for k, x in whole.items()}


def computations(text):
    """The operations of each computation of a compiled program: name, (kind, operands)."""
    found, own = {}, None
    for line in text.splitlines():
        if (start := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line)) is not None:
            own = found.setdefault("ENTRY" if start[1] else start[2], {})
        elif own is not None and (found_op := re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*)", line)):
            kind = re.search(r"(?:^|[\s)}\]])([a-z][a-z\-]*)\(", found_op[2])
            own[found_op[1]] = (kind and kind[1], re.findall(r"%([\w.\-]+)", found_op[2]), line)
    return found


def collectives(text):
    """The kinds of collectives in a compiled program, each as often as it is there."""
    kinds = [kind for own in computations(text).values() for kind, _, _ in own.values()]
    names = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter")
    return [k.removesuffix("-start") for k in kinds if k and k.removesuffix("-start") in names]


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize(
    "options",
    [{}, pytest.param({"damping": "relative", "clip_norm": 0.5, "band": 2}, marks=pytest.mark.long)],
    ids=str,
)
def test_the_bits_are_those_of_specs_under_shard_map(options, kind):
    mesh = make_mesh()
    state_specs = lambda state: ScaleBySonewState(
        P(), SPECS, SPECS, (SPECS,) * len(state.bands), (), ()
    )
    nest = fused_sonew(1e-2, partition_specs=SPECS, weight_decay=0.1, **options)
    state = nest.init(tree(0))
    own = state_specs(state)
    step = jax.shard_map(
        nest.step, mesh=mesh, in_specs=(SPECS, SPECS, own), out_specs=(SPECS, own), check_vma=False
    )
    expected = jax.jit(step)(tree(0), tree(1), state)
    expected = jax.jit(step)(expected[0], tree(2), expected[1])

    mesh = make_mesh(kind)
    params = tree(0, mesh)
    line = fused_sonew(1e-2, partition_specs=params, weight_decay=0.1, **options)
    state, step = line.init(params), jax.jit(line.step)
    assert all(
        x.sharding.is_equivalent_to(params[k].sharding, x.ndim) for k, x in state.momentum.items()
    )
    outcome = step(params, tree(1, mesh), state)
    outcome = step(outcome[0], tree(2, mesh), outcome[1])
    assert bits(outcome) == bits(expected)
    assert all(outcome[0][k].sharding.is_equivalent_to(x.sharding, x.ndim) for k, x in params.items())


UNCHECKED = {"non_finite": "unchecked"}
STAGES = [
    ({}, 3),
    pytest.param(UNCHECKED, 2, marks=pytest.mark.long),
    (UNCHECKED | {"damping": "absolute"}, 1),
    pytest.param(UNCHECKED | {"damping": "absolute", "graft": "none"}, 0, marks=pytest.mark.long),
]


@pytest.mark.parametrize("options, count", STAGES, ids=str)
def test_one_collective_for_each_stage(options, count):
    """For all leaves, along whatever axes they are cut."""
    params = tree(0)
    optimizer = fused_sonew(1e-2, partition_specs=params, **options)
    state = optimizer.init(params)
    text = jax.jit(optimizer.step).lower(params, params, state).compile().as_text()
    assert collectives(text) == ["all-reduce"] * count


@pytest.mark.long
def test_as_an_optax_optimizer():
    params, grads = tree(0), tree(1)
    optimizer = sonew(1e-2, partition_specs=params, weight_decay=0.1)
    state = optimizer.init(params)
    step = jax.jit(optimizer.update, donate_argnums=1)
    updates, state = step(grads, state, params)
    fused = fused_sonew(1e-2, partition_specs=params, weight_decay=0.1)
    expected, _ = jax.jit(fused.step)(params, grads, fused.init(params))
    for name, u in updates.items():
        assert np.allclose(params[name] + u, expected[name], rtol=1e-5, atol=1e-7)
        assert u.sharding.is_equivalent_to(params[name].sharding, u.ndim)
    # The tree of all parameters serves a part of them, too.
    labels = {name: "sonew" if name != "bias" else "adam" for name in SHAPES}
    both = optax.multi_transform({"sonew": optimizer, "adam": optax.adam(1e-2)}, labels)
    others, _ = jax.jit(both.update)(grads, both.init(params), params)
    for name in ("both", "kernel", "scale"):
        assert bits(others[name]) == bits(updates[name])


def test_arrays_on_two_meshes_are_refused():
    other = NamedSharding(make_mesh(names=("x", "z")), P("z"))
    params = tree(0)
    params["bias"] = jax.device_put(params["bias"], other)
    optimizer = fused_sonew(1e-2, partition_specs=params)
    with pytest.raises(ValueError, match="'bias' and 'both' on different meshes"):
        optimizer.init(params)


def test_arrays_on_one_device_are_not_cut():
    params = random_tree(0, SHAPES)
    cut, whole = fused_sonew(1e-2, partition_specs=params), fused_sonew(1e-2)
    outcomes = [o.step(params, params, o.init(params)) for o in (cut, whole)]
    assert bits(outcomes[0]) == bits(outcomes[1])


@pytest.mark.parametrize(
    "options",
    [
        {"nesterov": True, "weight_decay": 0.1},
        pytest.param({}, marks=pytest.mark.long),
        pytest.param({"damping": "absolute", "eps": 1e-6}, marks=pytest.mark.long),
    ],
    ids=str,
)
def test_late_sums_end_where_sums_in_time_do(options):
    """Given the same gradients; an update that was too long is corrected by the next step."""
    params = tree(0)
    # The diagonal follows gradients so fast that norms of the step before are far too large
    # where gradients are a thousandth.
    options = LATE | options | {"partition_specs": params, "beta2": 0.1}
    waits, late = fused_sonew(1e-2, **options), fused_sonew(1e-2, reduce_late=True, **options)
    (expected, own), (found, state) = ((params, o.init(params)) for o in (waits, late))
    steps, finish = [jax.jit(o.step) for o in (waits, late)], jax.jit(late.finish)
    was_corrected = False
    for i, scale in enumerate([1, 1, 1e-3, 1e-3, 1]):
        grads = tree(i + 1, scale=scale)
        expected, own = steps[0](expected, grads, own)
        found, state = steps[1](found, grads, state)
        # The first step has no norms of one before.
        assert int(state.is_open) == (i > 0)
        finished, ended = finish(found, state)
        assert bits((finished, ended.own)) == bits((expected, own))
        assert bits(finish(finished, ended)) == bits((finished, ended))
        was_corrected |= bits(found) != bits(finished)
    assert was_corrected


def needed_by_sums(optimizer, params, state):
    """The operations of a compiled step of training, by computation; its collectives outside of
    branches; and the numbers of the arguments that these need."""

    def train(params, state):
        loss = lambda p: sum(jnp.sum(jnp.cosh(x)) for x in p.values())
        return optimizer.step(params, jax.grad(loss)(params), state)

    found = computations(jax.jit(train).lower(params, state).compile().as_text())
    entry = found["ENTRY"]
    sums = [name for name, (kind, _, _) in entry.items() if kind in ("all-reduce", "all-reduce-start")]
    needed, open_names = set(), list(sums)
    while open_names:
        name = open_names.pop()
        if name in entry and name not in needed:
            needed.add(name)
            open_names += entry[name][1]
    operands = [entry[name][2] for name in needed if entry[name][0] == "parameter"]
    return found, sums, sorted(int(re.search(r"parameter\((\d+)\)", line)[1]) for line in operands)


def test_a_late_step_waits_for_no_sum_of_its_own():
    """In the compiled program: outside of the first step's branch there is one collective.
    It needs the numbers of the step before alone, and no gradient; and what this step has
    to sum, the next one does."""
    params = tree(0)
    optimizer = fused_sonew(1e-2, partition_specs=params, reduce_late=True, **LATE)
    state = optimizer.init(params)
    found, sums, needed = needed_by_sums(optimizer, params, state)
    assert len(sums) == 1
    arguments = jax.tree.leaves((params, state))
    assert needed == [next(i for i, x in enumerate(arguments) if x is state.numbers)]
    # The others are in the branch of the first step, which waits.
    waits = [kind for name, own in found.items() if name != "ENTRY" for kind, _, _ in own.values()]
    assert waits.count("all-reduce") + waits.count("all-reduce-start") == 2


REFUSED = [
    ({"lagged_norms": False}, "lagged_norms=True"),
    ({"graft": "normalized_rmsprop"}, "a graft other than"),
    ({"damping": "relative"}, "damping="),
    ({"non_finite": "skip"}, 'non_finite="unchecked"'),
    ({"clip_norm": 1.0}, "no clip_norm"),
    ({"implementation": "pure"}, "the custom call"),
    ({"partition_specs": None}, "partition_specs=params"),
]


@pytest.mark.parametrize("options, what", REFUSED, ids=str)
def test_late_sums_are_refused_where_sums_are_needed_first(options, what):
    params = tree(0)
    options = LATE | {"partition_specs": params} | options
    with pytest.raises(ValueError, match=f"reduce_late needs .*{what}"):
        fused_sonew(1e-2, reduce_late=True, **options).init(params)


def test_late_sums_of_16_bit_parameters_need_master_weights():
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), tree(0))
    options = LATE | {"partition_specs": params, "reduce_late": True}
    with pytest.raises(ValueError, match="master_weights: 'bias' is bfloat16"):
        fused_sonew(1e-2, **options).init(params)
    fused_sonew(1e-2, master_weights=True, **options).init(params)


@pytest.mark.long
def test_pooled_leaves_that_are_cut_by_units_under_plain_jit():
    """The step in jax.numpy says its sums, and the compiler divides them: sums are reduced,
    and no leaf is gathered. The custom call takes whole arrays, which are gathered."""
    whole = np.asarray(random_tree(0, {"w": (24, 16)})["w"])
    outcomes = {}
    for implementation in ("pure", "custom_call"):
        optimizer = fused_sonew(1e-2, pooling="band", band=4, implementation=implementation)
        params = jax.device_put(whole, NamedSharding(make_mesh(), P(None, ("x", "y"))))
        state = jax.jit(optimizer.init)(params)
        step = jax.jit(optimizer.step)
        text = step.lower(params, params, state).compile().as_text()
        kinds = set(collectives(text))
        assert kinds == ({"all-reduce"} if implementation == "pure" else {"all-gather"})
        outcomes[implementation] = step(params, params, state)
        if implementation == "pure":
            # The sums of all units, [band + 1, 24].
            found = re.search(r"= \((.*)\) all-reduce(?:-start)?\(", text)
            assert found[1].count("f32[24]") == 5
    expected = optimizer.step(whole, whole, optimizer.init(whole))
    assert bits(outcomes["custom_call"]) == bits(expected)
    assert np.allclose(outcomes["pure"][0], expected[0], rtol=1e-5, atol=1e-6)


def test_pooled_leaves_that_are_whole_beside_others_that_are_cut():
    mesh = make_mesh()
    place = lambda x, spec: jax.device_put(x, NamedSharding(mesh, spec))
    whole = random_tree(0, {"cut": (6, 16), "pooled": (6, 16)})
    params = {"cut": place(whole["cut"], P(None, "x")), "pooled": place(whole["pooled"], P())}
    update = {"cut": "adam", "pooled": "sonew"}
    options = {"pooling": "band", "band": 3, "update": update}
    optimizer = fused_sonew(1e-2, partition_specs=params, **options)
    outcome = jax.jit(optimizer.step)(params, params, optimizer.init(params))
    other = fused_sonew(1e-2, **options)
    expected = other.step(whole, whole, other.init(whole))
    for a, b in zip(jax.tree.leaves(outcome), jax.tree.leaves(expected), strict=True):
        a, b = (np.asarray(x) for x in (a, b))
        a, b = (x.view(np.float64) if x.dtype == np.uint32 else x for x in (a, b))
        assert np.allclose(a, b, rtol=1e-5, atol=1e-7)
