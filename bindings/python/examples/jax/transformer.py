"""Trains a small character-level transformer with AdamW, Muon and SONew, and
compares their losses on text that was held out:

    python examples/jax/transformer.py

Plain JAX and optax; about two minutes on 2 cores. The text is the language
reference that every Python has inside itself (the topics of `help()`), so
nothing is downloaded. Settings are the best that the search of
benches/jax/tuned_transformer.py found; docs/transformer.md has its results.
"""

import argparse
import functools
import sys
import time
from pydoc_data import topics
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sonew.jax import adam_for_vectors, fused_sonew

HEADS, CONTEXT = 4, 64
BATCH = 16
STEPS = 300
# The share of the text that is held out.
HELD_OUT = 0.05
# Steps between two looks at the text held out.
EVERY = 10
WEIGHT_DECAY = 0.1


class Size(NamedTuple):
    width: int
    blocks: int


# 117,000 and 826,000 parameters.
SIZES = {"small": Size(64, 2), "large": Size(128, 4)}

# The options of each SONew, besides the numbers of its setting.
NESTEROV = {"nesterov": True, "lagged_norms": True}
SONEWS = {
    "SONew, diagonal": {"band": 0},
    "SONew, tridiagonal": {"band": 1},
    "SONew, tridiagonal, Nesterov": {"band": 1, **NESTEROV},
    "SONew, band 4, Nesterov": {"band": 4, **NESTEROV},
    "SONew, pooled band 4": {"pooling": "band", "band": 4, **NESTEROV},
    "SONew, pooled band 32": {"pooling": "band", "band": 32, **NESTEROV},
    "SONew, pooled rank 16": {"pooling": "rank", "rank": 16, **NESTEROV},
    "SONew, pooled all": {"pooling": "all", **NESTEROV},
}
# Of benches/jax/defaults.py alone.
WITHOUT_NESTEROV = {"SONew, pooled band 32, no Nesterov": {"pooling": "band", "band": 32}}
# The rows of these are not their units' weights: each is the vector of one input, and
# Adam updates it.
EMBEDDINGS = ("characters", "positions")

SETTINGS = {
    "AdamW": {"rate": 6.6e-3, "beta1": 0.6721, "beta2": 0.9026, "eps": 1.07e-7},
    "Muon": {"rate": 1.49e-2, "beta1": 0.8582, "beta2": 0.9812, "eps": 2.08e-7, "rms": 0.35},
    "SONew, tridiagonal, Nesterov": {
        "rate": 1.49e-2, "beta1": 0.8582, "beta2": 0.9812, "eps": 7.91e-5, "gamma": 0.0122
    },
    "SONew, pooled band 32": {
        "rate": 2.69e-2, "beta1": 0.8039, "beta2": 0.9831, "eps": 2.73e-5, "shrink": 0.0766
    },
}  # fmt: skip


class Text:
    """Characters as numbers: some to train on, the rest held out."""

    def __init__(self):
        whole = "\n\n".join(topics.topics[name] for name in sorted(topics.topics))
        # Topics quote each other. A paragraph is kept once, so that none of the
        # text held out is in the other part, too.
        text = "\n\n".join(dict.fromkeys(whole.split("\n\n")))
        self.characters = sorted(set(text))
        numbers = {character: i for i, character in enumerate(self.characters)}
        coded = np.array([numbers[character] for character in text], np.int32)
        cut = int(len(coded) * (1 - HELD_OUT))
        self.train, held_out = coded[:cut], coded[cut:]
        # Each window predicts its own characters from the ones before: it is one
        # longer than the context.
        starts = range(0, len(held_out) - CONTEXT, CONTEXT)
        self.held_out = np.stack([held_out[start : start + CONTEXT + 1] for start in starts])

    def batch(self, rng):
        starts = rng.integers(0, len(self.train) - CONTEXT, BATCH)
        return self.train[starts[:, None] + np.arange(CONTEXT + 1)]


