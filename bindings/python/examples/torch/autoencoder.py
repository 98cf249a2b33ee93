"""Trains a deep autoencoder on drawings of curves with AdamW and with SONew, and plots the losses:

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
COLOURS = {"AdamW": "#6e6e6e", "SONew, tridiagonal": "#0072b2", "SONew, band 4": "#d55e00"}


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


def optimizer_of(name, model):
    # One line changes.
    if name == "AdamW":
        return torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0, fused=True)
    return SONew(model.parameters(), lr=1e-2, band=4 if name.endswith("band 4") else 1)


def train(name, images, steps):
    """The loss after every step, in nats for each image, and the median of the seconds that the
    optimizer took."""
    model = network()
    optimizer = optimizer_of(name, model)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    rng = np.random.default_rng(0)
    losses, own, begun = [], [], time.perf_counter()
    for _ in range(steps):
        batch = images[torch.from_numpy(rng.integers(0, len(images), BATCH))]
        loss = binary_cross_entropy_with_logits(model(batch), batch, reduction="sum") / BATCH
        optimizer.zero_grad()
        loss.backward()
        stepped = time.perf_counter()
        optimizer.step()
        own.append(time.perf_counter() - stepped)
        schedule.step()
        losses.append(loss.item())
    print(f"{name:20} {steps} steps, loss {losses[-1]:7.2f}   {time.perf_counter() - begun:5.1f} s")
    return losses, float(np.median(own))


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
    runs = {name: train(name, images, arguments.steps) for name in COLOURS}
    means = {name: smoothed(losses) for name, (losses, _) in runs.items()}
    print(f"\n{'':20} {'final loss':>10} {'steps to AdamW':>16} {'optimizer':>12}")
    for name, values in means.items():
        there = np.flatnonzero(values <= means["AdamW"][-1])
        steps = there[0] + WINDOW if len(there) else "-"
        print(f"{name:20} {values[-1]:10.2f} {steps:16} {1e3 * runs[name][1]:9.2f} ms")
    if arguments.plot:
        plot(arguments.plot, means)
        print(f"\nthe plot is {arguments.plot}")


if __name__ == "__main__":
    main()
