"""How the library is found, and what is said where it is not."""

import ctypes.util
import os
import subprocess
import sys

import pytest
from sonew.jax import instruction_set, library_path, library_version


def outcome(library):
    """What a program with this library says in the end."""
    code = "import jax.numpy as jnp, sonew.jax as s; o = s.sonew(1.0); x = jnp.ones(2)\n"
    code += "o.update(x, o.init(x), x)"
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "SONEW_LIBRARY": str(library)},
        capture_output=True,
        text=True,
    )
    return run.returncode, run.stderr


def test_the_library_in_use():
    assert os.path.exists(library_path())
    assert library_version().startswith("0.2.")
    assert instruction_set() in ("avx512", "avx2", "neon", "portable")


def test_a_library_that_is_not_there(tmp_path):
    code, said = outcome(tmp_path / "libsonew.so")
    assert code == 1 and "LibraryError: libsonew was not found" in said
    assert str(tmp_path) in said and "SONEW_LIBRARY" in said


def test_another_library():
    other = ctypes.util.find_library("z") or ctypes.util.find_library("m")
    if other is None:
        pytest.skip("there is no other library to be found")
    code, said = outcome(other)
    assert code == 1 and "is not a libsonew" in said


def test_the_older_name_of_the_package():
    code = "import sonew_jax, sonew_jax.files, sonew.jax\n"
    code += "assert sonew_jax.sonew is sonew.jax.sonew and sonew_jax.files.save is sonew_jax.save"
    run = subprocess.run(
        [sys.executable, "-W", "always::DeprecationWarning", "-c", code],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0 and "sonew_jax is now sonew.jax" in run.stderr
