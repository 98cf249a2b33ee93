"""Pooled correlations: the chains of a leaf share them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import textbook
from common import bits, combinations, enable_x64, largest_difference, random_tree
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from safetensors import safe_open
from sonew.jax import LibraryError, adam_for_vectors, fused_sonew, load, save, scale_by_sonew, sonew
from test_devices import mesh
from test_sharding import SHAPES as TO_CUT
from test_sharding import SPECS, make_mesh, place, same_places, same_types
from textbook import Case

IMPLEMENTATIONS = ["custom_call", "pure"]
# One chain; several shorter than the band; none; some with inputs that are always zero; more
# than take part in the sums of a step.
SHAPES = {"cube": (2, 3, 4), "dead": (6, 5), "empty": (0, 3), "kernel": (9, 7), "many": (5, 600), "vector": (8,)}  # fmt: skip
RATE, DECAY = 0.01, 0.1
BAND, RANK, ALL = {"pooling": "band", "band": 4}, {"pooling": "rank", "rank": 3}, {"pooling": "all"}
LONG_RANK, LONG_ALL = (pytest.param(options, marks=pytest.mark.long) for options in (RANK, ALL))
# The shape of the sums of "kernel".
ROWS = {"band": (2, 5, 9), "rank": (11, 9), "all": (2, 9, 9)}


def gradients(step, dtype=np.float32, shapes=SHAPES):
    """Inputs that are correlated; those of one leaf are zero at one position. By numpy, for which
    nothing is compiled."""
    rng, grads = np.random.default_rng(step), {}
    for name, shape in shapes.items():
        g = rng.standard_normal(shape)
        if g.ndim > 1 and g.size:
            g = g + 0.8 * np.roll(g, 1, 0)
        if name == "dead":
            g[2] = 0
        grads[name] = jnp.asarray(g, dtype)
    return grads


CASES = [
    Case("band", 1), Case("band", 4, False, "relative"), Case("band", 20, True, "relative", 0.5),
    Case("band", 3, False, gamma=0.7), Case("band", 0),
    Case("rank", 3), Case("rank", 16, False, "relative", 0.3), Case("all", 0, True, "relative"),
    Case("all", 0, False, gamma=0.6),
]  # fmt: skip


# In jax.numpy a band, directions and all, with norms of the step before and of its own.
IN_NUMPY = [CASES[2], CASES[5], CASES[8]]


@pytest.mark.parametrize(
    *combinations(
        lambda implementation, case: implementation == "custom_call" or case in IN_NUMPY,
        implementation=IMPLEMENTATIONS,
        case=CASES,
    ),
    ids=str,
)
def test_steps_are_those_of_the_textbook(implementation, case):
    with enable_x64():
        optimizer = fused_sonew(RATE, weight_decay=DECAY, implementation=implementation, **case.options())
        params = random_tree(99, SHAPES, np.float64)
        state, step = optimizer.init(params), jax.jit(optimizer.step)
        leaves = {name: textbook.Leaf(shape, case) for name, shape in SHAPES.items() if name != "empty"}
        for number in range(6):
            grads, before = gradients(number, np.float64), jax.device_get(params)
            params, state = step(params, grads, state)
            for name, leaf in leaves.items():
                u = leaf.direction(grads[name])
                expected = before[name] - RATE * (u + DECAY * before[name])
                assert np.allclose(params[name], expected, rtol=1e-7), (number, name)
        for name, leaf in leaves.items():
            sums = np.asarray(state.pooled[name])
            if case.lagged:
                # Those up to the last step, and its own.
                before, last = np.split(sums[: -leaf.pool.rank], 2) if case.pooling == "rank" else sums
                sums = textbook.BETA2 * before + last
            assert leaf.pool.is_in(sums), name


@pytest.mark.parametrize("chains", ["contiguous", "contiguous_lines", "strided_lines"])
def test_chains_end_where_lines_do(chains):
    optimizer = scale_by_sonew(chains=chains, **BAND)
    like = scale_by_sonew(chains="strided", **BAND)
    turned = "contiguous" in chains
    turn = lambda tree: jax.tree.map(jnp.transpose, tree) if turned else tree
    state, expected = optimizer.init(turn(gradients(0))), like.init(gradients(0))
    for number in range(3):
        updates, state = optimizer.update(turn(gradients(number)), state)
        other, expected = like.update(gradients(number), expected)
    assert largest_difference(turn(updates), other) < 1e-5
    assert state.pooled["kernel"].shape == (2, 5, 9)


@pytest.mark.smoke
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("options", [BAND, LONG_RANK, LONG_ALL], ids=str)
def test_eager_compiled_scanned_and_mapped_steps_agree(options, implementation):
    optimizer = fused_sonew(1e-2, implementation=implementation, **options)
    shapes = {name: SHAPES[name] for name in ("empty", "kernel")}
    grads = [gradients(number, shapes=shapes) for number in range(4)]
    params = random_tree(99, shapes)
    start = (params, optimizer.init(params))
    eager = compiled = start
    for g in grads:
        eager = optimizer.step(eager[0], g, eager[1])
        compiled = jax.jit(optimizer.step)(compiled[0], g, compiled[1])
    stack = functools.partial(jax.tree.map, lambda *x: jnp.stack(x))

    def train(start, grads):
        body = lambda carry, g: (optimizer.step(carry[0], g, carry[1]), None)
        return jax.lax.scan(body, start, grads)[0]

    scanned = jax.jit(train)(start, stack(*grads))
    twice = lambda tree: stack(tree, jax.tree.map(lambda x: x * 2, tree))
    params = twice(params)
    start = (params, jax.vmap(optimizer.init)(params))
    mapped = jax.jit(jax.vmap(train))(start, twice(stack(*grads)))
    assert mapped[1].pooled["kernel"].shape == (2, *ROWS[options["pooling"]])
    first = jax.tree.map(lambda x: x[0], mapped)
    if implementation == "custom_call":
        assert bits(eager) == bits(compiled) == bits(scanned) == bits(first)
    for other in (compiled, scanned, first):
        assert largest_difference(eager, other) < 1e-4


@pytest.mark.parametrize("dtype, options", [("float32", BAND), ("bfloat16", RANK)], ids=str)
def test_16_bits(dtype, options):
    """The planes of coordinates have 16 bits, the sums 32."""
    outcomes = []
    for implementation in IMPLEMENTATIONS:
        optimizer = fused_sonew(
            1e-2, state_dtype="bfloat16", rounding="stochastic", eps=1e-2,
            implementation=implementation, **options,
        )  # fmt: skip
        shapes = {"kernel": (30, 20)}
        params = random_tree(99, shapes, jnp.dtype(dtype))
        state = optimizer.init(params)
        params, state = optimizer.step(params, gradients(0, jnp.dtype(dtype), shapes), state)
        assert state.momentum["kernel"].dtype == "bfloat16"
        assert state.pooled["kernel"].dtype == "float32"
        outcomes.append((params, state))
    assert largest_difference(*outcomes) < 2**-7
    # What is rounded stochastically is rounded alike, but for neighbours of a boundary.
    ours, pure = (np.asarray(o[1].momentum["kernel"], np.float32) for o in outcomes)
    assert np.mean(ours == pure) > 0.9
    ours, pure = (np.asarray(o[0]["kernel"], np.float32) for o in outcomes)
    assert np.mean(np.abs(ours - pure) < 1e-6) > 0.9


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("options", [BAND, LONG_RANK], ids=str)
def test_a_step_that_is_skipped_keeps_the_sums(options, implementation):
    optimizer = scale_by_sonew(implementation=implementation, **options)
    shapes = {"kernel": SHAPES["kernel"]}
    first, spoilt = (gradients(number, shapes=shapes) for number in (0, 1))
    _, state = optimizer.update(first, optimizer.init(first))
    spoilt["kernel"] = spoilt["kernel"].at[0, 0].set(jnp.inf)
    _, after = optimizer.update(spoilt, state)
    assert bits(after) == bits(state._replace(skipped=jnp.int32(1)))
    assert np.any(state.pooled["kernel"])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    "scale, options",
    [
        (1e-30, BAND), (1e30, RANK), (1e30, ALL),
        *(
            pytest.param(*case, marks=pytest.mark.long)
            for case in [(1e-30, RANK), (1e-10, ALL), (1e10, BAND)]
        ),
    ],
    ids=str,
)
def test_no_gradient_makes_a_nan(scale, options, implementation):
    optimizer = sonew(1e-2, implementation=implementation, shrink=0.0, gamma=0.0, **options)
    shapes = {name: SHAPES[name] for name in ("dead", "kernel")}
    params = random_tree(99, shapes)
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for number in range(6):
        grads = gradients(number, shapes=shapes)
        grads = jax.tree.map(lambda g: g * scale ** (number % 2), grads)
        # Constant: of rank one.
        grads["kernel"] = jnp.full_like(grads["kernel"], scale)
        updates, state = update(grads, state, params)
        assert all(np.all(np.isfinite(u)) for u in jax.tree.leaves((updates, state)))


@pytest.mark.parametrize(
    "lagged, options",
    # With this gamma some positions lose correlations.
    [
        (False, ALL | {"gamma": 0.6}),
        *(
            pytest.param(*case, marks=pytest.mark.long)
            for case in [(False, BAND), (True, BAND), (False, RANK)]
        ),
    ],
    ids=str,
)  # fmt: skip
def test_the_derivative_of_a_step(lagged, options):
    """With respect to the size of the gradient: against finite differences in float64."""
    with enable_x64():
        optimizer = scale_by_sonew(eps=1e-3, lagged_norms=lagged, **options)
        # Derivatives compile for long.
        shapes = {"dead": SHAPES["dead"]}
        first, second = (gradients(number, np.float64, shapes) for number in (0, 1))
        before = optimizer.init(first)
        _, after = optimizer.update(first, before)

        @jax.jit
        def outcome(size, state, grads):
            grads = jax.tree.map(lambda g: jnp.sin(size * g), grads)
            updates, _ = optimizer.update(grads, state)
            return sum(jnp.sum(jnp.sin(u)) for u in jax.tree.leaves(updates))

        derivative = jax.jit(jax.grad(outcome))
        for arguments in ((before, first), (after, second)):
            exact = derivative(jnp.float64(1.1), *arguments)
            h = 1e-6
            up, down = (outcome(jnp.float64(1.1 + s * h), *arguments) for s in (1, -1))
            assert np.allclose(exact, (up - down) / (2 * h), rtol=1e-5)


def test_shrink_may_be_traced():
    params = gradients(0)
    plain = sonew(1e-2, shrink=0.25, **BAND)
    injected = optax.inject_hyperparams(sonew, static_args="band")(1e-2, shrink=0.25, **BAND)
    outcomes = []
    for optimizer in (plain, injected):
        state, update = optimizer.init(params), jax.jit(optimizer.update)
        for number in range(3):
            updates, state = update(gradients(number), state, params)
        outcomes.append(updates)
    assert largest_difference(*outcomes) < 1e-5
    state.hyperparams["shrink"] = jnp.float32(1.0)
    with pytest.raises(Exception, match="options.shrink is 1, must be in"):
        jax.block_until_ready(update(gradients(3), state, params))


OPTIONS = {"update": adam_for_vectors, "shrink": 0.2}


@pytest.mark.smoke
@pytest.mark.parametrize(
    "lagged, options, shape",
    [(None, BAND, (2, 5, 9)), (False, BAND, (5, 9)), (None, RANK, (11, 9)), (False, ALL, (9, 9))],
    ids=str,
)
def test_a_run_goes_on_from_a_file(tmp_path, lagged, options, shape):
    path = tmp_path / "x.safetensors"
    options = options | OPTIONS | {"lagged_norms": lagged, "state_dtype": "bfloat16"}
    optimizer = sonew(1e-2, **options)
    update = jax.jit(optimizer.update)

    def train(params, state, numbers):
        for number in numbers:
            updates, state = update(gradients(number), state, params)
            params = optax.apply_updates(params, updates)
        return params, state

    params = random_tree(99, SHAPES)
    half = train(params, optimizer.init(params), range(3))
    save(path, *half, **options)
    with safe_open(path, "numpy") as file:
        sums = file.get_tensor("kernel/pooled")
        assert "vector/pooled" not in file.keys()
    assert np.array_equal(sums, half[1][0].pooled["kernel"])
    assert sums.shape == shape
    fresh = jax.tree.map(jnp.zeros_like, params)
    loaded = load(path, fresh, optimizer.init(fresh), **options)
    assert bits(loaded) == bits(half)
    assert bits(train(*loaded, range(3, 6))) == bits(train(*half, range(3, 6)))
    other = options | {"shrink": 0.3}
    with pytest.raises(LibraryError, match="shrink"):
        load(path, fresh, optimizer.init(fresh), **other)
    load(path, fresh, optimizer.init(fresh), overrides=["shrink"], **other)


EXPLICIT, AUTO = jax.sharding.AxisType.Explicit, jax.sharding.AxisType.Auto


@pytest.mark.parametrize(
    "options, implementation, kind",
    [
        (BAND, "auto", EXPLICIT), (BAND, "pure", AUTO), (RANK, "auto", AUTO),
        *(
            pytest.param(*case, marks=pytest.mark.long)
            for case in [
                (BAND, "pure", EXPLICIT), (RANK, "pure", EXPLICIT),
                (ALL, "pure", AUTO), (ALL, "pure", EXPLICIT),
            ]
        ),
    ],
    ids=str,
)  # fmt: skip
def test_a_sharded_leaf_is_gathered(options, implementation, kind):
    """Outside of shard_map: the results are those of whole arrays."""
    optimizer = fused_sonew(0.1, implementation=implementation, **options)
    shapes = {"kernel": TO_CUT["kernel"]}
    params, grads = random_tree(0, shapes), [random_tree(seed, shapes) for seed in (1, 2)]
    state, step = optimizer.init(params), jax.jit(optimizer.step)
    whole = params, state
    for g in grads:
        whole = step(whole[0], g, whole[1])
    devices = make_mesh(kind)
    placed = functools.partial(place, devices, SPECS["one_axis"])
    params = placed(params)
    outcome = params, optimizer.init(params)
    for g in grads:
        outcome = step(outcome[0], placed(g), outcome[1])
    assert largest_difference(outcome, whole) < (1e-3 if implementation == "pure" else 1e-6)
    assert same_places(outcome[0], params) and same_places(outcome[1].momentum, params)
    assert kind == AUTO or same_types(outcome[0], params)


@pytest.mark.smoke
@pytest.mark.parametrize(
    *combinations(
        lambda case, implementation: case == (True, "absolute", BAND)
        or (case, implementation) == ((False, "relative", RANK), "custom_call"),
        case=[
            (True, "absolute", BAND), (False, "relative", RANK), (False, "relative", BAND),
            (True, "relative", RANK), (False, "absolute", RANK), (False, "relative", ALL),
        ],
        implementation=IMPLEMENTATIONS,
    ),
    ids=str,
)  # fmt: skip
def test_whole_leaves_beside_those_that_are_cut(case, implementation):
    """Under shard_map a step has stages: the pooled leaf takes its gradient in once."""
    lagged, damping, options = case
    specs = {"kernel": P(), "vector": P("x")}
    shapes = {name: SHAPES[name] for name in specs}
    options = options | OPTIONS | {"lagged_norms": lagged, "damping": damping, "eps": 1e-2}
    options |= {"implementation": implementation, "clip_norm": 2.0}
    optimizer = fused_sonew(1e-2, partition_specs=specs, **options)
    params = random_tree(0, shapes)
    state = optimizer.init(params)
    own = state._replace(
        count=P(), momentum=specs, diagonal=specs, bands=(specs,) * len(state.bands),
        skipped=P(), scalars=P() if lagged else (), pooled=P(),
    )  # fmt: skip
    devices = mesh(x=2)
    step = jax.shard_map(optimizer.step, mesh=devices, in_specs=(specs, specs, own), out_specs=(specs, own))
    places = lambda spec: NamedSharding(devices, spec)
    cut = jax.device_put((params, state), jax.tree.map(places, (specs, own)))
    alone = fused_sonew(1e-2, **options | {"implementation": "custom_call"})
    whole = params, state
    for number in range(3):
        g = gradients(number, shapes=shapes)
        cut = jax.jit(step)(cut[0], g, cut[1])
        whole = jax.jit(alone.step)(whole[0], g, whole[1])
    assert largest_difference(cut, whole) < 1e-4


def test_a_leaf_that_is_cut_through_its_chains_cannot_be_pooled():
    params = gradients(0)
    specs = {name: P() for name in SHAPES} | {"kernel": P("x")}
    optimizer = scale_by_sonew(partition_specs=specs, **BAND)
    with pytest.raises(ValueError, match="partition_specs cuts 'kernel' along its dimension 0, where"):
        optimizer.init(params)
    update = {name: "adam" if name == "kernel" else "sonew" for name in SHAPES}
    scale_by_sonew(partition_specs=specs, update=update, **BAND).init(params)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"pooling": "ranks"}, "pooling is 'ranks', must be one of 'none', 'band', 'rank', 'all'"),
        ({"pooling": "rank", "rank": 0}, "rank is 0, must be 1 to 64"),
        ({"pooling": "rank", "rank": 65}, "rank is 65, must be 1 to 64"),
        ({"pooling": "rank", "rank": 2.0}, "rank is 2.0, must be a Python int"),
        ({"pooling": True}, "pooling is True, must be one of"),
        ({"pooling": "band", "band": 65}, "band is 65, must be 0 to 64"),
        ({"pooling": "band", "shrink": 1.0}, r"shrink is 1.0, must be in \[0, 1\)"),
        ({"shrink": -0.1}, "shrink is -0.1, must be in"),
        ({"shrink": "little"}, "shrink is 'little', must be a number"),
    ],
)
def test_options_that_are_refused(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        scale_by_sonew(**options)


def test_all_correlations_are_pooled_of_chains_up_to_4096():
    longer = {"w": jnp.zeros((4097, 2)), "v": jnp.zeros((2, 4097))}
    message = "'w' has chains of 4097 coordinates; all correlations can be pooled of chains of at most 4096"
    with pytest.raises(ValueError, match=message):
        scale_by_sonew(**ALL).init(longer)
    chains = {"w": "contiguous", "v": "strided"}
    assert scale_by_sonew(chains=chains, **ALL).init(longer).pooled["w"].shape == (2, 2, 2)
    scale_by_sonew(update={"w": "adam", "v": "sonew"}, **ALL).init(longer)


def test_states_that_do_not_fit():
    params = gradients(0)
    optimizer = scale_by_sonew(**BAND)
    state = optimizer.init(params)
    changed = lambda sums: state._replace(pooled=state.pooled | {"kernel": sums})
    sums = state.pooled["kernel"]
    for spoilt, message in [
        (changed(sums[0]), r"'kernel' has shape \(5, 9\) in the pooled sums, but \(2, 5, 9\) here"),
        (changed(sums.astype(jnp.bfloat16)), "the pooled sums of 'kernel' are bfloat16, must be float32"),
        (changed(optax.MaskedNode()), "the state has no plane for 'kernel' in the pooled sums"),
        (scale_by_sonew(**RANK).init(params), r"shape \(\d+, \d+\) in the pooled sums, but \(2, 5, \d+\) here"),
        (state._replace(pooled={}), "the tree of the pooled sums differs"),
        (scale_by_sonew(band=4).init(params), "the state has 4 sub-diagonals, but band is 4 and correlations are pooled"),
    ]:  # fmt: skip
        with pytest.raises((ValueError, TypeError), match=message):
            optimizer.update(params, spoilt)
    mixed = scale_by_sonew(update="adam", **BAND)
    with pytest.raises(ValueError, match="the state has a plane for 'cube' in the pooled sums"):
        mixed.update(params, state)
