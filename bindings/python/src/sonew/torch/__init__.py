"""SONew, the Sparsified Online Newton method, for PyTorch.

    from sonew.torch import SONew

    optimizer = SONew(model.named_parameters(), lr=1e-3)      # a torch.optim.Optimizer
"""

from ._optimizer import SONew

__all__ = ["SONew"]
