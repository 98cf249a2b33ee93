"""libsonew through its C API: the part that a benchmark needs.

Structs and numbers are those of include/sonew.h; the library's init functions
refuse a struct of another size.
"""

import ctypes
from ctypes import POINTER, byref, c_char_p, c_double, c_int32, c_size_t, c_uint64, c_void_p

GRAFTS = {"none": 0, "sgd": 1, "momentum": 2, "adam": 3, "normalized rmsprop": 4}
CHAINS = {"contiguous": 0, "strided": 1, "contiguous lines": 2, "strided lines": 3}
DTYPES = {"float32": 1, "bfloat16": 3}
SKIP, UNCHECKED = 0, 1
MAX_DIMS = 8


class Options(ctypes.Structure):
    """sonew_options"""

    _fields_ = [
        ("struct_size", c_size_t),
        ("band", c_int32),
        ("threads", c_int32),
        ("beta1", c_double),
        ("beta2", c_double),
        ("eps", c_double),
        ("gamma", c_double),
        ("graft_eps", c_double),
        ("weight_decay", c_double),
        ("seed", c_uint64),
        ("statistics", c_int32),
        ("damping", c_int32),
        ("graft", c_int32),
        ("bias_correction", c_int32),
        ("graft_bias_correction", c_int32),
        ("rounding", c_int32),
        ("instruction_set", c_int32),
        ("lagged_norms", c_int32),
        ("nesterov", c_int32),
        ("pooling", c_int32),
        ("pool", c_void_p),
        ("shrink", c_double),
    ]


class Tensor(ctypes.Structure):
    """sonew_tensor"""

    _fields_ = [
        ("struct_size", c_size_t),
        ("name", c_char_p),
        ("ndim", c_size_t),
        ("dims", c_size_t * MAX_DIMS),
        ("first_row", c_size_t),
        ("whole_rows", c_size_t),
        ("chains", c_int32),
        ("update", c_int32),
        ("dtype", c_int32),
        ("grad_dtype", c_int32),
        ("state_dtype", c_int32),
        ("master", c_int32),
        ("reserved", c_int32 * 2),
    ]


class StepOptions(ctypes.Structure):
    """sonew_step_options"""

    _fields_ = [
        ("struct_size", c_size_t),
        ("lr", c_double),
        ("grad_scale", c_double),
        ("statistics_weight", c_double),
        ("clip_norm", c_double),
        ("beta1", c_double),
        ("beta2", c_double),
        ("non_finite", c_int32),
        ("reserved", c_int32 * 1),
    ]


class Info(ctypes.Structure):
    """sonew_optimizer_info"""

    _fields_ = [
        ("step_count", c_uint64),
        ("gradient_norm", c_double),
        ("tensor_count", c_size_t),
        ("state_bytes", c_size_t),
        ("memory_bytes", c_size_t),
        ("threads", c_size_t),
        ("instruction_set", c_char_p),
    ]


class Library:
    """The shared library, with the functions that are used here."""

    def __init__(self, path):
        self.c = ctypes.CDLL(str(path))
        self.c.sonew_last_error.restype = c_char_p
        self.c.sonew_version.restype = c_char_p
        pointers = POINTER(c_void_p)
        for name, arguments in {
            "sonew_options_init": [POINTER(Options), c_size_t],
            "sonew_step_options_init": [POINTER(StepOptions), c_size_t],
            "sonew_tensors_init": [POINTER(Tensor), c_size_t, c_size_t],
            "sonew_create": [POINTER(Options), POINTER(Tensor), c_size_t, pointers],
            "sonew_step": [c_void_p, POINTER(StepOptions), pointers, pointers, c_size_t],
            "sonew_info": [c_void_p, POINTER(Info), c_size_t],
            "sonew_free": [c_void_p],
        }.items():
            getattr(self.c, name).argtypes = arguments

    def version(self):
        return self.c.sonew_version().decode()

    def check(self, status):
        if status != 0:
            raise RuntimeError(self.c.sonew_last_error().decode())

    def filled(self, struct, init):
        """A struct with the library's defaults."""
        value = struct()
        self.check(init(byref(value), ctypes.sizeof(value)))
        return value


class Optimizer:
    """A handle for tensors of these shapes."""

    def __init__(self, library, shapes, *, lr, non_finite, chains, state_dtype=0, **options):
        self.library = library
        self.count = len(shapes)
        self.options = library.filled(Options, library.c.sonew_options_init)
        for name, value in options.items():
            setattr(self.options, name, value)
        self.step_options = library.filled(StepOptions, library.c.sonew_step_options_init)
        self.step_options.lr = lr
        self.step_options.non_finite = non_finite
        tensors = (Tensor * self.count)()
        size = ctypes.sizeof(Tensor)
        library.check(library.c.sonew_tensors_init(tensors, self.count, size))
        for i, shape in enumerate(shapes):
            tensors[i].name = b"tensor %d" % i
            tensors[i].ndim = len(shape)
            tensors[i].dims[: len(shape)] = shape
            tensors[i].chains = chains
            tensors[i].state_dtype = state_dtype
        self.handle = c_void_p()
        created = library.c.sonew_create(
            byref(self.options), tensors, self.count, byref(self.handle)
        )
        library.check(created)

    def instruction_set(self):
        info = Info()
        self.library.check(self.library.c.sonew_info(self.handle, byref(info), ctypes.sizeof(info)))
        return info.instruction_set.decode()

    def step(self, params, grads):
        """One step over lists of pointers, made by pointers()."""
        self.library.check(
            self.library.c.sonew_step(
                self.handle, byref(self.step_options), params, grads, self.count
            )
        )

    def free(self):
        self.library.check(self.library.c.sonew_free(self.handle))


def pointers(tensors):
    """Their addresses, as the C API takes them."""
    return (c_void_p * len(tensors))(*[t.data_ptr() for t in tensors])
