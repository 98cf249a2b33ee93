"""Trains a small character-level transformer with AdamW and with SONew, and
compares their losses on text that was held out:

    python examples/transformer.py

Plain JAX and optax; about two minutes on 2 cores. The text is the language
reference that every Python has inside itself (the topics of `help()`), so
nothing is downloaded. Settings are the best that the search of
benches/tuned_transformer.py found; docs/transformer.md has its results. That of
pooled correlations is one for both bands, which no search has tuned.
"""

import argparse
import functools
import sys
import time
from pydoc_data import topics

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sonew.jax import adam_for_vectors, sonew

WIDTH, HEADS, BLOCKS, CONTEXT = 64, 4, 2, 64
BATCH = 16
STEPS = 300
# The share of the text that is held out.
HELD_OUT = 0.05
# Steps between two looks at the text held out.
EVERY = 10
WEIGHT_DECAY = 0.1

SETTINGS = {
    "AdamW": {"rate": 6.6e-3, "beta1": 0.6721, "beta2": 0.9026, "eps": 1.07e-7},
    "SONew, diagonal": {
        "rate": 6.6e-3, "beta1": 0.6721, "beta2": 0.9026, "eps": 4.48e-7, "gamma": 0.0296
    },
    "SONew, tridiagonal": {
        "rate": 9.92e-3, "beta1": 0.723, "beta2": 0.9241, "eps": 3.53e-7, "gamma": 0.0133
    },
    "SONew, band 4": {
        "rate": 1.49e-2, "beta1": 0.8582, "beta2": 0.9812, "eps": 7.91e-7, "gamma": 0.0122
    },
}  # fmt: skip
SETTINGS |= dict.fromkeys(
    ("SONew, pooled band 16", "SONew, pooled band 32"),
    {
        "rate": 2.08e-2, "beta1": 0.847, "beta2": 0.988, "eps": 2.4e-9, "gamma": 0.01, "shrink": 0.041
    },
)  # fmt: skip
BANDS = {
    "SONew, diagonal": 0,
    "SONew, tridiagonal": 1,
    "SONew, band 4": 4,
    "SONew, pooled band 16": 16,
    "SONew, pooled band 32": 32,
}


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


def init(seed, characters):
    keys = iter(jax.random.split(jax.random.PRNGKey(seed), 3 + 4 * BLOCKS))

    def kernel(fan_in, fan_out, gain=1.0):
        return gain * jax.random.normal(next(keys), (fan_in, fan_out)) / np.sqrt(fan_in)

    def norm():
        return {"scale": jnp.ones(WIDTH), "bias": jnp.zeros(WIDTH)}

    # What adds to the residual stream is smaller the more there is of it.
    gain = 1 / np.sqrt(2 * BLOCKS)
    blocks = [
        {
            "norm1": norm(),
            "attention": kernel(WIDTH, 3 * WIDTH),
            "mix": kernel(WIDTH, WIDTH, gain),
            "norm2": norm(),
            "up": {"kernel": kernel(WIDTH, 4 * WIDTH), "bias": jnp.zeros(4 * WIDTH)},
            "down": {"kernel": kernel(4 * WIDTH, WIDTH, gain), "bias": jnp.zeros(WIDTH)},
        }
        for _ in range(BLOCKS)
    ]
    return {
        "characters": 0.02 * jax.random.normal(next(keys), (characters, WIDTH)),
        "positions": 0.02 * jax.random.normal(next(keys), (CONTEXT, WIDTH)),
        "blocks": blocks,
        "norm": norm(),
        "head": kernel(WIDTH, characters),
    }


def normalized(norm, x):
    return jax.nn.standardize(x) * norm["scale"] + norm["bias"]


def attention(block, x):
    batch, length, _ = x.shape
    qkv = (x @ block["attention"]).reshape(batch, length, 3, HEADS, WIDTH // HEADS)
    query, key, value = jnp.moveaxis(qkv, 2, 0)
    mixed = jax.nn.dot_product_attention(query, key, value, is_causal=True)
    return mixed.reshape(batch, length, WIDTH) @ block["mix"]


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
    return "contiguous" if path[0].key in ("characters", "positions") else "strided"


def of_units(path, leaf):
    """How a leaf is updated if its units share correlations, which those of an embedding,
    whose rows see different inputs, do not."""
    is_embedding = path[0].key in ("characters", "positions")
    return "adam" if is_embedding else adam_for_vectors(path, leaf)


def matrices(params):
    """What decays: all but biases and norms."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def make(name, setting, steps, chains=chains, state_dtype=None):
    """An optimizer with its schedule: a linear warm-up over the first 5% of the
    steps, then linear decay to zero."""
    warm_up = max(1, steps // 20)
    rate = optax.join_schedules(
        [
            optax.linear_schedule(setting["rate"] / warm_up, setting["rate"], warm_up),
            optax.linear_schedule(setting["rate"], 0.0, steps - warm_up),
        ],
        [warm_up],
    )
    both = {"weight_decay": WEIGHT_DECAY, "mask": matrices}
    if name == "AdamW":
        betas = {"b1": setting["beta1"], "b2": setting["beta2"]}
        return optax.adamw(rate, eps=setting["eps"], **betas, **both)
    own = {key: setting[key] for key in ("beta1", "beta2", "eps", "gamma")}
    own |= {"band": BANDS[name], "chains": chains, "state_dtype": state_dtype}
    # The settings were searched with these.
    own |= {"damping": "absolute", "graft_eps": 1e-8}
    update = adam_for_vectors
    if "shrink" in setting:
        own |= {"pooling": "band", "shrink": setting["shrink"], "nesterov": True}
        update = of_units
    return sonew(rate, update=update, **own, **both)


# The setting is an argument: its numbers can change without compiling anew.
@functools.partial(jax.jit, static_argnames="choices", donate_argnames=("params", "state"))
def step(params, state, windows, setting, choices):
    grads = jax.grad(loss)(params, windows)
    updates, state = make(setting=setting, **dict(choices)).update(grads, state, params)
    return optax.apply_updates(params, updates), state


look = jax.jit(loss)


class Run:
    """Parameters and an optimizer on their way through the text."""

    def __init__(self, text, name, setting, steps, seed, **more):
        self.text, self.setting, self.steps = text, setting, steps
        self.choices = tuple({"name": name, "steps": steps, **more}.items())
        self.params = init(seed, len(text.characters))
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
    print(f"\n{'':22} {'loss':>8} {'per step':>10} {'steps to AdamW':>16}")
    goal = None
    for name, setting in SETTINGS.items():
        curve, seconds = train(Run(text, name, setting, arguments.steps, arguments.seed))
        goal = goal or curve[-1][1]
        there = [number for number, value in curve if value <= goal]
        steps = str(there[0]) if there else "-"
        print(f"{name:22} {curve[-1][1]:8.4f} {1e3 * seconds:7.1f} ms {steps:>16}")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
