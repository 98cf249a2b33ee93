"""Finds the library, checks its version, and declares its functions."""

import ctypes
import functools
import os
from ctypes import byref, c_char_p
from pathlib import Path
from typing import Optional

from . import _structs

# The version of the library that has this package's structs.
MAJOR, MINOR = 0, 2
SONAME = f"libsonew.so.{MAJOR}.{MINOR}"
HERE = Path(__file__).parent


class LibraryError(RuntimeError):
    """libsonew is missing, has another version, or refused a call.

    `status` is the number of the sonew_status if it refused a call.
    """

    def __init__(self, message: str, status: Optional[int] = None):
        super().__init__(message)
        self.status = status


def candidates():
    """Paths where the library may be. If SONEW_LIBRARY is set, only that path;
    otherwise in this package, where wheels have it, or on the system's path."""
    chosen = os.environ.get("SONEW_LIBRARY")
    if chosen:
        return [chosen]
    beside = HERE / SONAME
    return [str(beside)] if beside.exists() else [SONAME, "libsonew.so"]


@functools.cache
def c():
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
    except AttributeError as error:
        raise LibraryError(f"{path} is not a libsonew: {error}") from None
    if version.split(".")[:2] != [str(MAJOR), str(MINOR)]:
        raise LibraryError(f"{path} is version {version}, but this package needs {MAJOR}.{MINOR}")
    found.path = path
    found.version = version
    for name in _structs.TEXTS:
        getattr(found, name).restype = c_char_p
    found.sonew_status_name.restype = c_char_p
    for name, arguments in _structs.FUNCTIONS.items():
        getattr(found, name).argtypes = arguments
    return found


def check(status):
    """Raises an error with the last call's message if it failed."""
    if status != 0:
        raise LibraryError(c().sonew_last_error().decode(), status)


def filled(kind):
    """A struct with the library's defaults."""
    value = kind()
    name = next(name for name, own in _structs.STRUCTS.items() if own is kind)
    check(getattr(c(), name + "_init")(byref(value), ctypes.sizeof(kind)))
    return value


def filled_list(kind, count, init):
    """A list of structs with the library's defaults."""
    values = (kind * count)()
    check(getattr(c(), init)(values, count, ctypes.sizeof(kind)))
    return values


def number_of(argument, value, names):
    """The number of a named value."""
    if not isinstance(value, str) or value not in names:
        listed = ", ".join(repr(name) for name in names)
        raise ValueError(f"{argument} is {value!r}, must be one of {listed}")
    return names[value]


def set_fields(struct, values, names):
    """Sets fields of a struct; those that `names` lists take names of numbers."""
    known = {field for field, *_ in struct._fields_}
    for field, value in values.items():
        if field not in known or field in ("struct_size", "reserved"):
            raise TypeError(f"there is no option {field!r}")
        if field in names:
            value = number_of(field, value, names[field])
        try:
            setattr(struct, field, value)
        except TypeError as error:
            raise TypeError(f"{field} is {value!r}: {error}") from None


def library() -> str:
    """The path of the library in use, which programs in C and C++ can link."""
    return c().path


def version() -> str:
    """The version of the library in use."""
    return c().version


def include() -> str:
    """The folder of the headers, sonew.h, sonew_xla.h and sonew.hpp, for programs in C and C++
    that link the library of this package."""
    for folder in (HERE / "include", HERE.parents[3] / "include"):
        if (folder / "sonew.h").exists():
            return str(folder)
    raise LibraryError("sonew.h was not installed with this package")
