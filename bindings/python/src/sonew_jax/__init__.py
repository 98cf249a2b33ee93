"""The name that sonew.jax had before 0.2. It is importable for this version."""

import sys
import warnings

from sonew.jax import *  # noqa: F403
from sonew.jax import __all__, __version__, files  # noqa: F401

warnings.warn(
    "sonew_jax is now sonew.jax, and this name goes with the next version",
    DeprecationWarning,
    stacklevel=2,
)
# One module under both names, so that classes are the same.
sys.modules["sonew_jax.files"] = files
