"""The optimizer under JAX's transformations."""

import functools
import re
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import SHAPES, bits, combinations, enable_x64, largest_difference, random_tree
from jax import export
from sonew.jax import adam_for_vectors, fused_sonew, release, scale_by_sonew, sonew

SMALL = {"b": (5,), "w": (6, 5)}


def pointers(tree):
    return [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(tree)]


def hlo(step, *arguments):
    return step.lower(*arguments).compile().as_text()


@pytest.mark.smoke
def test_the_fused_step_copies_no_buffer():
    """With donation every buffer is where it was, and the program is one custom
    call for all leaves, without a copy."""
    optimizer = fused_sonew(1e-3, band=2, graft="normalized_rmsprop", update=adam_for_vectors)
    params = random_tree(0, SHAPES)
    grads = random_tree(1, SHAPES)
    state = optimizer.init(params)
    step = jax.jit(optimizer.step, donate_argnums=(0, 2))
    text = hlo(step, params, grads, state)
    assert len(re.findall(r"custom-call\(", text)) == 1
    assert len(re.findall(r" copy\(", text)) == 0
    for _ in range(3):
        # The count is a scalar that is added to outside of the call.
        before = pointers((params, state._replace(count=0)._replace(count=())))
        params, state = jax.block_until_ready(step(params, grads, state))
        assert pointers((params, state._replace(count=()))) == before


def test_the_direction_leaves_its_arguments_alone():
    optimizer = scale_by_sonew()
    params = random_tree(0, SHAPES)
    state = optimizer.init(params)
    before = bits((params, state))
    optimizer.update(params, state)
    jax.jit(optimizer.update)(params, state)
    assert bits((params, state)) == before


@pytest.mark.smoke
def test_eager_compiled_and_scanned_steps_agree():
    optimizer = fused_sonew(1e-2)
    grads = [random_tree(seed, SMALL) for seed in range(3)]
    params = random_tree(9, SMALL)
    eager = compiled = (params, optimizer.init(params))
    for g in grads:
        eager = optimizer.step(eager[0], g, eager[1])
        compiled = jax.jit(optimizer.step)(compiled[0], g, compiled[1])

    def body(carry, g):
        return optimizer.step(carry[0], g, carry[1]), None

    stacked = jax.tree.map(lambda *g: jnp.stack(g), *grads)
    start = (params, optimizer.init(params))
    scanned, _ = jax.jit(lambda c, g: jax.lax.scan(body, c, g))(start, stacked)
    assert bits(eager) == bits(compiled) == bits(scanned)


@pytest.mark.smoke
@pytest.mark.parametrize("implementation", ["auto", pytest.param("custom_call", marks=pytest.mark.long)])
def test_every_member_of_a_vmap_has_its_own_chains(implementation):
    optimizer = fused_sonew(1e-2, band=2, clip_norm=1.0, implementation=implementation)
    params = [random_tree(seed, SMALL) for seed in range(4)]
    grads = [random_tree(seed + 10, SMALL) for seed in range(4)]
    # One of them is skipped.
    grads[2]["b"] = grads[2]["b"].at[1].set(jnp.nan)
    stack = functools.partial(jax.tree.map, lambda *x: jnp.stack(x))
    states = jax.vmap(optimizer.init)(stack(*params))
    together = jax.jit(jax.vmap(optimizer.step))(stack(*params), stack(*grads), states)
    alone = [optimizer.step(p, g, optimizer.init(p)) for p, g in zip(params, grads)]
    assert bits(together) == bits(stack(*alone))
    assert list(together[1].count) == [1, 1, 0, 1]

    # Along another axis, nested, and with gradients that all share.
    inner = jax.vmap(optimizer.step, in_axes=(0, None, 0))
    last = jax.tree.map(lambda x: jnp.moveaxis(jnp.stack([x, 2 * x]), 0, -1), stack(*params))
    deep = jax.vmap(inner, in_axes=(-1, None, None))(last, grads[0], states)
    one = optimizer.step(params[3], grads[0], optimizer.init(params[3]))
    assert bits(jax.tree.map(lambda x: x[0, 3], deep)) == bits(one)


