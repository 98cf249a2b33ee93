"""Finds libsonew.so, declares its functions, and registers its handler."""

import ctypes
import ctypes.util
import functools
import os
from ctypes import POINTER, byref, c_char_p, c_double, c_int32, c_size_t, c_uint64, c_void_p
from pathlib import Path
from typing import Optional

import jax

# The version of the library that has this package's handler and structs.
MAJOR, MINOR = 0, 2
SONAME = f"libsonew.so.{MAJOR}.{MINOR}"
# The handler's symbol in the library, and its name in XLA programs.
TARGET = "sonew_xla_step_v1"
MAX_DIMS = 8


class LibraryError(RuntimeError):
    """libsonew is missing, has another version, or refused a call.

    `status` is the number of the sonew_status if it refused a call.
    """

    def __init__(self, message: str, status: Optional[int] = None):
        super().__init__(message)
        self.status = status


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
        ("options", c_void_p),
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
        ("has_gradient_norm", c_int32),
        ("reserved", c_int32 * 1),
    ]


def candidates():
    """Paths where the library may be. If SONEW_LIBRARY is set, only that path;
    otherwise beside this file, where wheels have it, or on the system's path."""
    chosen = os.environ.get("SONEW_LIBRARY")
    if chosen:
        return [chosen]
    beside = Path(__file__).parents[1] / "libsonew.so"
    return [str(beside)] if beside.exists() else [SONAME, "libsonew.so"]


@functools.cache
def library():
    """The library, after loading it and checking its version."""
    errors = []
    for path in candidates():
        try:
            found = ctypes.CDLL(path)
        except OSError as error:
            errors.append(f"{path}: {error}")
            continue
        return checked(found, path)
    raise LibraryError(
        "libsonew was not found. Install the package from its repository "
        "(pip install ./bindings/python), or set SONEW_LIBRARY to the library's path. "
        "Tried: " + "; ".join(errors)
    )


def checked(found, path):
    try:
        found.sonew_version.restype = c_char_p
        version = found.sonew_version().decode()
        handler = getattr(found, TARGET)
    except AttributeError as error:
        raise LibraryError(f"{path} is not a libsonew with a handler for JAX: {error}") from None
    if version.split(".")[:2] != [str(MAJOR), str(MINOR)]:
        raise LibraryError(f"{path} is version {version}, but this package needs {MAJOR}.{MINOR}")
    found.path = path
    found.version = version
    found.handler = handler
    found.sonew_last_error.restype = c_char_p
    found.sonew_status_name.restype = c_char_p
    found.sonew_xla_release.restype = None
    handles, sizes = POINTER(c_void_p), POINTER(c_size_t)
    for name, arguments in {
        "sonew_options_init": [POINTER(Options), c_size_t],
        "sonew_tensors_init": [POINTER(Tensor), c_size_t, c_size_t],
        "sonew_create": [POINTER(Options), POINTER(Tensor), c_size_t, handles],
        "sonew_free": [c_void_p],
        "sonew_info": [c_void_p, POINTER(Info), c_size_t],
    }.items():
        function = getattr(found, name, None)
        if function is not None:
            function.argtypes = arguments
    return found


def check(status):
    """Raises an error with the last call's message if it failed."""
    if status != 0:
        raise LibraryError(library().sonew_last_error().decode(), status)


@functools.cache
def register() -> None:
    """Makes the custom call known to XLA, once per process. Steps do it themselves;
    a program that only runs what `jax.export` saved has to call this before."""
    capsule = jax.ffi.pycapsule(library().handler)
    jax.ffi.register_ffi_target(TARGET, capsule, platform="cpu", api_version=1)


def library_path() -> str:
    """The path of the library in use."""
    return library().path


def library_version() -> str:
    """The version of the library in use."""
    return library().version


def instruction_set() -> str:
    """The instruction set of steps on this processor: avx512, avx2, neon or
    portable."""
    c = library()
    options, tensor, handle = Options(), Tensor(), c_void_p()
    check(c.sonew_options_init(byref(options), ctypes.sizeof(options)))
    options.threads = 1
    check(c.sonew_tensors_init(byref(tensor), 1, ctypes.sizeof(tensor)))
    tensor.name = b"x"
    check(c.sonew_create(byref(options), byref(tensor), 1, byref(handle)))
    info = Info()
    check(c.sonew_info(handle, byref(info), ctypes.sizeof(info)))
    text = info.instruction_set.decode()
    check(c.sonew_free(handle))
    return text


def release() -> None:
    """Frees the scratch memory and the threads that are kept between steps."""
    library().sonew_xla_release()
