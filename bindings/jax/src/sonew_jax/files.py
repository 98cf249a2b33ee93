"""Checkpoints that C, C++ and Julia programs can also read and write.

The state of an optimizer is a pytree of arrays, which Orbax, pickle or any other
tool for pytrees can save and restore. These functions use the library's own
safetensors file, so that a run can move between languages.
"""

import ctypes
from ctypes import POINTER, byref, c_char_p, c_int32, c_size_t, c_uint64, c_void_p
import os

import jax
import jax.numpy as jnp
import numpy as np

from . import _settings
from ._library import LibraryError, Options, Tensor, check, library
from ._optax import scale_by_sonew
from ._tree import Leaves, ScaleBySonewState, options

__all__ = ["load", "save"]

DTYPE_NUMBERS = {"float32": 1, "float64": 2, "bfloat16": 3, "float16": 4}


class Rename(ctypes.Structure):
    """sonew_rename"""

    _fields_ = [("from_name", c_char_p), ("to_name", c_char_p)]


class LoadOptions(ctypes.Structure):
    """sonew_load_options, as far as it is used here"""

    _fields_ = [
        ("struct_size", c_size_t),
        ("renames", POINTER(Rename)),
        ("rename_count", c_size_t),
        ("override_options", c_int32),
        ("common_tensors_only", c_int32),
    ]


class View(ctypes.Structure):
    """sonew_view"""

    _fields_ = [
        ("data", c_void_p),
        ("len", c_size_t),
        ("tensor", c_char_p),
        ("plane", c_char_p),
        ("ndim", c_size_t),
        ("dims", c_size_t * 8),
        ("dtype", c_int32),
        ("reserved", c_int32),
    ]


def save(path, params, state, *, weight_decay=0.0, mask=None, master_weights=False, **optimizer):
    """Saves parameters and state to a file of the library.

    The file is first written under a temporary name, and replaces `path` when it
    is complete and on disk. A tensor has the name of its leaf: `fc1.kernel`.

    Args:
      path: the file, which is replaced if it exists.
      params: the parameters.
      state: the optimizer's state, or one that contains it, such as that of
        `optax.chain`.
      weight_decay, mask, master_weights, **optimizer: the options that the
        optimizer was made with (except the learning rate), which are saved,
        too: a program that continues must use the same.

    Raises:
      LibraryError: the file cannot be written; the message has the reason.
      ValueError, TypeError: parameters or state do not match the options.
    """
    with Handle(params, weight_decay, mask, master_weights, optimizer) as handle:
        handle.put(find(state))
        pointers = handle.pointers(handle.params)
        check(library().sonew_save_any(handle.c, os.fsencode(path), pointers, len(pointers)))


def load(
    path,
    params,
    state,
    *,
    override_options=False,
    common_tensors_only=False,
    rename=None,
    weight_decay=0.0,
    mask=None,
    master_weights=False,
    **optimizer,
):
    """Loads parameters and state from a file that `save`, or a program in another
    language, wrote.

    Args:
      path: the file.
      params, state: parameters and state with the shapes, types and names that
        are expected, such as newly initialized ones. They are not changed.
      override_options: keep the optimizer's hyperparameters where the file has
        others.
      common_tensors_only: load the tensors that are in both the file and
        `params`, and keep the others.
      rename: a dict from names in the file to names of leaves.
      weight_decay, mask, master_weights, **optimizer: as for `save`.

    Returns:
      `(params, state)`, with the structure of those that were passed. The step
      count of a schedule in a chain is not in the file: it is set to the
      optimizer's count.

    Raises:
      LibraryError: the file is missing or damaged, or does not match the
        optimizer; the message has the reason, `status` the number of the
        sonew_status.
    """
    own = find(state)
    with Handle(params, weight_decay, mask, master_weights, optimizer) as handle:
        handle.put(own)
        c, arrays = library(), [np.array(array) for array in handle.params]
        loading = LoadOptions()
        size = ctypes.sizeof(loading)
        c.sonew_load_options_init.argtypes = [POINTER(LoadOptions), c_size_t]
        check(c.sonew_load_options_init(byref(loading), size))
        pairs = [Rename(old.encode(), new.encode()) for old, new in (rename or {}).items()]
        loading.renames, loading.rename_count = (Rename * len(pairs))(*pairs), len(pairs)
        loading.override_options = override_options
        loading.common_tensors_only = common_tensors_only
        pointers = handle.pointers(arrays)
        encoded = os.fsencode(path)
        check(c.sonew_load_any(handle.c, encoded, byref(loading), pointers, len(pointers)))
        loaded = handle.get(own)
        return handle.tree(arrays), replaced(state, loaded)


def is_own(node):
    return isinstance(node, ScaleBySonewState)


def find(state):
    """The one state of SONew in a larger one."""
    found = [node for node in jax.tree.leaves(state, is_leaf=is_own) if is_own(node)]
    if len(found) != 1:
        raise ValueError(f"the state contains {len(found)} states of SONew, expected one")
    return found[0]


def replaced(state, own):
    """The larger state with this one in it, and the counts of schedules set to
    its count."""
    import optax

    schedules = (optax.ScaleByScheduleState, getattr(optax, "WrappedScheduleState", ()))

    def replace(node):
        if is_own(node):
            return own
        if isinstance(node, schedules):
            return node._replace(count=own.count)
        return node

    stop = lambda node: is_own(node) or isinstance(node, schedules)
    return jax.tree.map(replace, state, is_leaf=stop)


