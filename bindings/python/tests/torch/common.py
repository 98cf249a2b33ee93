"""What several tests need."""

import sonew
import torch
from sonew.torch import SONew
from sonew.torch._options import DTYPES

SHAPES = [(40, 30), (40,), (3, 4, 5), (), (300,), (7, 1)]


def parameters(dtype=torch.float32, shapes=SHAPES, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in shapes
    ]


def give_gradients(params, step):
    """Gradients that depend on the step alone."""
    generator = torch.Generator().manual_seed(1000 + step)
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator).to(p)


def run(optimizer, params, steps, start=0):
    for step in range(start, start + steps):
        give_gradients(params, step)
        optimizer.step()


def bits(tensors):
    return [bytes(t.detach().contiguous().reshape(-1).view(torch.uint8).numpy()) for t in tensors]


def state_bits(optimizer):
    """The bytes of all state, by parameter and name."""
    found = []
    for own in optimizer.state.values():
        found.append({name: bits([x])[0] for name, x in own.items()})
    return found


class Reference:
    """The same run through the C API: an optimizer that owns its state."""

    def __init__(self, params, chains="contiguous", update=None, master=False, state="default", **options):
        self.arrays = [array(p).copy() for p in params]
        rule = lambda p: update or ("adam" if p.ndim <= 1 else "sonew")
        self.optimizer = sonew.Optimizer(
            [
                sonew.Tensor(
                    str(i),
                    tuple(p.shape),
                    chains=chains,
                    update=rule(p),
                    dtype=DTYPES[p.dtype],
                    state_dtype=state,
                    master=master,
                )
                for i, p in enumerate(params)
            ],
            **options,
        )

    def step(self, params, lr, **step):
        grads = [None if p.grad is None else array(p.grad).copy() for p in params]
        self.optimizer.step(self.arrays, grads, lr, **{"non_finite": "unchecked", **step})


def array(t):
    """A tensor as an array of numpy, of which bfloat16 is uint16."""
    t = t.detach().contiguous()
    return (t.view(torch.uint16) if t.dtype == torch.bfloat16 else t).numpy()


def make(params, **options):
    return SONew(params, **{"lr": 1e-2, **options})