@pytest.mark.smoke
@pytest.mark.parametrize(
    *combinations(lambda fused, nesterov: fused == nesterov, fused=[False, True], nesterov=[False, True])
)
def test_the_derivative_through_steps(fused, nesterov):
    """Of what two steps of training lead to, with respect to a factor of the
    loss and to the learning rate: against finite differences in float64."""
    with enable_x64():
        # One leaf, since derivatives compile for long.
        start, target = (random_tree(seed, {"w": (4, 3)}, np.float64) for seed in (1, 2))

        def outcome(factor, rate):
            def loss(p):
                squares = jax.tree.map(lambda x, y: jnp.sum((x - factor * y) ** 4), p, target)
                return sum(jax.tree.leaves(squares))

            options = {"eps": 1e-3, "band": 2, "implementation": "custom_call", "nesterov": nesterov}
            # What the step before leaves is a constant for derivatives.
            options |= {"damping": "absolute"}
            p = start
            if fused:
                optimizer = fused_sonew(rate, **options)
                state = optimizer.init(p)
                for _ in range(2):
                    p, state = optimizer.step(p, jax.grad(loss)(p), state)
            else:
                optimizer = scale_by_sonew(**options)
                state = optimizer.init(p)
                for _ in range(2):
                    u, state = optimizer.update(jax.grad(loss)(p), state)
                    p = jax.tree.map(lambda p, u: p - rate * u, p, u)
            return sum(jnp.sum(x**2) for x in jax.tree.leaves(p))

        at = (jnp.float64(1.3), jnp.float64(0.05))
        exact = jax.jit(jax.grad(outcome, argnums=(0, 1)))(*at)
        h = 1e-6
        for i in (0, 1):
            up, down = ([a + s * h * (i == j) for j, a in enumerate(at)] for s in (1, -1))
            difference = (outcome(*up) - outcome(*down)) / (2 * h)
            assert np.allclose(exact[i], difference, rtol=1e-5)


def test_the_derivative_is_finite_where_gradients_are_zero():
    optimizer = scale_by_sonew(graft="normalized_rmsprop", damping="relative", clip_norm=1.0)

    def total(g):
        u, _ = optimizer.update(g, optimizer.init(g))
        return sum(jnp.sum(x) for x in jax.tree.leaves(u))

    zeros = {"w": jnp.zeros((3, 2)).at[0, 0].set(1.0), "b": jnp.zeros(3)}
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(jax.jit(jax.grad(total))(zeros)))


@pytest.mark.smoke
def test_other_platforms_get_the_step_in_jax_numpy():
    optimizer = fused_sonew(1e-2)
    params = random_tree(0, SMALL)
    arguments = (params, params, optimizer.init(params))
    for platform, there in [("cpu", True), ("cuda", False), ("tpu", False)]:
        exported = export.export(
            jax.jit(optimizer.step),
            platforms=[platform],
            disabled_checks=[export.DisabledSafetyCheck.custom_call("sonew_xla_step_v1")],
        )(*arguments)
        assert ("sonew_xla_step_v1" in exported.mlir_module()) == there


def test_steps_in_several_threads_at_once():
    """The handler has plans for as many calls as there are."""
    optimizer = sonew(1e-2)
    update = jax.jit(optimizer.update)
    params = random_tree(3, {"w": (300, 400), "b": (300,)})
    expected, _ = update(params, optimizer.init(params), params)
    outcomes = [None] * 6

    def work(i):
        for _ in range(5):
            outcomes[i], _ = update(params, optimizer.init(params), params)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(outcomes))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(bits(outcome) == bits(expected) for outcome in outcomes)


def test_results_do_not_depend_on_the_number_of_threads():
    params = random_tree(4, {"w": (700, 500)})
    outcomes = []
    for threads in (1, 2, 5):
        optimizer = fused_sonew(1e-2, threads=threads)
        outcomes.append(bits(optimizer.step(params, params, optimizer.init(params))))
    assert outcomes[0] == outcomes[1] == outcomes[2]


