"""Trains a model on a GPU while the optimizer's state, and its step, are on the CPU:

    pip install torchao
    python examples/torch/offload.py

torchao's CPUOffloadOptimizer makes one SONew for each parameter, of which it keeps a copy in the
memory of the CPU. A gradient goes there as soon as it is there, and the steps of some parameters
are taken while those of others are still on their way. GPU memory holds no state but that of small
parameters, which stay on the GPU.

Without a GPU the same code of torchao runs with stand-ins for streams, which do all at once.
"""

import argparse
import contextlib
from unittest import mock

import torch
from sonew.torch import SONew
from torch import nn
from torch.nn.functional import mse_loss


class Stream:
    """A stream of a device that has finished when a call returns; its own events, too."""

    def wait_stream(self, other):
        pass

    def record_event(self):
        return self

    def synchronize(self):
        pass


@contextlib.contextmanager
def without_gpu():
    """torchao's module with stand-ins for what only a GPU has: streams, pinned memory."""
    from torchao.optim import cpu_offload

    empty_like = torch.empty_like

    def not_pinned(like, pin_memory=False, **options):
        return empty_like(like, **options)

    with contextlib.ExitStack() as stand_ins:
        replace = lambda *where: stand_ins.enter_context(mock.patch.object(*where))
        replace(cpu_offload, "get_available_devices", lambda: ["cpu", "cuda"])
        replace(torch.cuda, "Stream", Stream)
        replace(torch.cuda, "current_stream", Stream)
        replace(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
        replace(torch, "empty_like", not_pinned)
        yield


def train(steps, device):
    from torchao.optim import CPUOffloadOptimizer

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 256), nn.Tanh(), nn.Linear(256, 64)).to(device)
    x, y = torch.randn(2, 512, 64, device=device)
    # The class, and after it SONew's options. A learning rate can be changed by group.
    optimizer = CPUOffloadOptimizer(model.parameters(), SONew, lr=3e-3, betas=(0.9, 0.95))
    losses = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * (1 - step / steps)
        loss = mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return model, optimizer, losses


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--steps", type=int, default=200)
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with contextlib.nullcontext() if device == "cuda" else without_gpu():
        _, optimizer, losses = train(arguments.steps, device)
    saved = optimizer.state_dict()["offloaded"]
    print(f"on {device}: loss {losses[0]:.4f}, after {arguments.steps} steps {losses[-1]:.4f}")
    print(f"{len(saved)} parameters whose state is in the memory of the CPU: "
          f"{', '.join(saved[0]['state'][0])}")


if __name__ == "__main__":
    main()
