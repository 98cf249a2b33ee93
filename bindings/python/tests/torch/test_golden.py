"""The trajectories of the authors' own programs, within the bounds of tests/golden/README.md: by the
library, and by operations of torch."""

import sys
from pathlib import Path

import pytest
import torch
from sonew.torch import SONew

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from trajectories import FILES, bound, read  # noqa: E402


def cases():
    """In the short form, operations of torch have half of the files in float32, too."""
    for number, name in enumerate(FILES):
        for dtype in (torch.float32, torch.float64):
            for implementation in ("library", "torch"):
                is_short = implementation == "library" or dtype == torch.float64 or number % 2
                yield pytest.param(name, dtype, implementation, marks=() if is_short else pytest.mark.long)


@pytest.mark.parametrize("name, dtype, implementation", list(cases()))
def test_follows(name, dtype, implementation):
    run = read(name)
    options = {**run.options, "betas": (run.options["beta1"], run.options["beta2"])}
    del options["beta1"], options["beta2"]
    params = [torch.nn.Parameter(torch.tensor(x, dtype=dtype)) for x in run.start]
    update = "auto" if run.vectors == "adam" else "sonew"
    optimizer = SONew(params, run.lr, update=update, implementation=implementation, **options)

    def step(grads):
        for p, grad in zip(params, grads):
            p.grad = torch.from_numpy(grad).to(dtype)
        optimizer.step()
        return [p.detach().numpy() for p in params]

    assert run.error(step) <= bound(name, dtype == torch.float64)
