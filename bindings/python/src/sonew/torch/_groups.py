"""Groups of parameters, by what a module uses them for."""

from typing import Any

import torch


def param_groups(model: torch.nn.Module, weight_decay: float = 0.0, **options: Any) -> list[dict]:
    """The named parameters of a module as groups for `SONew`.

    Weights of embeddings (`nn.Embedding`, `nn.EmbeddingBag`, also where another layer shares
    them) take the plain Adam update: only the rows whose
    tokens were in the batch have a gradient, and rows have no common inputs whose correlations
    could be estimated. So do parameters of
    at most one dimension. All others take SONew. What has at most one dimension does not
    decay.

    Args:
      model: the module. Parameters that need no gradient are left out.
      weight_decay: of parameters with two or more dimensions.
      **options: other options of `SONew`, for all groups.

    Returns:
      A list of groups: SONew's, embeddings, and vectors, those that have no parameter left out.

    Examples:
      >>> import torch, sonew.torch
      >>> model = torch.nn.Sequential(torch.nn.Embedding(10, 4), torch.nn.Linear(4, 2))
      >>> groups = sonew.torch.param_groups(model, weight_decay=0.1)
      >>> [(g["param_names"] if "param_names" in g else [n for n, _ in g["params"]], g["update"]) for g in groups]
      [(['1.weight'], 'sonew'), (['0.weight'], 'adam'), (['1.bias'], 'adam')]
      >>> optimizer = sonew.torch.SONew(groups, lr=1e-3)
    """
    embeddings = {
        id(module.weight)
        for module in model.modules()
        if isinstance(module, (torch.nn.Embedding, torch.nn.EmbeddingBag))
    }
    kinds = {"sonew": [], "embedding": [], "vector": []}
    for name, p in model.named_parameters():
        if p.requires_grad:
            of_embedding = id(p) in embeddings
            kind = "vector" if p.ndim <= 1 else "embedding" if of_embedding else "sonew"
            kinds[kind].append((name, p))
    groups = [
        {
            "params": params,
            "update": "sonew" if kind == "sonew" else "adam",
            "weight_decay": 0.0 if kind == "vector" else weight_decay,
            **options,
        }
        for kind, params in kinds.items()
    ]
    return [group for group in groups if group["params"]]