class Handle:
    """An optimizer of the C API for the leaves of a tree."""

    def __init__(self, params, weight_decay, mask, master_weights, optimizer):
        from ._optax import decays

        defaults = scale_by_sonew.__kwdefaults__ | dict(
            zip(("beta1", "beta2", "eps", "gamma"), scale_by_sonew.__defaults__)
        )
        unknown = set(optimizer) - set(defaults)
        if unknown:
            raise TypeError(f"there is no option {sorted(unknown)[0]!r}")
        chosen = options(**(defaults | optimizer))._replace(master_weights=master_weights)
        self.leaves = Leaves(chosen, params)
        self.full = [i for i, a in enumerate(self.leaves.arrays) if np.prod(a.shape) > 0]
        self.params = [np.asarray(self.leaves.arrays[i]) for i in self.full]
        self.weight_decay = float(weight_decay)
        self.decays = decays(self.leaves, mask, params)
        self.chosen = chosen
        self.c = None

    def __enter__(self):
        c, settings = library(), self.chosen.settings
        own = Options()
        check(c.sonew_options_init(byref(own), ctypes.sizeof(own)))
        for name in ("beta1", "beta2", "eps", "gamma", "graft_eps"):
            setattr(own, name, float(self.chosen.numbers[name]))
        own.band, own.seed, own.threads = settings.band, settings.seed, 1
        own.statistics = _settings.STATISTICS[settings.statistics]
        own.damping = _settings.DAMPINGS[settings.damping]
        own.graft = _settings.GRAFTS[settings.graft]
        own.rounding = _settings.ROUNDINGS[settings.rounding]
        own.bias_correction = settings.bias_correction
        own.graft_bias_correction = settings.graft_bias_correction
        own.weight_decay = self.weight_decay

        tensors = (Tensor * len(self.full))()
        for tensor, i, array in zip(tensors, self.full, self.params):
            leaf = self.leaves.kinds[i]
            tensor.name = leaf.name.encode()
            tensor.ndim = array.ndim
            tensor.dims[: array.ndim] = array.shape
            tensor.chains = _settings.CHAINS[leaf.chains]
            tensor.update = _settings.UPDATES[leaf.update]
            tensor.dtype = DTYPE_NUMBERS[array.dtype.name]
            tensor.grad_dtype = tensor.dtype
            tensor.state_dtype = DTYPE_NUMBERS[self.leaves.state_dtypes[i].name]
            tensor.master = leaf.master
        self.declare(c)
        handle = c_void_p()
        check(c.sonew_create(byref(own), tensors, len(tensors), byref(handle)))
        self.c = handle
        for tensor, i in enumerate(self.full):
            decay = self.weight_decay * self.decays[i]
            check(c.sonew_set_weight_decay(handle, tensor, decay))
        return self

    def __exit__(self, *_):
        library().sonew_free(self.c)

    @staticmethod
    def declare(c):
        pointers = POINTER(c_void_p)
        for name, arguments in {
            "sonew_save_any": [c_void_p, c_char_p, pointers, c_size_t],
            "sonew_load_any": [c_void_p, c_char_p, POINTER(LoadOptions), pointers, c_size_t],
            "sonew_set_state": [c_void_p, c_uint64, pointers, c_size_t],
            "sonew_set_weight_decay": [c_void_p, c_size_t, ctypes.c_double],
            "sonew_plane_view": [c_void_p, c_size_t, c_size_t, POINTER(View), c_size_t],
        }.items():
            getattr(c, name).argtypes = arguments

    @staticmethod
    def pointers(arrays):
        return (c_void_p * len(arrays))(*[array.ctypes.data for array in arrays])

    def put(self, state):
        """Copies a state into the optimizer."""
        planes = self.leaves.planes(state)
        arrays = [np.asarray(plane) for i in self.full for plane in planes[i]]
        for i in self.full:
            wanted = self.leaves.state_dtypes[i]
            if planes[i][0].dtype != wanted:
                raise TypeError(
                    f"the state of {self.leaves.names[i]!r} is {planes[i][0].dtype}, but "
                    f"state_dtype is {wanted}"
                )
        arrays = [np.ascontiguousarray(array) for array in arrays]
        pointers = self.pointers(arrays)
        check(library().sonew_set_state(self.c, int(state.count), pointers, len(pointers)))

    def get(self, like):
        """The optimizer's state, as arrays."""
        c, planes = library(), self.leaves.planes(like)
        for tensor, i in enumerate(self.full):
            planes[i] = tuple(self.plane(tensor, p, like) for p, like in enumerate(planes[i]))
        steps = c_uint64()
        check(c.sonew_step_count(self.c, byref(steps)))
        count = jnp.asarray(min(steps.value, np.iinfo(np.int32).max), jnp.int32)
        return self.leaves.state(count, planes, like)

    def plane(self, tensor, plane, like):
        view = View()
        check(library().sonew_plane_view(self.c, tensor, plane, byref(view), ctypes.sizeof(view)))
        size = view.len * like.dtype.itemsize
        data = ctypes.string_at(view.data, size)
        array = np.frombuffer(data, dtype=like.dtype).reshape(like.shape)
        return jnp.array(array, copy=True)

    def tree(self, arrays):
        """The parameters, as a tree."""
        values = list(self.leaves.arrays)
        for i, array in zip(self.full, arrays):
            values[i] = jnp.array(array, copy=True)
        return self.leaves.tree(values)
