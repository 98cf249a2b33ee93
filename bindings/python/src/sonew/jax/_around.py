"""What a checkpoint holds besides SONew's own state: the state of other optimizers
around it, such as the counts of schedules, and the parameters that it has no state
for. The library's files have no arrays for these. They are one of the texts that a
program may keep in a file, which programs in other languages ignore."""

import base64
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

KEY = "sonew_jax.around"
# The header is JSON, of which readers of safetensors accept 100 MB.
MOST_BYTES = 16 << 20

# Where a file has no value for a leaf, as that of a C program has none: these fields
# take SONew's count,
COUNTS = {"count", "gradient_step"}
# and these stay, since files are written between two steps.
UNCHANGED = {
    "hyperparams",
    "mini_step",
    "acc_grads",
    "skip_state",
    "notfinite_count",
    "last_finite",
    "total_notfinite",
}


def on_host(name, array):
    """An array as one of numpy."""
    if isinstance(array, jax.Array):
        if is_cut(array):
            # A collective of all processes.
            return multihost_utils.process_allgather(array, tiled=True)
        if is_key(array):
            array = jax.random.key_data(array)
    elif not isinstance(array, (np.ndarray, np.generic, bool, int, float, complex)):
        raise TypeError(f"{name} is a {type(array).__name__}, which a file cannot hold")
    return np.asarray(array)


def shaped(name, array):
    """An array of numpy like this one, of which only shape and type may be known."""
    if isinstance(array, jax.ShapeDtypeStruct) or isinstance(array, jax.Array) and is_cut(array):
        return np.zeros(array.shape, array.dtype)
    return on_host(name, array)


def is_cut(array):
    return not (array.is_fully_addressable or array.is_fully_replicated)


def is_key(array):
    return jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key)


def placed(array, like):
    """An array as the one that it replaces was: its kind, and where it is."""
    if isinstance(like, jax.Array) and not like.is_fully_addressable:
        return jax.make_array_from_callback(like.shape, like.sharding, lambda index: array[index])
    if isinstance(like, (bool, int, float, complex)):
        return type(like)(array)
    if isinstance(like, (np.ndarray, np.generic)):
        return np.array(array)
    if is_key(like):
        array = jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(like))
    # An array that is not committed may follow others to their devices.
    committed = getattr(like, "committed", True) and like.sharding is not None
    return jax.device_put(array, like.sharding) if committed else jnp.array(array, copy=True)


def encoded(leaves):
    """Leaves, a dict from names to arrays and numbers, as entries of JSON."""
    entries, size = {}, 0
    for name, leaf in leaves.items():
        array = on_host(name, leaf)
        data = array.tobytes()
        # All alike, as accumulated gradients are after every step.
        if data == data[: array.itemsize] * array.size:
            data = data[: array.itemsize]
        size += len(data)
        if size > MOST_BYTES:
            raise ValueError(
                f"{name} is not of SONew's state, and too large to be saved with it: all such "
                f"arrays together may have {MOST_BYTES} bytes. Tools for pytrees, such as Orbax, "
                "save any state"
            )
        text = base64.b64encode(data).decode()
        entries[name] = {"dtype": array.dtype.name, "shape": array.shape, "data": text}
    return entries


def restored(entries, like, count, partly):
    """The leaves that entries have, with the names, shapes and types of `like`.
    `count` is that of SONew. With `partly`, a leaf that is not on both sides stays."""
    for name in entries:
        if name not in like and not partly and not fields(name) & (COUNTS | UNCHANGED):
            raise ValueError(f"{name} is in the file, but not in what was passed")
    leaves = {}
    for name, leaf in like.items():
        if name in entries:
            leaves[name] = placed(array_of(name, entries[name], leaf), leaf)
        elif name.rsplit(".")[-1] in COUNTS and not partly:
            leaves[name] = placed(np.asarray(count), leaf)
        elif partly or fields(name) & UNCHANGED:
            leaves[name] = leaf
        else:
            raise ValueError(f"{name} is not of SONew's state, and not in the file")
    return leaves


def fields(name):
    """The names of attributes in a path like `state[0].hyperparams['eps']`."""
    return set(re.findall(r"\.(\w+)", name))


def array_of(name, entry, like):
    here = shaped(name, like)
    shape, dtype = tuple(entry["shape"]), jnp.dtype(entry["dtype"])
    if (shape, dtype) != (here.shape, here.dtype):
        raise ValueError(
            f"{name} is {dtype}{list(shape)} in the file, but {here.dtype}{list(here.shape)} here"
        )
    data = np.frombuffer(base64.b64decode(entry["data"]), dtype)
    return data.reshape(shape) if data.size == np.prod(shape) else np.broadcast_to(data, shape)


def read_older(path):
    """The text in a file of a development version, where it was metadata of this package's
    own, or None."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return json.loads(file.read(length))["__metadata__"].get(KEY)
