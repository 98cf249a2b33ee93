"""An optimizer of the C API for buffers that are passed by address: the level of numpy, below
the packages for PyTorch and JAX."""

import ctypes
import os
from collections.abc import Sequence
from ctypes import byref, c_char_p, c_double, c_void_p
from dataclasses import dataclass, field
from typing import Any, Optional, Union

import numpy as np

from . import _structs
from ._library import c, check, filled, filled_list, number_of, set_fields

Path = Union[str, bytes, "os.PathLike[Any]"]
ELEMENT = {1: np.float32, 2: np.float64, 3: np.uint16, 4: np.float16}


@dataclass
class Tensor:
    """A tensor of an optimizer.

    Attributes:
      name: different from those of the other tensors. Files identify tensors by it.
      shape: at most 8 dimensions, the last one fastest in memory.
      chains: "contiguous", "strided", "contiguous_lines" or "strided_lines".
      update: "sonew" or "adam".
      dtype, grad_dtype, state_dtype: "default", "float32", "float64", "bfloat16" or "float16".
      master: keep float32 master weights in the state.
      options: a dict of options that differ from those of the optimizer: band, beta1,
        beta2, eps, gamma, shrink, graft_eps and weight_decay may.
      first_row, whole_rows: the tensor is a shard, the rows from first_row on of a larger one
        that has whole_rows rows; a row is an index of the first dimension. 0: it is no shard.
    """

    name: str
    shape: tuple
    chains: str = "contiguous"
    update: str = "sonew"
    dtype: str = "default"
    grad_dtype: str = "default"
    state_dtype: str = "default"
    master: bool = False
    options: dict = field(default_factory=dict)
    first_row: int = 0
    whole_rows: int = 0


def options_struct(options):
    """A sonew_options with these, the rest defaults."""
    own = filled(_structs.Options)
    set_fields(own, options, _structs.OPTION_NAMES)
    return own


def tensor_structs(listed, all_options):
    """A list of sonew_tensor of these tensors. It keeps what it points to."""
    structs = filled_list(_structs.Tensor, len(listed), "sonew_tensors_init")
    structs.kept = []
    for struct, tensor in zip(structs, listed):
        if len(tensor.shape) > _structs.MAX_DIMS:
            raise ValueError(
                f"{tensor.name!r} has {len(tensor.shape)} dimensions, and at most "
                f"{_structs.MAX_DIMS} are possible"
            )
        struct.name = tensor.name.encode()
        struct.ndim = len(tensor.shape)
        struct.dims[: len(tensor.shape)] = tensor.shape
        for name, names in _structs.TENSOR_NAMES.items():
            setattr(struct, name, number_of(name, getattr(tensor, name), names))
        struct.master = tensor.master
        struct.first_row, struct.whole_rows = tensor.first_row, tensor.whole_rows
        if tensor.options:
            own = options_struct(all_options | tensor.options)
            structs.kept.append(own)
            struct.options = ctypes.pointer(own)
    return structs


def addresses(buffers: Sequence[Any]) -> Any:
    """A list of addresses as the C API takes it, which a program may keep and pass again:
    of contiguous numpy arrays, numbers that are addresses, and None."""
    listed = (c_void_p * len(buffers))()
    # Arrays live as long as the list.
    listed.kept = list(buffers)
    for i, buffer in enumerate(buffers):
        if isinstance(buffer, np.ndarray):
            if not buffer.flags.c_contiguous:
                raise ValueError(f"array {i} is not contiguous")
            buffer = buffer.ctypes.data
        listed[i] = buffer
    return listed


