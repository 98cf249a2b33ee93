"""State in files: as any pytree, and in the library's own."""

import ctypes
import pickle
from ctypes import byref, c_void_p

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from c_api import StepOptions
from common import bits, random_tree
from safetensors import safe_open
from sonew.jax import LibraryError, adam_for_vectors, fused_sonew, load, save, sonew
from sonew.jax._library import check, library
from sonew.jax._pieces import part
from sonew.jax.files import Handle

SHAPES = {"fc1": {"kernel": (6, 5), "bias": (5,)}, "scale": ()}
OPTIONS = {
    "band": 2,
    "update": adam_for_vectors,
    "graft": "normalized_rmsprop",
    "lagged_norms": True,
    "nesterov": True,
}


def tree(seed, dtype=jnp.float32):
    shapes, treedef = jax.tree.flatten(SHAPES, is_leaf=lambda x: isinstance(x, tuple))
    flat = random_tree(seed, dict(enumerate(shapes)), dtype)
    return jax.tree.unflatten(treedef, list(flat.values()))


def trained(optimizer, steps, params=None, state=None, first=0):
    params = tree(99) if params is None else params
    state = optimizer.init(params) if state is None else state
    for i in range(first, first + steps):
        updates, state = jax.jit(optimizer.update)(tree(i), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def test_pickle():
    optimizer = sonew(1e-2, **OPTIONS)
    half = jax.device_get(trained(optimizer, 3))
    params, state = pickle.loads(pickle.dumps(half))
    assert bits(trained(optimizer, 2, params, state, 3)) == bits(trained(optimizer, 5))


def test_orbax(tmp_path):
    ocp = pytest.importorskip("orbax.checkpoint")
    optimizer = sonew(1e-2, **OPTIONS)
    half = trained(optimizer, 3)
    params = tree(99)
    fresh = (params, optimizer.init(params))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "step-3", half)
        checkpointer.wait_until_finished()
        params, state = checkpointer.restore(tmp_path / "step-3", fresh)
    assert bits(trained(optimizer, 2, params, state, 3)) == bits(trained(optimizer, 5))


@pytest.mark.smoke
def test_the_library_s_file(tmp_path):
    path = tmp_path / "step-3.safetensors"
    optimizer = sonew(optax.linear_schedule(1e-2, 0, 10), weight_decay=0.1, **OPTIONS)
    params, state = trained(optimizer, 3)
    save(path, params, state, weight_decay=0.1, **OPTIONS)
    fresh = tree(5)
    params, state = load(path, fresh, optimizer.init(fresh), weight_decay=0.1, **OPTIONS)
    assert bits(trained(optimizer, 2, params, state, 3)) == bits(trained(optimizer, 5))
    with safe_open(path, "numpy") as file:
        names = set(file.keys())
        kernel = file.get_tensor("fc1.kernel/parameter")
        assert file.metadata()["sonew.step"] == "3"
    assert {"fc1.kernel/momentum", "fc1.kernel/band.2", "fc1.bias/diagonal", "scale/parameter"} <= names
    assert np.array_equal(kernel, trained(optimizer, 3)[0]["fc1"]["kernel"])


@pytest.mark.smoke
def test_a_run_moves_to_c_and_back(tmp_path):
    """Three steps in JAX, two in C, two in JAX again: as seven in JAX."""
    path = tmp_path / "run.safetensors"
    optimizer = fused_sonew(1e-2, weight_decay=0.1, **OPTIONS)
    step = jax.jit(optimizer.step)

    def steps(params, state, numbers):
        for i in numbers:
            params, state = step(params, tree(i), state)
        return params, state

    start = tree(99)
    expected = steps(start, optimizer.init(start), range(7))
    params, state = steps(start, optimizer.init(start), range(3))
    save(path, params, state, weight_decay=0.1, **OPTIONS)

    # A program in C, which has its own optimizer for the same tensors.
    zeros = jax.tree.map(jnp.zeros_like, start)
    with Handle(zeros, 0.1, None, False, OPTIONS) as handle:
        c = library()
        arrays = [np.array(array) for array in handle.leaves.arrays]
        pointers = handle.pointers(arrays)
        check(c.sonew_load(handle.c, bytes(path), None, pointers, len(arrays)))
        own = StepOptions()
        check(c.sonew_step_options_init(byref(own), ctypes.c_size_t(ctypes.sizeof(own))))
        own.lr = 1e-2
        for i in (3, 4):
            grads = [np.array(g) for g in jax.tree.leaves(tree(i))]
            listed = (c_void_p * len(grads))(*[g.ctypes.data for g in grads])
            check(c.sonew_step(handle.c, byref(own), pointers, listed, ctypes.c_size_t(len(grads))))
        check(c.sonew_save(handle.c, bytes(path), pointers, len(arrays)))

    params, state = load(path, start, optimizer.init(start), weight_decay=0.1, **OPTIONS)
    assert int(state.count) == 5
    assert bits(steps(params, state, range(5, 7))) == bits(expected)


