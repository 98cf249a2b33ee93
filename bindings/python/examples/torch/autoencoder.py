"""Trains a deep autoencoder on drawings of curves with AdamW, Muon and SONew, and plots the losses:

    python examples/torch/autoencoder.py --plot loss.png

Plain PyTorch; some minutes on 2 cores. The network is one on which first-order methods are known
to be slow: sigmoid-like layers down to a narrow one in the middle (Hinton and Salakhutdinov,
2006).
"""

import argparse
import time

import numpy as np
import torch
from sonew.torch import SONew
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

SIDE = 28
WIDTHS = (SIDE * SIDE, 400, 200, 100, 25, 6, 25, 100, 200, 400, SIDE * SIDE)
BATCH = 500
# Steps that losses are averaged over, for the plot and the table.
WINDOW = 10
COLOURS = {
    "AdamW": "#6e6e6e",
    "Muon and AdamW": "#009e73",
    "SONew, tridiagonal": "#0072b2",
    "SONew, band 4": "#d55e00",
}


def curves(count, seed):
    """Images of smooth curves: cubic Bezier curves between random points."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(4, SIDE - 4, (count, 4, 2)).astype(np.float32)
    t = np.linspace(0, 1, 24, dtype=np.float32)
    weights = np.stack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3])
    along = np.einsum("kt,nkd->ntd", weights, points)
    pixel = np.arange(SIDE, dtype=np.float32)
    near = np.exp(-((along[..., None] - pixel) ** 2) / 1.5)
    ink = np.einsum("nty,ntx->nyx", near[:, :, 1], near[:, :, 0])
    return torch.from_numpy((1 - np.exp(-ink)).reshape(count, -1).astype(np.float32))


def network():
    torch.manual_seed(0)
    layers = []
    for fan_in, fan_out in zip(WIDTHS, WIDTHS[1:]):
        layer = nn.Linear(fan_in, fan_out)
        nn.init.normal_(layer.weight, std=fan_in**-0.5)
        nn.init.zeros_(layer.bias)
        layers += [layer, nn.Tanh()]
    return nn.Sequential(*layers[:-1])


# Learning rates are the best of 3e-4, 1e-3 and 3e-3 for AdamW, of 3e-3, 1e-2, 3e-2 and 1e-1 for Muon,
# and SONew's are those of the example for JAX, the best of 3e-3, 1e-2 and 2e-2 there.
def optimizers(name, model):
    adamw = {"lr": 1e-3, "weight_decay": 0.0, "fused": True}
    if name == "AdamW":
        return [torch.optim.AdamW(model.parameters(), **adamw)]
    if name == "Muon and AdamW":
        matrices = [p for p in model.parameters() if p.ndim == 2]
        vectors = [p for p in model.parameters() if p.ndim == 1]
        muon = torch.optim.Muon(matrices, lr=3e-2, weight_decay=0.0)
        return [muon, torch.optim.AdamW(vectors, **adamw)]
    return [SONew(model.parameters(), lr=1e-2, band=4 if name.endswith("band 4") else 1)]


def train(name, images, steps):
    """The loss after every step, in nats for each image, and the medians of the seconds of a whole
    step and of its optimizer."""
    model = network()
    chosen = optimizers(name, model)
    schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(o, steps) for o in chosen]
    rng = np.random.default_rng(0)
    losses, seconds, own = [], [], []
    for _ in range(steps):
        begun = time.perf_counter()
        batch = images[torch.from_numpy(rng.integers(0, len(images), BATCH))]
        loss = binary_cross_entropy_with_logits(model(batch), batch, reduction="sum") / BATCH
        model.zero_grad()
        loss.backward()
        stepped = time.perf_counter()
        for optimizer in chosen:
            optimizer.step()
        own.append(time.perf_counter() - stepped)
        for schedule in schedules:
            schedule.step()
        losses.append(loss.item())
        seconds.append(time.perf_counter() - begun)
    return losses, float(np.median(seconds)), float(np.median(own))


def smoothed(losses):
    """Means over so many steps."""
    return np.convolve(losses, np.ones(WINDOW) / WINDOW, "valid")


def plot(path, runs):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for name, smooth in runs.items():
        axes.plot(np.arange(len(smooth)) + WINDOW, smooth, label=name, color=COLOURS[name])
    axes.set(xlabel="step", ylabel="loss per image (nats)", yscale="log")
    axes.set_title("Deep autoencoder on curves")
    axes.legend()
    axes.grid(alpha=0.3, which="both")
    figure.savefig(path, dpi=150)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--steps", type=int, default=600, help="at least 10")
    parser.add_argument("--plot", help="where a plot is written")
    arguments = parser.parse_args()
    images = curves(10_000, seed=1)
    means = {}
    print(f"{'':20} {'final loss':>10} {'steps to AdamW':>15} {'per step':>10} {'optimizer':>10}")
    for name in COLOURS:
        losses, seconds, own = train(name, images, arguments.steps)
        means[name] = smoothed(losses)
        there = np.flatnonzero(means[name] <= means["AdamW"][-1])
        steps = there[0] + WINDOW if len(there) else "-"
        print(
            f"{name:20} {means[name][-1]:10.2f} {steps:>15} {1e3 * seconds:7.1f} ms {1e3 * own:7.2f} ms",
            flush=True,
        )
    if arguments.plot:
        plot(arguments.plot, means)
        print(f"\nthe plot is {arguments.plot}")


if __name__ == "__main__":
    main()