def test_steps_go_on_after_a_release():
    optimizer = fused_sonew(1e-2)
    params = random_tree(4, {"w": (700, 500)})
    before = optimizer.step(params, params, optimizer.init(params))
    release()
    release()
    assert bits(optimizer.step(params, params, optimizer.init(params))) == bits(before)


def test_chains_are_what_they_are_called():
    """Strided chains of a matrix are contiguous ones of its transpose."""
    g = random_tree(5, {"w": (6, 4)})["w"]

    def direction(g, chains):
        optimizer = scale_by_sonew(chains=chains, band=2)
        # After one gradient statistics are singular, and all edges removed.
        _, state = optimizer.update(jnp.sin(3 * g), optimizer.init(g))
        return optimizer.update(g, state)[0]

    assert bits(direction(g, "strided")) == bits(direction(g.T, "contiguous").T)
    assert bits(direction(g, "strided_lines")) == bits(direction(g.T, "contiguous_lines").T)
    default = scale_by_sonew(band=2)
    _, state = default.update(jnp.sin(3 * g), default.init(g))
    assert bits(default.update(g, state)[0]) == bits(direction(g, "strided"))
    assert largest_difference(direction(g, "contiguous_lines"), direction(g, "contiguous")) > 1e-3


TREES = {"one": {"w": (300, 400)}, "several": {"a": (200, 300), "b": (64, 40, 25), "c": (20000,)}}
# A program takes the longer to compile the wider its band is.
IN_SHORT = [("one", 0), ("one", 2), ("several", 1), ("several", 4)]


@pytest.mark.parametrize(
    *combinations(lambda *case: case in IN_SHORT, shapes=TREES, band=[0, 1, 2, 4, 8, 16])
)
def test_the_temporary_memory_of_the_step_in_jax_numpy(shapes, band):
    """At most 3 + 2 band numbers for each parameter."""
    params = random_tree(0, TREES[shapes])
    optimizer = sonew(1e-3, band=band, implementation="pure")
    state = optimizer.init(params)
    compiled = jax.jit(optimizer.update).lower(params, state, params).compile()
    size = sum(x.size for x in params.values())
    assert compiled.memory_analysis().temp_size_in_bytes <= 4 * (3 + 2 * band) * size


@pytest.mark.parametrize(*combinations(lambda band: band == 3, band=[1, 3, 16]))
def test_parts_of_the_step_in_jax_numpy_are_as_the_whole(band, monkeypatch, x64):
    """Where it is cut, no window is. Only directions, of leaves of every kind at once: of
    a whole step, JAX would take again what it has traced with other parts."""
    from sonew.jax import _direction
    from sonew.jax._pure import ahead

    matrix, cube = (50, 60), (7, 11, 13)
    shapes = {"contiguous": cube, "strided": matrix, "contiguous_lines": matrix, "strided_lines": cube}
    gradients = [random_tree(seed, shapes, np.float64) for seed in range(3)]

    def corrected(kind):
        g = [_direction.to_chains(tree[kind], kind) for tree in gradients]
        h = [sum(x * ahead(x, k) for x in g) for k in range(band + 1)]
        planes = [_direction.from_chains(x, shapes[kind], kind) for x in (g[0], h[0] + 0.1, *h[1:])]
        return planes[0], planes[1], planes[2:]

    leaves = [corrected(kind) for kind in shapes]

    def directions(in_parts):
        monkeypatch.setattr(_direction, "LEAST_PART", 64 if in_parts else 1 << 30)
        monkeypatch.setattr(_direction, "MOST_PARTS", 1 << 30)
        solve = lambda leaves: _direction.solved_together(list(shapes), leaves, 1e-3)
        lowered = jax.jit(solve).lower(leaves)
        assert ("while" in lowered.as_text()) == in_parts
        return lowered.compile()(leaves)

    assert largest_difference(directions(True), directions(False)) < 1e-12