def init(seed, characters, size=SIZES["small"]):
    width, blocks = size
    keys = iter(jax.random.split(jax.random.PRNGKey(seed), 3 + 4 * blocks))

    def kernel(fan_in, fan_out, gain=1.0):
        return gain * jax.random.normal(next(keys), (fan_in, fan_out)) / np.sqrt(fan_in)

    def norm():
        return {"scale": jnp.ones(width), "bias": jnp.zeros(width)}

    # What adds to the residual stream is smaller the more there is of it.
    gain = 1 / np.sqrt(2 * blocks)
    layers = [
        {
            "norm1": norm(),
            "attention": kernel(width, 3 * width),
            "mix": kernel(width, width, gain),
            "norm2": norm(),
            "up": {"kernel": kernel(width, 4 * width), "bias": jnp.zeros(4 * width)},
            "down": {"kernel": kernel(4 * width, width, gain), "bias": jnp.zeros(width)},
        }
        for _ in range(blocks)
    ]
    return {
        "characters": 0.02 * jax.random.normal(next(keys), (characters, width)),
        "positions": 0.02 * jax.random.normal(next(keys), (CONTEXT, width)),
        "blocks": layers,
        "norm": norm(),
        "head": kernel(width, characters),
    }


def normalized(norm, x):
    return jax.nn.standardize(x) * norm["scale"] + norm["bias"]


