"""Checkpoints that C, C++ and Julia programs can also read and write.

The state of an optimizer is a pytree of arrays, which Orbax, pickle or any other
tool for pytrees can save and restore. These functions use the library's own
safetensors file, so that a run can move between languages.
"""

import ctypes
import itertools
import json
import os
from collections.abc import Sequence
from ctypes import byref, c_char_p, c_double, c_void_p
from typing import Any, Optional, Union

import jax
import jax.numpy as jnp
import numpy as np
import optax

from . import _around, _pieces, _settings
from .._structs import DTYPES, SCALARS, LoadOptions, View
from .._structs import Settings as TensorSettings
from ._around import on_host
from ._library import Options, Tensor, check, library
from ._optax import decays, scale_by_sonew
from ._settings import NumberOrSchedule
from ._tree import Leaves, ScaleBySonewState, is_masked, options

__all__ = ["load", "save"]

Path = Union[str, bytes, "os.PathLike[Any]"]
DTYPE_NUMBERS = {name: DTYPES[name] for name in ("float32", "float64", "bfloat16", "float16")}


def save(
    path: Path,
    params: Any,
    state: Any,
    *,
    weight_decay: NumberOrSchedule = 0.0,
    mask: Any = None,
    master_weights: bool = False,
    **optimizer: Any,
) -> None:
    """Saves parameters and state to a file of the library.

    The file is first written under a temporary name, and replaces `path` when it
    is complete and on disk. A tensor has the name of its leaf: `fc1.kernel`.

    If arrays are spread over several processes, all of them call this, with the same
    options, and each writes a file of its own beside the others', instead of
    `step.safetensors` for example `step-00001-of-00004.safetensors`: rows of leaves, or
    whole leaves, which are gathered one after the other. It returns when all files are
    complete.

    Args:
      path: the file, which is replaced if it exists.
      params: the parameters.
      state: the optimizer's state, or one that contains it, such as that of
        `optax.chain`, `optax.masked` or `optax.inject_hyperparams`. What else is
        in it, and parameters that SONew has no state for, are saved, too, up to
        16 MiB; only `load` reads them.
      weight_decay, mask, master_weights, **optimizer: the options that the
        optimizer was made with (except the learning rate), which are saved,
        too: a program that continues must use the same. Of a schedule of the
        weight decay, the file has the value at 0.

    Raises:
      LibraryError: the file cannot be written; the message has the reason.
      RuntimeError: another process could not write its file.
      ValueError, TypeError: parameters or state do not match the options, or
        cannot be saved, with the name of the leaf: `partition_specs` cuts it so that
        chains of its parts are no pieces of those of the whole leaf;
        or what is not of SONew's state has over 16 MiB.
    """
    own = find(state)
    mine, others = split(params, own.momentum)
    around = _around.encoded(standing_around(state, others))
    skipped = int(on_host("the number of skipped steps", own.skipped))
    text = {"skipped": skipped, "around": around} if around or skipped else {}
    handle = Handle(mine, weight_decay, mask, master_weights, optimizer)
    if not _pieces.is_spread(params, state):
        handle.pieces = _pieces.to_load(handle.leaves)
        handle.save(path, own, text)
        return
    of_processes = _pieces.to_save(handle.leaves)
    number = {process: n for n, process in enumerate(of_processes, 1)}
    handle.pieces = of_processes.get(jax.process_index(), [])
    text[_pieces.SET] = _pieces.new_save()
    arrays = handle.arrays(own, _pieces.part, itertools.chain(*of_processes.values()))
    error = None
    try:
        if handle.pieces:
            name = _pieces.name_of(path, number[jax.process_index()], len(number))
            handle.save(name, own, text, arrays)
    except Exception as raised:
        error = raised
    _pieces.all_have(error)


