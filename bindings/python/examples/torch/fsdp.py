"""Trains a network whose parameters, gradients and optimizer state are divided among processes by
`fully_shard`, saves a checkpoint with torch.distributed.checkpoint, and goes on from it on any
number of processes.

    torchrun --nproc-per-node 4 fsdp.py --steps 40 --save checkpoint
    torchrun --nproc-per-node 2 fsdp.py --steps 80 --load checkpoint
    torchrun --nproc-per-node 4 fsdp.py --collectives          # what optimizers communicate

Runs on CPUs, with gloo.
"""

import argparse
import datetime
import statistics
import time

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from sonew.torch import SONew
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import distribute_tensor
from torch.utils._python_dispatch import TorchDispatchMode

BATCH, WIDTH = 64, 96


class Network(torch.nn.Module):
    """A residual network on vectors."""

    def __init__(self, blocks=2):
        super().__init__()
        self.first = torch.nn.Linear(16, WIDTH)
        self.blocks = torch.nn.ModuleList(
            torch.nn.Sequential(
                torch.nn.LayerNorm(WIDTH),
                torch.nn.Linear(WIDTH, 2 * WIDTH),
                torch.nn.GELU(),
                torch.nn.Linear(2 * WIDTH, WIDTH),
            )
            for _ in range(blocks)
        )
        self.last = torch.nn.Linear(WIDTH, 1)

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = x + block(x)
        return self.last(x)


def batch(step):
    """The rows of a step's batch that this process has."""
    rank, count = dist.get_rank(), dist.get_world_size()
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(BATCH, 16, generator=generator)
    y = torch.sin(3 * x[:, :1]) * x[:, 1:2] + x[:, 2:3].abs()
    own = slice(rank * BATCH // count, (rank + 1) * BATCH // count)
    return x[own], y[own]


def sharded():
    torch.manual_seed(0)
    model = Network()
    for block in model.blocks:
        fully_shard(block)
    return fully_shard(model)


def loss_of(model, step):
    x, y = batch(step)
    return (model(x) - y).square().mean()


def train(options):
    model = sharded()
    # Rows are chains: where processes have whole rows, no chain is cut, and the training is that
    # of one process.
    optimizer = SONew(
        model.named_parameters(),
        lr=options.lr,
        chains="contiguous_lines",
        lagged_norms=options.lagged,
    )
    first = 0
    if options.load:
        model_state, state = get_state_dict(model, optimizer)
        held = {"model": model_state, "optimizer": state, "step": 0}
        dcp.load(held, checkpoint_id=options.load)
        set_state_dict(model, optimizer, model_state_dict=model_state, optim_state_dict=state)
        first = held["step"]
    losses, seconds = [], []
    for step in range(first, options.steps):
        begun = time.perf_counter()
        optimizer.zero_grad()
        loss = loss_of(model, step)
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - begun)
        if (step + 1) % options.every == 0:
            mean = loss.detach().clone()
            dist.all_reduce(mean)
            losses.append(mean.item() / dist.get_world_size())
            if dist.get_rank() == 0:
                print(f"step {step + 1}: loss {losses[-1]:.5f}", flush=True)
    if options.save:
        model_state, state = get_state_dict(model, optimizer)
        held = {"model": model_state, "optimizer": state, "step": options.steps}
        dcp.save(held, checkpoint_id=options.save)
    optimizer.synchronize()
    if seconds and dist.get_rank() == 0:
        median = 1e3 * statistics.median(seconds)
        print(f"{dist.get_world_size()} processes, {median:.2f} ms a step (median)", flush=True)
    return losses


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalized: of matrices that are cut, whole ones have to be gathered. (PyTorch's
    own Muon refuses DTensors that are cut.)"""

    @torch.no_grad()
    def step(self):
        for p in self.param_groups[0]["params"]:
            momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
            momentum.mul_(0.95).add_(p.grad)
            x = momentum.full_tensor()
            x = x / x.norm()
            for _ in range(5):
                a = x @ x.T
                x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
            own = distribute_tensor(x, p.device_mesh, p.placements, src_data_rank=None)
            p.add_(own, alpha=-self.defaults["lr"])


class Collectives(TorchDispatchMode):
    """Counts the collectives of a step, and the bytes that a process receives."""

    def __init__(self):
        super().__init__()
        self.count = self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        name = str(function)
        is_one = function.namespace in ("c10d", "_c10d_functional")
        if is_one and "wait" not in name and "wrap" not in name:
            self.count += 1
            # c10d writes to its first argument.
            written = found if function.namespace == "_c10d_functional" else args[0]
            for x in torch.utils._pytree.tree_leaves(written):
                self.bytes += x.nbytes if isinstance(x, torch.Tensor) else 0
        return found


def collectives():
    """Prints what the third step of several optimizers communicates, and returns it."""
    counts = {}
    rows = {"chains": "contiguous_lines"}
    makers = {
        "AdamW": lambda model: torch.optim.AdamW(model.parameters(), foreach=False),
        "SONew": lambda model: SONew(model.named_parameters(), **rows),
        "SONew, lagged norms": lambda model: SONew(model.named_parameters(), **rows, lagged_norms=True),
        "SONew, pooled, band 4": lambda model: SONew(
            model.named_parameters(), **rows, pooling="band", band=4
        ),
        "Muon, matrices alone": lambda model: Muon(
            [p for p in model.parameters() if p.ndim == 2], {"lr": 1e-2}
        ),
    }
    for name, make in makers.items():
        model = sharded()
        optimizer = make(model)
        for step in range(3):
            optimizer.zero_grad()
            loss_of(model, step).backward()
            with Collectives() as seen:
                optimizer.step()
        counts[name] = seen.count, seen.bytes
        if dist.get_rank() == 0:
            print(f"{name}: {seen.count} collectives, {seen.bytes} bytes received", flush=True)
        if isinstance(optimizer, SONew):
            optimizer.synchronize()
    return counts


def options_of(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=40, help="of the whole run")
    parser.add_argument("--every", type=int, default=10, help="steps between lines")
    parser.add_argument("--lr", type=float, default=1e-2)
    parser.add_argument("--lagged", action="store_true", help="norms of the step before")
    parser.add_argument("--save", help="a folder for the checkpoint at the end")
    parser.add_argument("--load", help="a folder with a checkpoint to go on from")
    parser.add_argument("--collectives", action="store_true", help="count those of optimizers")
    return parser.parse_args(arguments)


def main():
    options = options_of()
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=datetime.timedelta(minutes=2))
    collectives() if options.collectives else train(options)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
