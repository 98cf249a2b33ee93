"""SONew, the Sparsified Online Newton method, for JAX.

    from sonew.jax import sonew

    optimizer = sonew(1e-3)                     # an optax.GradientTransformation

On the CPU the step is one custom call of libsonew for all parameters; on other
platforms the same optimizer is compiled from jax.numpy.
"""

from ._fused import FusedSonew, fused_sonew
from ._late import LateState
from ._library import (
    LibraryError,
    instruction_set,
    library_path,
    library_version,
    register,
    release,
)
from ._optax import ScaleBySonewState, scale_by_sonew, sonew
from ._settings import adam_for_vectors
from .files import load, save

__all__ = [
    "FusedSonew",
    "LateState",
    "LibraryError",
    "ScaleBySonewState",
    "adam_for_vectors",
    "fused_sonew",
    "instruction_set",
    "library_path",
    "library_version",
    "load",
    "register",
    "release",
    "save",
    "scale_by_sonew",
    "sonew",
]

__version__ = "0.2.0"