def steps_in_c(path, start, parts, beta1=-1.0):
    """A program in C takes a step for each list of leaves, in which the others take no
    part, and saves."""
    with Handle(start, 0.0, None, False, OPTIONS) as handle:
        c = library()
        state = sonew(1e-2, **OPTIONS).init(start)[0]
        params, planes = handle.arrays(state, part)
        handle.put(state, planes, part)
        arrays = [np.array(array) for array in params]
        pointers = handle.pointers(arrays)
        own = StepOptions()
        check(c.sonew_step_options_init(byref(own), ctypes.c_size_t(ctypes.sizeof(own))))
        own.lr, own.beta1 = 1e-2, beta1
        for step, leaves in parts:
            grads = [np.array(g) for g in jax.tree.leaves(tree(step))]
            there = [g.ctypes.data if i in leaves else None for i, g in enumerate(grads)]
            listed = (c_void_p * len(grads))(*there)
            check(c.sonew_step(handle.c, byref(own), pointers, listed, ctypes.c_size_t(len(grads))))
        check(c.sonew_save(handle.c, bytes(path), pointers, len(arrays)))


def test_a_file_of_separate_calls_has_the_count_of_every_leaf(tmp_path):
    path = tmp_path / "x.safetensors"
    start, optimizer = tree(99), fused_sonew(1e-2, **OPTIONS)
    params, state = start, optimizer.init(start)
    for i in range(3):
        params, state = optimizer.step(params, tree(i), state)
    steps_in_c(path, start, [(i, [leaf]) for i in range(3) for leaf in (2, 0, 1)])
    loaded = load(path, start, optimizer.init(start), **OPTIONS)
    assert int(loaded[1].count) == 3
    assert bits(loaded) == bits((params, state))


def test_a_file_in_which_leaves_have_different_counts_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    start, optimizer = tree(99), fused_sonew(1e-2, **OPTIONS)
    steps_in_c(path, start, [(0, [0, 1, 2]), (1, [0, 2])])
    counts = "'fc1.bias' took part in 2 steps and 'fc1.kernel' in 1"
    with pytest.raises(ValueError, match=counts):
        load(path, start, optimizer.init(start), **OPTIONS)
    # So are leaves that are not in the file, and are kept.
    steps_in_c(path, start, [(0, [0, 1, 2])])
    more = {**start, "more": jnp.ones(3)}
    state = optimizer.init(more)
    with pytest.raises(ValueError, match="'fc1.bias' took part in 1 steps and 'more' in 0"):
        load(path, more, state, common_tensors_only=True, **OPTIONS)
    _, state = optimizer.step(more, more, state)
    _, loaded = load(path, more, state, common_tensors_only=True, **OPTIONS)
    assert int(loaded.count) == 1
    assert bits(loaded.momentum["more"]) == bits(state.momentum["more"])


def test_a_file_of_steps_with_betas_of_their_own_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    start, optimizer = tree(99), fused_sonew(1e-2, **OPTIONS)
    steps_in_c(path, start, [(0, [0, 1, 2])], beta1=0.5)
    with pytest.raises(ValueError, match="'fc1.bias' took steps with betas of their own"):
        load(path, start, optimizer.init(start), **OPTIONS)


def test_every_leaf_takes_part_in_every_step():
    """So the one count of a state is right for all of its leaves. A leaf without a
    gradient is refused; one that is masked has no state, and each group of optax's
    multi_transform has a count of its own."""
    params = {"a": jnp.ones(3), "b": jnp.ones(3)}
    optimizer = sonew(1e-2)
    with pytest.raises(ValueError, match="'b' is not among the gradients"):
        optimizer.update({"a": jnp.ones(3), "b": None}, optimizer.init(params), params)
    with pytest.raises(ValueError, match="'b' is not among the gradients"):
        optimizer.update({"a": jnp.ones(3)}, optimizer.init(params), params)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_16_bits_and_master_weights(tmp_path, dtype):
    path = tmp_path / "x.safetensors"
    options = {"state_dtype": "bfloat16", "master_weights": True}
    optimizer = fused_sonew(1e-2, **options)
    params = tree(1, jnp.dtype(dtype))
    params, state = optimizer.step(params, params, optimizer.init(params))
    save(path, params, state, **options)
    zeros = jax.tree.map(jnp.zeros_like, params)
    loaded = load(path, zeros, optimizer.init(zeros), **options)
    assert bits(loaded) == bits((params, state))
    assert loaded[1].momentum["scale"].dtype == "bfloat16"


def test_files_that_do_not_fit(tmp_path):
    path = tmp_path / "x.safetensors"
    optimizer = sonew(1e-2)
    params = tree(1)
    state = optimizer.init(params)
    with pytest.raises(LibraryError, match="cannot open|No such file"):
        load(path, params, state)
    save(path, params, state)
    with pytest.raises(LibraryError, match="beta1") as refused:
        load(path, params, state, beta1=0.5)
    assert refused.value.status == 412
    load(path, params, state, beta1=0.5, override_options=True)
    load(path, params, state, beta1=0.5, overrides=["beta1"])
    with pytest.raises(LibraryError, match='name "beta2" in the overrides'):
        load(path, params, state, beta1=0.5, beta2=0.5, overrides=["beta1"])
    other = {**params, "more": jnp.ones(3)}
    with pytest.raises(LibraryError, match='"more"'):
        load(path, other, optimizer.init(other))
    some, _ = load(path, other, optimizer.init(other), common_tensors_only=True)
    assert bits(some["fc1"]) == bits(params["fc1"])
    renamed = {"layer": params["fc1"]["kernel"]}
    whole, _ = load(
        path, renamed, optimizer.init(renamed), rename={"fc1.kernel": "layer"}, common_tensors_only=True
    )
    assert bits(whole["layer"]) == bits(params["fc1"]["kernel"])
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(LibraryError):
        load(path, params, state)
    with pytest.raises(ValueError, match="contains 2 states of SONew"):
        save(path, params, (state, state))
