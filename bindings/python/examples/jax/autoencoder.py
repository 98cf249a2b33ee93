"""Trains a deep autoencoder on drawings of curves with Adam and with SONew, and
plots the losses:

    python examples/autoencoder.py --plot loss.png

Plain JAX and optax; about a minute on 2 cores. The network is one on which
first-order methods are known to be slow: sigmoid-like layers down to a narrow
one in the middle (Hinton and Salakhutdinov, 2006).
"""

import argparse
import functools
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sonew.jax import adam_for_vectors, sonew

SIDE = 28
WIDTHS = (SIDE * SIDE, 400, 200, 100, 25, 6, 25, 100, 200, 400, SIDE * SIDE)
BATCH = 500
# Steps that losses are averaged over, for the plot and the table.
WINDOW = 10


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
    return (1 - np.exp(-ink)).reshape(count, -1)


def init(key):
    layers = []
    for fan_in, fan_out in zip(WIDTHS, WIDTHS[1:]):
        key, own = jax.random.split(key)
        kernel = jax.random.normal(own, (fan_in, fan_out)) / np.sqrt(fan_in)
        layers.append({"kernel": kernel, "bias": jnp.zeros(fan_out)})
    return layers


def loss(layers, images):
    """Cross entropy of the pixels, in nats for each image."""
    x = images
    for layer in layers[:-1]:
        x = jnp.tanh(x @ layer["kernel"] + layer["bias"])
    logits = x @ layers[-1]["kernel"] + layers[-1]["bias"]
    return jnp.mean(jnp.sum(optax.sigmoid_binary_cross_entropy(logits, images), 1))


def train(name, optimizer, images, steps):
    """The loss after every step."""

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, batch):
        value, grads = jax.value_and_grad(loss)(params, batch)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    params = init(jax.random.PRNGKey(0))
    state = optimizer.init(params)
    rng = np.random.default_rng(0)
    losses, begun = [], time.perf_counter()
    for number in range(1, steps + 1):
        batch = images[rng.integers(0, len(images), BATCH)]
        params, state, value = step(params, state, batch)
        losses.append(float(value))
        # Progress on a terminal; elsewhere, the last line of it.
        if number == steps or sys.stdout.isatty() and number % 10 == 0:
            text = f"{name:20} step {number:4} of {steps}   loss {losses[-1]:7.2f}"
            print("\r" * sys.stdout.isatty() + text, end="", flush=True)
    print(f"   {time.perf_counter() - begun:5.1f} s")
    return losses


def smoothed(losses):
    """Means over so many steps."""
    return np.convolve(losses, np.ones(WINDOW) / WINDOW, "valid")


# As in the plots of docs/benchmark.md.
COLOURS = {"Adam": "#6e6e6e", "SONew, tridiagonal": "#0072b2", "SONew, band 4": "#d55e00"}


def plot(path, runs):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for name, losses in runs.items():
        smooth = smoothed(losses)
        axes.plot(np.arange(len(smooth)) + WINDOW, smooth, label=name, color=COLOURS[name])
    axes.set(xlabel="step", ylabel="loss per image (nats)", yscale="log")
    axes.set_title("Deep autoencoder on curves")
    axes.legend()
    axes.grid(alpha=0.3, which="both")
    figure.savefig(path, dpi=150)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--steps", type=int, default=600, help="at least 10")
    parser.add_argument("--plot", default="loss.png", help="where the plot is written")
    arguments = parser.parse_args()

    # Of learning rates in steps of two to three, the best for each.
    schedule = functools.partial(optax.cosine_decay_schedule, decay_steps=arguments.steps)
    options = {"update": adam_for_vectors}
    runs = {
        "Adam": optax.adam(schedule(1e-3)),
        "SONew, tridiagonal": sonew(schedule(1e-2), **options),
        "SONew, band 4": sonew(schedule(1e-2), band=4, **options),
    }
    images = curves(10_000, seed=1)
    losses = {name: train(name, run, images, arguments.steps) for name, run in runs.items()}

    means = {name: smoothed(values) for name, values in losses.items()}
    print(f"\n{'':20} {'final loss':>10} {'steps to Adam':>16}")
    for name, values in means.items():
        there = np.flatnonzero(values <= means["Adam"][-1])
        steps = there[0] + WINDOW if len(there) else "-"
        print(f"{name:20} {values[-1]:10.2f} {steps:16}")
    plot(arguments.plot, losses)
    print(f"\nthe plot is {arguments.plot}")


if __name__ == "__main__":
    main()