def load(
    path: Path,
    params: Any,
    state: Any,
    *,
    override_options: bool = False,
    overrides: Sequence[str] = (),
    common_tensors_only: bool = False,
    rename: Optional[dict[str, str]] = None,
    weight_decay: NumberOrSchedule = 0.0,
    mask: Any = None,
    master_weights: bool = False,
    **optimizer: Any,
) -> tuple[Any, Any]:
    """Loads parameters and state from a file that `save`, or a program in another
    language, wrote.

    Args:
      path: the file, or the name in the place of which several processes wrote one
        each. Any number of processes can load these; each reads the rows that it has.
      params, state: parameters and state with the shapes, types and names that
        are expected, such as newly initialized ones. They are not changed.
      override_options: keep the optimizer's hyperparameters where the file has
        others.
      overrides: the same for single ones, by the names that a refusal gives:
        `["beta1", "weight_decay"]`.
      common_tensors_only: load the tensors that are in both the file and
        `params`, and keep the others; the same for state around SONew's.
      rename: a dict from names in the file to names of leaves.
      weight_decay, mask, master_weights, **optimizer: as for `save`.

    Returns:
      `(params, state)`, with the structure of those that were passed, and sharded
      as those are. A file that a program in another language wrote has no state
      around SONew's: the step counts of schedules are set to SONew's count.

    Raises:
      LibraryError: the file is missing or damaged, or does not match the
        optimizer; the message has the reason, `status` the number of the
        sonew_status.
      ValueError, TypeError: a file of several is missing, or of another save; the
        name stands for several sets of files; parameters or state do not match the
        options, or state around SONew's is not in the file, with the name of the leaf; or
        leaves took part in different numbers of steps (in another program, or
        with `common_tensors_only` those that are not in the file), for which a
        state has no counts; or another program took steps with betas of their
        own, whose bias correction a state does not have.
    """
    own = find(state)
    mine, others = split(params, own.momentum)
    like = standing_around(state, others)
    # Values that nothing is kept of are not needed.
    host = _pieces.part if common_tensors_only else _pieces.shaped_part
    handle = Handle(mine, weight_decay, mask, master_weights, optimizer)
    handle.pieces = _pieces.to_load(handle.leaves)
    paths = _pieces.files(path)
    arrays, planes = handle.arrays(own, host)
    with handle:
        handle.put(own, planes, host)
        c, arrays = library(), [np.array(array) for array in arrays]
        loading = LoadOptions()
        size = ctypes.sizeof(loading)
        check(c.sonew_load_options_init(byref(loading), size))
        names = [name.encode() for pair in (rename or {}).items() for name in pair]
        loading.renames = (c_char_p * len(names))(*names)
        loading.rename_count = len(names) // 2
        kept = [name.encode() for name in overrides]
        loading.overrides = (c_char_p * len(kept))(*kept)
        loading.override_count = len(kept)
        loading.override_options = override_options
        loading.common_tensors_only = common_tensors_only
        first, *further = map(os.fsencode, paths)
        loading.paths = (c_char_p * len(further))(*further)
        loading.path_count = len(further)
        pointers = handle.pointers(arrays)
        check(c.sonew_load(handle.c, first, byref(loading), pointers, len(pointers)))
        text = json.loads(handle.text() or _around.read_older(first) or "{}")
        loaded = handle.get(own, text.get("skipped", 0))
        around = _around.restored(
            text.get("around", {}), like, int(loaded.count), common_tensors_only
        )
        params = joined(handle.tree(arrays), put_back("params", others, around), own.momentum)
        return params, put_back("state", state, around, loaded)


def is_own(node):
    return isinstance(node, ScaleBySonewState)


def find(state):
    """The one state of SONew in a larger one."""
    found = [node for node in jax.tree.leaves(state, is_leaf=is_own) if is_own(node)]
    if len(found) != 1:
        raise ValueError(f"the state contains {len(found)} states of SONew, expected one")
    count = found[0].count
    if np.shape(count) != ():
        raise ValueError(f"the state has {np.size(count)} counts, as under jax.vmap: a file has one")
    return found[0]


def split(params, momentum):
    """The parameters that SONew has a momentum for, and the others, each as a tree
    with `optax.MaskedNode` in the place of the rest."""

    def part(mine):
        pick = lambda m, p: p if is_masked(m) != mine else optax.MaskedNode()
        return jax.tree.map(pick, momentum, params, is_leaf=is_masked)

    try:
        return part(True), part(False)
    except (ValueError, TypeError, KeyError):
        # Then nothing is masked, and what does not fit is named as in a step.
        return params, ()


def joined(mine, others, momentum):
    """The whole tree of parameters."""
    pick = lambda m, p, other: other if is_masked(m) else p
    return jax.tree.map(pick, momentum, mine, others, is_leaf=is_masked)


def standing_around(state, others):
    """By name, the leaves of a state that are not of SONew's, and of parameters."""
    leaves = {}
    for root, tree in ("state", state), ("params", others):
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_own)[0]:
            if not is_own(leaf):
                leaves[root + jax.tree_util.keystr(path)] = leaf
    return leaves


def put_back(root, tree, around, own=None):
    """The tree with these leaves, and with this state of SONew."""

    def leaf(path, old):
        return own if is_own(old) else around[root + jax.tree_util.keystr(path)]

    return jax.tree_util.tree_map_with_path(leaf, tree, is_leaf=is_own)