class Optimizer:
    """An optimizer that owns the state of a list of tensors, as sonew_create() makes it.

    Parameters and gradients stay in the caller's buffers, and are passed to each step: numpy
    arrays, or addresses.

    Args:
      tensors: a list of `Tensor`.
      **options: those of sonew_options: band, threads, beta1, beta2, eps, gamma, graft_eps,
        weight_decay, seed, statistics, damping, graft, bias_correction,
        graft_bias_correction, rounding, instruction_set, lagged_norms, nesterov, pooling, rank and
        shrink. What has a name in C has it here in small letters: graft="none".

    Raises:
      LibraryError: an option or a tensor is refused; the message says which.
      TypeError, ValueError: there is no such option, or no such value.

    Examples:
      >>> import numpy as np, sonew
      >>> w, grad = np.zeros(3, np.float32), np.zeros(3, np.float32)
      >>> optimizer = sonew.Optimizer([sonew.Tensor("w", w.shape)])
      >>> for _ in range(200):
      ...   grad[:] = 2 * (w - 3)
      ...   optimizer.step([w], [grad], lr=0.1)
      >>> print(abs(w - 3).max() < 0.1)
      True
    """

    def __init__(self, tensors: Sequence[Tensor], **options: Any):
        self.handle = None
        self.tensors = list(tensors)
        own = options_struct(options)
        structs = tensor_structs(self.tensors, options)
        handle = c_void_p()
        check(c().sonew_create(byref(own), structs, len(structs), byref(handle)))
        self.handle = handle
        self._step = filled(_structs.StepOptions)
        self._defaults = {name: getattr(self._step, name) for name, _ in self._step._fields_[1:-1]}
        self._last = None
        self._sizes = [int(np.prod(t.shape)) for t in self.tensors]
        self._types = [(s.dtype or 1, s.grad_dtype or s.dtype or 1) for s in structs]

    def __del__(self):
        self.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:
        """Frees the state. What was not saved is lost."""
        handle, self.handle = self.handle, None
        if handle is not None:
            c().sonew_free(handle)

    def _listed(self, buffers, which, what):
        """The addresses of buffers, after a look at what is known of them."""
        if isinstance(buffers, ctypes.Array):
            return buffers
        for i, buffer in enumerate(buffers):
            if isinstance(buffer, np.ndarray) and i < len(self.tensors):
                name, wanted = self.tensors[i].name, ELEMENT[self._types[i][which]]
                if buffer.size != self._sizes[i]:
                    raise ValueError(
                        f"the {what} of {name!r} has {buffer.size} elements, and the tensor "
                        f"{self._sizes[i]}"
                    )
                sixteen = wanted is np.uint16 and buffer.dtype.itemsize == 2
                if buffer.dtype != wanted and not sixteen:
                    raise TypeError(
                        f"the {what} of {name!r} is {buffer.dtype}, expected "
                        f"{np.dtype(wanted)}"
                    )
        return addresses(buffers)

    def step(self, params: Any, grads: Any, lr: float, **step: Any) -> None:
        """Takes a step: parameters and state are updated.

        Args:
          params, grads: a buffer for each tensor: a numpy array, or an address, or lists that
            `addresses` made. Of a gradient that is None the tensor takes no part.
          lr: learning rate.
          **step: the fields of sonew_step_options: grad_scale, statistics_weight, clip_norm,
            beta1, beta2 and non_finite ("skip" or "unchecked").

        Raises:
          LibraryError: the step is refused and has changed nothing. `status` is
            `sonew.NON_FINITE_GRADIENT` if a gradient is not finite.
        """
        if (lr, step) != self._last:
            self._set_step(lr, dict(step))
            self._last = lr, step
        params = self._listed(params, 0, "parameter")
        grads = self._listed(grads, 1, "gradient")
        if len(params) != len(grads):
            raise ValueError(f"there are {len(params)} parameters and {len(grads)} gradients")
        check(c().sonew_step(self.handle, byref(self._step), params, grads, len(params)))

    def _set_step(self, lr, step):
        if "non_finite" in step:
            step["non_finite"] = number_of("non_finite", step["non_finite"], _structs.NON_FINITE)
        self._last = None
        set_fields(self._step, self._defaults | {"lr": lr} | step, {})

    def info(self) -> _structs.Info:
        """What there is to know of the optimizer, with the fields of sonew_optimizer_info."""
        info = _structs.Info()
        check(c().sonew_info(self.handle, byref(info), ctypes.sizeof(info)))
        return info

    def save(self, path: Path, params: Optional[Any] = None) -> None:
        """Saves the state, and parameters if they are passed, to a file of the library."""
        listed = self._listed(params if params is not None else [], 0, "parameter")
        check(c().sonew_save(self.handle, os.fsencode(path), listed, len(listed)))

    def load(
        self,
        path: Path,
        params: Optional[Any] = None,
        *,
        rename: Optional[dict[str, str]] = None,
        overrides: Sequence[str] = (),
        override_options: bool = False,
        common_tensors_only: bool = False,
        convert_state: bool = False,
        mode: str = "read",
        more: Sequence[Path] = (),
    ) -> None:
        """Loads what `save`, or a program in another language, has saved.

        Args:
          path: the file.
          params: buffers that receive the parameters of the file; None for the state alone.
          rename: a dict from names in the file to names of tensors.
          overrides, override_options: options in which the file may differ, by their names,
            or all of them.
          common_tensors_only: load the tensors that are in both.
          convert_state: convert state of another type.
          mode: "read", "map_private" or "map_shared".
          more: further files, which with the first hold the rows of the tensors.
        """
        loading = filled(_structs.LoadOptions)
        names = [name.encode() for pair in (rename or {}).items() for name in pair]
        kept = [name.encode() for name in overrides]
        loading.renames, loading.rename_count = (c_char_p * len(names))(*names), len(names) // 2
        loading.overrides, loading.override_count = (c_char_p * len(kept))(*kept), len(kept)
        paths = [os.fsencode(other) for other in more]
        loading.paths, loading.path_count = (c_char_p * len(paths))(*paths), len(paths)
        loading.override_options = override_options
        loading.common_tensors_only = common_tensors_only
        loading.convert_state = convert_state
        loading.mode = number_of("mode", mode, _structs.MODES)
        listed = self._listed(params if params is not None else [], 0, "parameter")
        path = os.fsencode(path)
        check(c().sonew_load(self.handle, path, byref(loading), listed, len(listed)))

    def set_state(self, step_count: int, planes: Sequence[Any]) -> None:
        """Replaces the state by a copy: of each tensor all planes, in order."""
        listed = addresses(planes)
        check(c().sonew_set_state(self.handle, step_count, listed, len(listed)))

    def settings(self, tensor: int) -> _structs.Settings:
        """The settings of a tensor, with the fields of sonew_settings."""
        settings = _structs.Settings()
        size = ctypes.sizeof(settings)
        check(c().sonew_get_settings(self.handle, tensor, byref(settings), size))
        return settings

    def set_settings(self, tensor: int, **changes: Any) -> None:
        """Changes settings of a tensor: lr_scale, weight_decay, step_count, scalars."""
        settings = self.settings(tensor)
        if "scalars" in changes:
            changes["scalars"] = (c_double * _structs.SCALARS)(*changes["scalars"])
        set_fields(settings, changes, {})
        check(c().sonew_set_settings(self.handle, tensor, byref(settings)))

    def plane_names(self, tensor: int) -> list[str]:
        """The names of a tensor's state planes, in order."""
        first = self._view(tensor, 0)
        views = [first] + [self._view(tensor, i) for i in range(1, first.plane_count)]
        return [view.plane.decode() for view in views]

    def planes(self, tensor: int) -> dict[str, np.ndarray]:
        """The state planes of a tensor by name, as arrays that may only be read, and only until
        the next call. `tensor` is its index in the list, from 0. bfloat16 is shown as uint16."""
        found = {}
        for i in range(self._view(tensor, 0).plane_count):
            view = self._view(tensor, i)
            kind = np.dtype(ELEMENT[view.dtype])
            memory = (ctypes.c_char * (view.len * kind.itemsize)).from_address(view.data or 0)
            array = np.frombuffer(memory, kind) if view.len else np.empty(0, kind)
            array.flags.writeable = False
            found[view.plane.decode()] = array.reshape(view.dims[: view.ndim])
        return found

    def _view(self, tensor, plane):
        view = _structs.View()
        check(c().sonew_plane_view(self.handle, tensor, plane, byref(view), ctypes.sizeof(view)))
        return view

    def set_text(self, key: str, text: Optional[str]) -> None:
        """Keeps a text of the program under a key, which every save writes, too."""
        encoded = None if text is None else text.encode()
        check(c().sonew_set_text(self.handle, key.encode(), encoded))

    def text(self, key: str) -> Optional[str]:
        """The text under a key, or None."""
        text = c_char_p()
        check(c().sonew_get_text(self.handle, key.encode(), byref(text)))
        return text.value.decode() if text.value is not None else None
