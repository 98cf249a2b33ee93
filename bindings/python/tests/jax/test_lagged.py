"""Norms of the step before, and Nesterov momentum."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from common import bits, combinations, enable_x64, largest_difference, random_tree
from sonew.jax import adam_for_vectors, fused_sonew, load, save, scale_by_sonew, sonew
from test_devices import SHAPES as CUT
from test_devices import SPECS, mesh, under_shard_map

IMPLEMENTATIONS = ["custom_call", "pure"]
BOTH = {"lagged_norms": True, "nesterov": True}
SHAPES = {"bias": (7,), "empty": (0, 3), "kernel": (6, 5), "still": (4, 3), "zero": (5, 2)}
# The fourth step is a spike. Norms of the step before are too long in the second or later.
SIZES = [0.01, 1.3, 0.7, 1000.0, 1.0, 1e-3, 1.0, 0.0, 1.0, 0.5]
BETA1, BETA2, EPS, RATE, DECAY = 0.9, 0.99, 1.0, 0.01, 0.1


def gradients(step, dtype=np.float32, shapes=SHAPES):
    """One leaf has the same gradient in every step; another has zeros at first."""
    grads = random_tree(step, shapes, dtype, SIZES[step % len(SIZES)])
    if "still" in shapes:
        grads["still"] = random_tree(0, shapes, dtype)["still"]
        grads["zero"] = grads["zero"] * (step > 2)
    return grads


class Textbook:
    """One leaf, with matrices, in float64."""

    def __init__(self, shape, band, graft, adam, lagged, nesterov):
        self.band, self.graft, self.adam = band, graft, adam
        self.lagged, self.nesterov = lagged, nesterov
        size = int(np.prod(shape))
        self.m, self.h, self.ratio, self.count = np.zeros(size), np.zeros((size, size)), 0.0, 0
        self.too_long = 0

    def direction(self, g):
        # Strided chains.
        shape, g = g.shape, np.asarray(g, np.float64).ravel("F")
        self.count += 1
        self.m = BETA1 * self.m + (1 - BETA1) * g
        self.h = BETA2 * self.h + (1 - BETA2) * np.outer(g, g)
        m = BETA1 * self.m + (1 - BETA1) * g if self.nesterov else self.m
        m = m / (1 - BETA1**self.count)
        h = self.h / (1 - BETA2**self.count)
        a = m / (np.sqrt(np.diag(h)) + 1e-8)
        if self.adam:
            return a.reshape(shape, order="F")
        u = self.preconditioned(m, h + EPS * np.eye(len(m)))
        norm = np.linalg.norm({"adam": a, "momentum": m, "sgd": g}[self.graft])
        own = norm / np.linalg.norm(u) if np.any(u) else 0.0
        will_do = self.lagged and 0 < self.ratio <= 2 * own
        self.too_long += self.ratio > 2 * own
        u = u * (self.ratio if will_do else own)
        self.ratio = own
        return u.reshape(shape, order="F")

    def preconditioned(self, m, h):
        size = len(m)
        lower, d = np.eye(size), np.zeros(size)
        for j in range(size):
            window = np.arange(j + 1, min(j + self.band + 1, size))
            psi = np.linalg.solve(h[np.ix_(window, window)], h[window, j])
            lower[window, j] = -psi
            d[j] = 1 / (h[j, j] - psi @ h[window, j])
        return lower @ (d * (lower.T @ m))


# By implementation, band with graft, and what of lagged norms and Nesterov momentum is on.
BANDS = [(0, "sgd"), (1, "adam"), (3, "momentum")]
ON = [(False, True), (True, False), (True, True)]


def is_short(implementation, band, on):
    return implementation == "custom_call" or BANDS.index(band) == ON.index(on)


@pytest.mark.parametrize(*combinations(is_short, implementation=IMPLEMENTATIONS, band=BANDS, on=ON), ids=str)
def test_steps_are_those_of_the_textbook(implementation, band, on):
    (band, graft), (lagged, nesterov) = band, on
    with enable_x64():
        optimizer = fused_sonew(
            RATE, BETA1, BETA2, EPS, 0.0, DECAY, band=band, graft=graft, update=adam_for_vectors,
            lagged_norms=lagged, nesterov=nesterov, implementation=implementation,
            damping="absolute", graft_eps=1e-8,
        )  # fmt: skip
        params = random_tree(99, SHAPES, np.float64)
        state, step = optimizer.init(params), jax.jit(optimizer.step)
        leaves = {
            name: Textbook(shape, band, graft, name == "bias", lagged, nesterov)
            for name, shape in SHAPES.items()
            if name != "empty"
        }
        for number in range(len(SIZES)):
            grads, before = gradients(number, np.float64), jax.device_get(params)
            params, state = step(params, grads, state)
            for name, leaf in leaves.items():
                u = leaf.direction(grads[name])
                expected = before[name] - RATE * (u + DECAY * before[name])
                assert np.allclose(params[name], expected, rtol=1e-6), (number, name)
        # Momentum's norm follows the direction's too closely.
        assert leaves["kernel"].too_long > 0 or graft == "momentum"
        assert lagged == (len(state.scalars) > 0)
        if lagged:
            words = np.asarray(state.scalars)[:, 0]
            ratios = dict(zip(sorted(SHAPES), words.view(np.float64)[:, 0], strict=True))
            assert ratios.pop("empty") == ratios["bias"] == 0
            for name, ratio in ratios.items():
                assert np.allclose(ratio, leaves[name].ratio, rtol=1e-6), name


@pytest.mark.smoke
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_spike_moves_no_farther_than_twice_what_its_own_norms_allow(implementation):
    """With gradients of 1e-6, damping makes directions tiny beside Adam's; the norms of
    the step before would make the update thousands of times too long."""
    options = {"implementation": implementation, "damping": "absolute", "eps": 1e-6}
    lagged = scale_by_sonew(lagged_norms=True, **options)
    own = scale_by_sonew(**options)
    shapes = {"w": (20, 50)}
    for small, large in [(1e-6, 1.0), (1.0, 1e3), (1e3, 1e-3)]:
        params = random_tree(0, shapes)
        states = [o.init(params) for o in (lagged, own)]
        for number in range(10):
            grads = random_tree(number, shapes, scale=large if number == 6 else small)
            moved = []
            for i, optimizer in enumerate((lagged, own)):
                updates, states[i] = jax.jit(optimizer.update)(grads, states[i])
                moved.append(np.linalg.norm(updates["w"]))
            assert moved[0] <= 2.0001 * moved[1], number
            assert number != 5 or moved[0] != moved[1]


@pytest.mark.smoke
def test_eager_compiled_scanned_and_mapped_steps_agree():
    optimizer = fused_sonew(1e-2, **BOTH)
    shapes = {name: SHAPES[name] for name in ("empty", "kernel")}
    grads = [gradients(number, shapes=shapes) for number in range(5)]
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
    assert bits(eager) == bits(compiled) == bits(scanned)
    twice = lambda tree: stack(tree, jax.tree.map(lambda x: x * 2, tree))
    params = twice(params)
    start = (params, jax.vmap(optimizer.init)(params))
    mapped = jax.jit(jax.vmap(train))(start, twice(stack(*grads)))
    assert mapped[1].scalars.shape == (2, len(shapes), 2, 2)
    assert bits(jax.tree.map(lambda x: x[0], mapped)) == bits(scanned)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_step_that_is_skipped_keeps_the_ratios(implementation):
    optimizer = scale_by_sonew(implementation=implementation, **BOTH)
    shapes = {name: SHAPES[name] for name in ("empty", "kernel")}
    first, spoilt = (gradients(number, shapes=shapes) for number in (0, 1))
    _, state = optimizer.update(first, optimizer.init(first))
    spoilt["kernel"] = spoilt["kernel"].at[0, 0].set(jnp.inf)
    _, after = optimizer.update(spoilt, state)
    assert bits(after) == bits(state._replace(skipped=jnp.int32(1)))
    assert np.any(state.scalars)


def run(options, devices=None, check=True):
    """Parameters and state after some steps: of whole leaves, or under shard_map, in
    stages."""
    optimizer = fused_sonew(1e-2, partition_specs=SPECS if devices else None, **options)
    if devices:
        step, params, state = under_shard_map(optimizer, devices, SPECS, check)
    else:
        params = random_tree(0, CUT)
        step, state = jax.jit(optimizer.step), optimizer.init(params)
    for number in range(5):
        params, state = step(params, gradients(number, shapes=CUT), state)
    return jax.device_get((params, state))


@pytest.mark.smoke
@pytest.mark.parametrize(
    *combinations(
        lambda damping, check: check == (damping == "absolute"),
        damping=["absolute", "relative", "relative_lagged"],
        check=[False, True],
    )
)
def test_parts_are_stepped_in_stages(damping, check):
    options = BOTH | {"damping": damping, "eps": 1e-2}
    assert bits(run(options, mesh(x=1), check)) == bits(run(options))
    parts = run(options, mesh(x=2), check)
    assert bits(parts) == bits(run(options, mesh(x=2, y=2), check))


@pytest.mark.smoke
@pytest.mark.parametrize(
    *combinations(
        lambda damping, check: check and damping == "relative_lagged",
        damping=["absolute", "relative", "relative_lagged"],
        check=[False, True],
    )
)
def test_the_stages_in_jax_numpy_agree(damping, check):
    options = BOTH | {"damping": damping, "eps": 1e-2}
    ours, pure = (run(options | {"implementation": i}, mesh(x=2), check) for i in IMPLEMENTATIONS)
    assert largest_difference(ours, pure) < 2e-4


# On the CPU both are one program.
@pytest.mark.smoke
@pytest.mark.parametrize("implementation", ["auto", pytest.param("custom_call", marks=pytest.mark.long)])
def test_the_derivative_of_a_step(implementation):
    """With respect to the size of the gradient: against finite differences in float64.
    The norms of the step before are constants."""
    with enable_x64():
        optimizer = scale_by_sonew(implementation=implementation, eps=1e-3, **BOTH)
        shapes = {name: SHAPES[name] for name in ("kernel", "still", "zero")}
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


WRAPPED = {
    "alone": lambda own: own,
    "accumulate": lambda own: optax.MultiSteps(own, every_k_schedule=2),
    "masked": lambda own: optax.masked(own, {name: name != "still" for name in SHAPES}),
    "inject": lambda own: optax.inject_hyperparams(sonew, static_args=("update",))(
        1e-2, beta1=0.9, update=adam_for_vectors, **BOTH
    ),
}


# test_around.py has more wrappers.
@pytest.mark.parametrize(*combinations(lambda name: name in ("alone", "inject"), name=WRAPPED))
def test_a_run_goes_on_from_a_file(tmp_path, name):
    path = tmp_path / "x.safetensors"
    options = BOTH | {"update": adam_for_vectors}
    optimizer = WRAPPED[name](sonew(1e-2, **options))
    update = jax.jit(optimizer.update)

    def train(params, state, numbers):
        for number in numbers:
            updates, state = update(gradients(number), state, params)
            params = optax.apply_updates(params, updates)
        return params, state

    params = random_tree(99, SHAPES)
    half = train(params, optimizer.init(params), range(5))
    save(path, *half, **options)
    fresh = jax.tree.map(jnp.zeros_like, params)
    loaded = load(path, fresh, optimizer.init(fresh), **options)
    assert bits(loaded) == bits(half)
    assert bits(train(*loaded, range(5, 9))) == bits(train(*half, range(5, 9)))


def test_states_that_do_not_fit():
    params = gradients(0)
    optimizer = scale_by_sonew(lagged_norms=True)
    with pytest.raises(ValueError, match=r"scalars of the state has shape \(0,\), .* \(5, 2, 2\)"):
        optimizer.update(params, scale_by_sonew(damping="absolute").init(params))
    state = optimizer.init(params)
    with pytest.raises(TypeError, match="scalars of the state is int32, must be uint32"):
        optimizer.update(params, state._replace(scalars=state.scalars.astype(jnp.int32)))
    for name in BOTH:
        with pytest.raises(TypeError, match=f"{name} is 1, must be True or False"):
            scale_by_sonew(**{name: 1})