class Handle:
    """An optimizer of the C API for the leaves of a tree, or those pieces of them that a
    process has in its file."""

    def __init__(self, params, weight_decay, mask, master_weights, optimizer):
        defaults = scale_by_sonew.__kwdefaults__ | dict(
            zip(("beta1", "beta2", "eps", "gamma"), scale_by_sonew.__defaults__)
        )
        unknown = set(optimizer) - set(defaults)
        if unknown:
            raise TypeError(f"there is no option {sorted(unknown)[0]!r}")
        chosen = options(**(defaults | optimizer))._replace(master_weights=master_weights)
        self.leaves = Leaves(chosen, params)
        self.pieces = _pieces.whole(self.leaves)
        self.weight_decay = float(weight_decay(0) if callable(weight_decay) else weight_decay)
        self.decays = decays(self.leaves, mask, params)
        self.chosen = chosen
        self.c = None

    def __enter__(self):
        c, settings = library(), self.chosen.settings
        own = Options()
        check(c.sonew_options_init(byref(own), ctypes.sizeof(own)))
        for name in ("beta1", "beta2", "eps", "gamma", "graft_eps", "shrink"):
            setattr(own, name, float(self.chosen.numbers[name]))
        own.band, own.rank, own.seed, own.threads = settings.band, settings.rank, settings.seed, 1
        own.statistics = _settings.STATISTICS[settings.statistics]
        own.damping = _settings.DAMPINGS[settings.damping]
        own.graft = _settings.GRAFTS[settings.graft]
        own.rounding = _settings.ROUNDINGS[settings.rounding]
        own.bias_correction = settings.bias_correction
        own.graft_bias_correction = settings.graft_bias_correction
        own.lagged_norms, own.nesterov = settings.lagged_norms, settings.nesterov
        own.pooling = _settings.POOLINGS[settings.pooling]
        own.weight_decay = self.weight_decay

        tensors = (Tensor * len(self.pieces))()
        check(c.sonew_tensors_init(tensors, len(tensors), ctypes.sizeof(Tensor)))
        for tensor, piece in zip(tensors, self.pieces):
            i = piece.leaf
            leaf, array = self.leaves.kinds[i], self.leaves.arrays[i]
            tensor.name = leaf.name.encode()
            tensor.ndim = len(array.shape)
            tensor.dims[: tensor.ndim] = piece.shape(array.shape)
            if piece.rows is not None:
                tensor.first_row, tensor.whole_rows = piece.rows[0], array.shape[0]
            tensor.chains = _settings.CHAINS[leaf.chains]
            tensor.update = _settings.UPDATES[leaf.update]
            tensor.dtype = DTYPE_NUMBERS[jnp.dtype(array.dtype).name]
            tensor.grad_dtype = tensor.dtype
            tensor.state_dtype = DTYPE_NUMBERS[self.leaves.state_dtypes[i].name]
            tensor.master = leaf.master
        handle = c_void_p()
        check(c.sonew_create(byref(own), tensors, len(tensors), byref(handle)))
        self.c = handle
        for tensor, piece in enumerate(self.pieces):
            self.change(tensor, weight_decay=self.weight_decay * self.decays[piece.leaf])
        return self

    def __exit__(self, *_):
        library().sonew_free(self.c)

    @staticmethod
    def pointers(arrays):
        return (c_void_p * len(arrays))(*[array.ctypes.data for array in arrays])

    def settings(self, tensor):
        """The settings of a tensor of the optimizer."""
        settings = TensorSettings()
        size = ctypes.sizeof(settings)
        check(library().sonew_get_settings(self.c, tensor, byref(settings), size))
        return settings

    def change(self, tensor, **changes):
        """Changes some of them."""
        settings = self.settings(tensor)
        for name, value in changes.items():
            setattr(settings, name, value)
        check(library().sonew_set_settings(self.c, tensor, byref(settings)))

    def arrays(self, state, host, others=()):
        """Parameters and state of the pieces, which `host` converts to arrays of numpy. What
        no process has whole is gathered, for which all processes pass the pieces of all."""
        planes = self.leaves.planes(state)
        own, shared = set(self.pieces), {piece for piece in others if piece.rows is None}
        params, states = [], []
        for piece in sorted(own | shared):
            i, wanted = piece.leaf, self.leaves.state_dtypes[piece.leaf]
            name = repr(self.leaves.names[i])
            if planes[i][0].dtype != wanted:
                raise TypeError(
                    f"the state of {name} is {planes[i][0].dtype}, but state_dtype is {wanted}"
                )
            param = host(name, self.leaves.arrays[i], piece)
            state = [
                np.ascontiguousarray(host(f"the state of {name}", plane, self.of_plane(piece, p)))
                for p, plane in enumerate(planes[i])
            ]
            if piece in own:
                params.append(param)
                states += state
        return params, states

    def of_plane(self, piece, p):
        """What a piece has of a state plane: pooled sums belong to the whole leaf."""
        pooled_at = self.leaves.kinds[piece.leaf].pooled_at(self.chosen.settings)
        return _pieces.Piece(piece.leaf) if p == pooled_at else piece

    def put(self, state, planes, host):
        """Copies a state into the optimizer, of which these are the planes."""
        pointers = self.pointers(planes)
        count = int(host("the count", state.count))
        check(library().sonew_set_state(self.c, count, pointers, len(pointers)))
        if self.chosen.settings.needs_scalars():
            scalars = host("scalars of the state", self.leaves.scalars(state))
            for tensor, piece in enumerate(self.pieces):
                own = np.ascontiguousarray(scalars[piece.leaf])
                ratio, largest = own.view(np.float64)[:, 0]
                self.change(tensor, scalars=(c_double * SCALARS)(ratio, 0, 0, largest))

    def set_text(self, text):
        check(library().sonew_set_text(self.c, _around.KEY.encode(), text.encode()))

    def text(self):
        """The text that the last load has found, or None."""
        text = c_char_p()
        check(library().sonew_get_text(self.c, _around.KEY.encode(), byref(text)))
        return text.value.decode() if text.value is not None else None

    def save(self, path, state, text, arrays=None):
        """Saves the pieces of these parameters and planes: by default, of the tree's own."""
        params, planes = self.arrays(state, _pieces.part) if arrays is None else arrays
        with self:
            self.put(state, planes, _pieces.part)
            if text:
                self.set_text(json.dumps(text))
            pointers = self.pointers(params)
            check(library().sonew_save(self.c, os.fsencode(path), pointers, len(pointers)))

    def get(self, like, skipped):
        """The optimizer's state, as arrays where those of `like` are."""
        planes = self.leaves.planes(like)
        for tensor, piece in enumerate(self.pieces):
            planes[piece.leaf] = tuple(
                self.plane(tensor, self.of_plane(piece, p), p, like)
                for p, like in enumerate(planes[piece.leaf])
            )
        most = np.iinfo(np.int32).max
        count = _pieces.placed(np.int32(min(self.count(), most)), None, like.count)
        skipped = _pieces.placed(np.int32(skipped), None, like.skipped)
        return self.leaves.state(count, skipped, planes, self.scalars(like), like)

    def scalars(self, like):
        """The scalars of all leaves, as an array where that of `like` is."""
        scalars = np.zeros((len(self.leaves.arrays), 2, 1))
        for tensor, (i, _) in enumerate(self.pieces):
            ratio, *corrections, largest = self.settings(tensor).scalars
            scalars[i] = [[ratio], [largest]]
            if any(corrections):
                raise ValueError(
                    f"{self.leaves.names[i]!r} took steps with betas of their own, and a state "
                    "has no number for their bias correction"
                )
        if not self.chosen.settings.needs_scalars():
            return ()
        return _pieces.placed(scalars.view(np.uint32), None, like.scalars)

    def count(self):
        """The steps that every leaf took part in. In JAX all leaves of a state take
        part in each step, so that it has one count; in another program each tensor
        has its own."""
        names = {}
        for tensor, (i, _) in enumerate(self.pieces):
            names.setdefault(self.settings(tensor).step_count, self.leaves.names[i])
        if len(names) > 1:
            (some, name), (others, other) = list(names.items())[:2]
            raise ValueError(
                f"{name!r} took part in {some} steps and {other!r} in {others}, but a state "
                "has one count of steps for all of its leaves"
            )
        return next(iter(names))

    def plane(self, tensor, piece, plane, like):
        view = View()
        check(library().sonew_plane_view(self.c, tensor, plane, byref(view), ctypes.sizeof(view)))
        size = view.len * like.dtype.itemsize
        data = ctypes.string_at(view.data, size)
        data = np.frombuffer(data, dtype=like.dtype).reshape(piece.shape(like.shape))
        return _pieces.placed(data, piece, like)

    def tree(self, arrays):
        """The parameters, as a tree."""
        values = list(self.leaves.arrays)
        for piece, array in zip(self.pieces, arrays):
            values[piece.leaf] = _pieces.placed(array, piece, values[piece.leaf])
        return self.leaves.tree(values)
