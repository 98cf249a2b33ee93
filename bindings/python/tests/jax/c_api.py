"""The stateless step of the C API, through ctypes: what the custom call is
compared with."""

import ctypes
from ctypes import byref, c_double, c_void_p

import numpy as np
from sonew.jax import _settings
from sonew.jax._library import Options, Tensor, check, library
from sonew._structs import SCALARS, Buffers, StepOptions
from sonew.jax.files import DTYPE_NUMBERS


NAMES = {
    "statistics": _settings.STATISTICS,
    "damping": _settings.DAMPINGS,
    "graft": _settings.GRAFTS,
    "rounding": _settings.ROUNDINGS,
    "pooling": _settings.POOLINGS,
}


class Plan:
    """A plan for arrays of these shapes and types."""

    def __init__(self, params, state_dtypes, chains, updates, master=False, **options):
        self.c = library()
        self.scalars = None
        own = Options()
        check(self.c.sonew_options_init(byref(own), ctypes.sizeof(own)))
        for name, value in options.items():
            setattr(own, name, NAMES[name][value] if name in NAMES else value)
        tensors = (Tensor * len(params))()
        check(self.c.sonew_tensors_init(tensors, len(params), ctypes.sizeof(Tensor)))
        for i, (tensor, array) in enumerate(zip(tensors, params)):
            tensor.name = b"%d" % i
            tensor.ndim = array.ndim
            tensor.dims[: array.ndim] = array.shape
            tensor.chains = _settings.CHAINS[chains[i]]
            tensor.update = _settings.UPDATES[updates[i]]
            tensor.dtype = DTYPE_NUMBERS[array.dtype.name]
            tensor.state_dtype = DTYPE_NUMBERS[np.dtype(state_dtypes[i]).name]
            tensor.master = master
        self.handle = c_void_p()
        create = self.c.sonew_plan_create
        check(create(byref(own), tensors, len(params), byref(self.handle)))

    def step(
        self, number, grads, planes, params=None, directions=None, weight_decay=0.0, lr_scales=None, **step
    ):
        """Takes a step over numpy arrays, which are written in place. Returns
        the status."""
        count = len(grads)
        # Kept for the next step.
        self.scalars = self.scalars or [(c_double * SCALARS)() for _ in grads]
        own = StepOptions()
        check(self.c.sonew_step_options_init(byref(own), ctypes.sizeof(own)))
        for name, value in step.items():
            setattr(own, name, value)
        buffers = (Buffers * count)()
        check(self.c.sonew_buffers_init(buffers, count, ctypes.sizeof(Buffers)))
        lists = []
        for i, entry in enumerate(buffers):
            target = (params if directions is None else directions)[i]
            if directions is None:
                entry.params = target.ctypes.data
            else:
                entry.direction = target.ctypes.data
            entry.grad = grads[i].ctypes.data
            lists.append((c_void_p * len(planes[i]))(*[p.ctypes.data for p in planes[i]]))
            entry.planes = lists[-1]
            entry.plane_count = len(planes[i])
            entry.len = target.size
            entry.weight_decay = weight_decay
            entry.scalars = self.scalars[i]
            entry.lr_scale = 1.0 if lr_scales is None else lr_scales[i]
        return self.c.sonew_plan_step(self.handle, byref(own), number, buffers, count)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        check(self.c.sonew_plan_free(self.handle))
