"""The library for JAX: its handler is made known to XLA."""

import ctypes
import functools
from ctypes import byref, c_void_p

import jax

from .._library import LibraryError, c, check
from .._structs import Info, Options, Tensor

__all__ = ["TARGET", "Info", "LibraryError", "Options", "Tensor", "check", "library"]

# The handler's symbol in the library, and its name in XLA programs.
TARGET = "sonew_xla_step_v1"


@functools.cache
def library():
    """The library, which has the handler."""
    found = c()
    try:
        found.handler = getattr(found, TARGET)
    except AttributeError as error:
        raise LibraryError(
            f"{found.path} is not a libsonew with a handler for JAX: {error}"
        ) from None
    found.sonew_xla_release.restype = None
    return found


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
