"""SONew, the Sparsified Online Newton method (arXiv 2311.10085), for Python.

`sonew.torch` is for PyTorch and `sonew.jax` for JAX; each needs its framework, which
`pip install "sonew[torch]"` and `"sonew[jax]"` bring.
"""

__version__ = "0.2.0"