def attention(block, x):
    batch, length, width = x.shape
    qkv = (x @ block["attention"]).reshape(batch, length, 3, HEADS, width // HEADS)
    query, key, value = jnp.moveaxis(qkv, 2, 0)
    mixed = jax.nn.dot_product_attention(query, key, value, is_causal=True)
    return mixed.reshape(batch, length, width) @ block["mix"]


def logits(params, characters):
    """What the next one may be, for each of them."""
    x = params["characters"][characters] + params["positions"]
    for block in params["blocks"]:
        x = x + attention(block, normalized(block["norm1"], x))
        hidden = normalized(block["norm2"], x) @ block["up"]["kernel"] + block["up"]["bias"]
        x = x + jax.nn.gelu(hidden) @ block["down"]["kernel"] + block["down"]["bias"]
    return normalized(params["norm"], x) @ params["head"]


def loss(params, windows):
    """Cross entropy of the next character, in nats."""
    guesses = logits(params, windows[:, :-1])
    return optax.softmax_cross_entropy_with_integer_labels(guesses, windows[:, 1:]).mean()


def chains(path, leaf):
    """Along a unit's inputs, which come first in kernels [in, out]; a vector of
    an embedding is one row."""
    del leaf
    return "contiguous" if path[0].key in EMBEDDINGS else "strided"


def matrices(params):
    """What decays: all but biases and norms."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def schedule(peak, steps):
    """A linear warm-up over the first 5% of the steps, then linear decay to zero."""
    warm_up = max(1, steps // 20)
    up = optax.linear_schedule(peak / warm_up, peak, warm_up)
    return optax.join_schedules([up, optax.linear_schedule(peak, 0.0, steps - warm_up)], [warm_up])


def given(setting, **names):
    """The numbers of a setting by optax's names. What it does not have is at the default."""
    return {theirs: setting[ours] for theirs, ours in names.items() if ours in setting}


def muon(rate, setting, by_adam, weight_decay, mask):
    """Muon. With `rms` its updates have that root mean square, as if they were Adam's."""

    def dimensions(params):
        def of(path, leaf):
            is_kernel = leaf.ndim > 1 and path[0].key not in by_adam
            return optax.contrib.MuonDimensionNumbers() if is_kernel else None

        return jax.tree.map_with_path(of, params)

    # The direction alone: optax's weight decay would not be the same for Adam's leaves.
    direction = optax.contrib.muon(
        -1.0,
        **given(setting, beta="beta1", adam_b1="beta1", adam_b2="beta2"),
        **given(setting, eps="eps", consistent_rms="rms"),
        muon_weight_dimension_numbers=dimensions,
    )
    decay = optax.add_decayed_weights(weight_decay, mask)
    return optax.chain(direction, decay, optax.scale_by_learning_rate(rate))


class Optimizer(NamedTuple):
    """An optax optimizer whose step returns new parameters, as that of `fused_sonew`."""

    optax: optax.GradientTransformation

    def init(self, params):
        return self.optax.init(params)

    def step(self, params, grads, state):
        updates, state = self.optax.update(grads, state, params)
        return optax.apply_updates(params, updates), state


class WithEmbeddingRate(NamedTuple):
    """An optimizer whose updates of the embeddings are multiplied by a factor, and so their rate."""

    optimizer: NamedTuple
    factor: float

    def init(self, params):
        return self.optimizer.init(params)

    def step(self, params, grads, state):
        new, state = self.optimizer.step(params, grads, state)
        for key in EMBEDDINGS:
            new[key] = params[key] + self.factor * (new[key] - params[key])
        return new, state


def make(name, setting, steps, embedding_rate=None, **more):
    """An optimizer. With `embedding_rate` the rate of the embeddings is so many times the others'."""
    optimizer = make_plain(name, setting, steps, **more)
    return WithEmbeddingRate(optimizer, embedding_rate) if embedding_rate else optimizer


def make_plain(name, setting, steps, by_adam=EMBEDDINGS, weight_decay=WEIGHT_DECAY, options=None):
    """An optimizer; Adam updates vectors, and what `by_adam` names. `options` are those of a
    SONew that is not among `SONEWS`."""
    rate = schedule(setting["rate"], steps)
    both = {"weight_decay": weight_decay, "mask": matrices}
    if options is None:
        options = (SONEWS | WITHOUT_NESTEROV).get(name)
    if options is not None:
        numbers = {key: value for key, value in setting.items() if key != "rate"}

        def update(path, leaf):
            return "adam" if path[0].key in by_adam else adam_for_vectors(path, leaf)

        return fused_sonew(
            rate, update=update, chains=chains, **numbers, **options, **both
        )
    if name == "Muon":
        return Optimizer(muon(rate, setting, by_adam, **both))
    numbers = given(setting, b1="beta1", b2="beta2", eps="eps")
    if name == "Lion":
        # Its rates are about a tenth of the others': so weights decay alike.
        both["weight_decay"] *= 10
        return Optimizer(optax.lion(rate, **numbers, **both))
    return Optimizer(optax.adamw(rate, nesterov=name == "NAdamW", **numbers, **both))


# The setting is an argument: its numbers can change without compiling anew.
@functools.partial(jax.jit, static_argnames="choices", donate_argnames=("params", "state"))
def step(params, state, windows, setting, choices):
    grads = jax.grad(loss)(params, windows)
    return make(setting=setting, **dict(choices)).step(params, grads, state)


look = jax.jit(loss)


class Run:
    """Parameters and an optimizer on their way through the text."""

    def __init__(self, text, name, setting, steps, seed, size="small", **more):
        self.text, self.setting, self.steps = text, setting, steps
        self.choices = tuple({"name": name, "steps": steps, **more}.items())
        self.params = init(seed, len(text.characters), SIZES[size])
        self.state = make(name, setting, steps, **more).init(self.params)
        self.rng = np.random.default_rng(seed)

    def step(self):
        windows = self.text.batch(self.rng)
        self.params, self.state = step(
            self.params, self.state, windows, self.setting, self.choices
        )
        jax.block_until_ready(self.params)

    def loss(self):
        """On the text held out."""
        return float(look(self.params, self.text.held_out))


def train(run, every=EVERY):
    """Losses on the text held out after every so many steps, and the seconds of
    a step."""
    curve, seconds = [], []
    for number in range(1, run.steps + 1):
        begun = time.perf_counter()
        run.step()
        seconds.append(time.perf_counter() - begun)
        if number % every == 0 or number == run.steps:
            curve.append((number, run.loss()))
    return curve, float(np.median(seconds))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()

    text = Text()
    sizes = f"{len(text.train):,} to train on, {text.held_out.size:,} held out"
    print(f"{len(text.characters)} different characters, {sizes}")
    print(f"\n{'':28} {'loss':>8} {'per step':>10} {'steps to AdamW':>16}")
    goal = None
    for name, setting in SETTINGS.items():
        curve, seconds = train(Run(text, name, setting, arguments.steps, arguments.seed))
        goal = goal or curve[-1][1]
        there = [number for number, value in curve if value <= goal]
        steps = str(there[0]) if there else "-"
        print(f"{name:28} {curve[-1][1]:8.4f} {1e3 * seconds:7.1f} ms {steps:>16}")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
