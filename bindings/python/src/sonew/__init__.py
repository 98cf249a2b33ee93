"""SONew, the Sparsified Online Newton method (arXiv 2311.10085), for Python.

`sonew.torch` is for PyTorch and `sonew.jax` for JAX; each needs its framework, which
`pip install "sonew[torch]"` and `"sonew[jax]"` bring. What is here needs only numpy: an
optimizer over buffers that are passed by address, and where library and headers are.
"""

from ._library import LibraryError, include, library, version
from ._optimizer import Optimizer, Tensor, addresses
from ._structs import NON_FINITE_GRADIENT

__all__ = [
    "NON_FINITE_GRADIENT",
    "LibraryError",
    "Optimizer",
    "Tensor",
    "addresses",
    "include",
    "library",
    "version",
]

__version__ = "0.2.0"
