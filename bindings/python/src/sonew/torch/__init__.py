"""SONew, the Sparsified Online Newton method, for PyTorch.

    from sonew.torch import SONew

    optimizer = SONew(model.named_parameters(), lr=1e-3)      # a torch.optim.Optimizer
"""

from ._groups import param_groups
from ._optimizer import SONew
from .files import load, save

__all__ = ["SONew", "load", "param_groups", "save"]
