"""Trains a small character-level transformer with AdamW, Muon and SONew, and compares losses,
steps and seconds on text that was held out:

    python examples/torch/transformer.py --plot loss.png

Plain PyTorch; some minutes on 2 cores. The text is the language reference that every Python has
inside itself (the topics of `help()`), so nothing is downloaded.
"""

import argparse
import sys
import time
from pydoc_data import topics

import numpy as np
import torch
from sonew.torch import SONew, param_groups
from torch import nn
from torch.nn.functional import cross_entropy, gelu, scaled_dot_product_attention

WIDTH, HEADS, BLOCKS, CONTEXT = 64, 4, 2, 64
BATCH, STEPS = 16, 300
# The share of the text that is held out, and the steps between two looks at it.
HELD_OUT, EVERY = 0.05, 10
WEIGHT_DECAY = 0.1
COLOURS = {
    "AdamW": "#6e6e6e",
    "Muon and AdamW": "#009e73",
    "SONew, tridiagonal": "#0072b2",
    "SONew, pooled band 4": "#d55e00",
}


def text():
    """Characters as numbers: to train on, windows that are held out, and how many there are."""
    whole = "\n\n".join(topics.topics[name] for name in sorted(topics.topics))
    # Topics quote each other. A paragraph is kept once, so that none of the text held out is in
    # the other part, too.
    whole = "\n\n".join(dict.fromkeys(whole.split("\n\n")))
    characters = sorted(set(whole))
    numbers = {character: i for i, character in enumerate(characters)}
    coded = torch.tensor([numbers[character] for character in whole])
    cut = int(len(coded) * (1 - HELD_OUT))
    train, rest = coded[:cut], coded[cut:]
    starts = range(0, len(rest) - CONTEXT, CONTEXT)
    return train, torch.stack([rest[s : s + CONTEXT + 1] for s in starts]), len(characters)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.mix = nn.Linear(WIDTH, WIDTH, bias=False)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x):
        batch, length, _ = x.shape
        qkv = self.attention(self.norm1(x)).view(batch, length, 3, HEADS, WIDTH // HEADS)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        mixed = scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.mix(mixed.transpose(1, 2).reshape(batch, length, WIDTH))
        return x + self.down(gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    def __init__(self, characters):
        super().__init__()
        self.characters = nn.Embedding(characters, WIDTH)
        self.positions = nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, characters, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        # What adds to the residual stream is smaller the more there is of it.
        for block in self.blocks:
            for layer in (block.mix, block.down):
                with torch.no_grad():
                    layer.weight *= (2 * BLOCKS) ** -0.5

    def forward(self, characters):
        x = self.characters(characters) + self.positions.weight
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def loss_of(model, windows):
    """Cross entropy of the next character, in nats."""
    return cross_entropy(model(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())


# Settings of AdamW and of tridiagonal SONew are the best of a random search on the same network
# in JAX (docs/transformer.md); the others are not tuned but in their learning rates.
def optimizers(name, model):
    # Matrices of the blocks; embeddings and the head; vectors.
    vectors = [p for p in model.parameters() if p.ndim == 1]
    matrices = [p for n, p in model.named_parameters() if p.ndim > 1 and n.startswith("blocks")]
    others = [p for n, p in model.named_parameters() if p.ndim > 1 and not n.startswith("blocks")]
    adamw = {"betas": (0.6721, 0.9026), "eps": 1.07e-7, "fused": True}
    if name == "AdamW":
        groups = [
            {"params": matrices + others, "weight_decay": WEIGHT_DECAY},
            {"params": vectors, "weight_decay": 0.0},
        ]
        return [torch.optim.AdamW(groups, lr=6.6e-3, **adamw)]
    if name == "Muon and AdamW":
        groups = [
            {"params": others, "weight_decay": WEIGHT_DECAY},
            {"params": vectors, "weight_decay": 0.0},
        ]
        muon = torch.optim.Muon(matrices, lr=2e-2, weight_decay=WEIGHT_DECAY)
        return [muon, torch.optim.AdamW(groups, lr=6.6e-3, **adamw)]
    options = {"betas": (0.723, 0.9241), "eps": 3.53e-7, "gamma": 0.0133}
    groups = param_groups(model, weight_decay=WEIGHT_DECAY)
    if name == "SONew, pooled band 4":
        return [SONew(groups, lr=1.5e-2, pooling="band", band=4, **options)]
    return [SONew(groups, lr=9.92e-3, **options)]


def train(name, data, steps, seed):
    """Losses on the text held out, by step, and the medians of the seconds of a whole step and of
    its optimizer."""
    train_on, held_out, characters = data
    torch.manual_seed(seed)
    model = Transformer(characters)
    chosen = optimizers(name, model)
    warm_up = max(1, steps // 20)
    rate = lambda n: min((n + 1) / warm_up, (steps - n) / (steps - warm_up))
    schedules = [torch.optim.lr_scheduler.LambdaLR(o, rate) for o in chosen]
    curve, seconds, own = [], [], []
    rng = np.random.default_rng(seed)
    for number in range(1, steps + 1):
        begun = time.perf_counter()
        starts = torch.from_numpy(rng.integers(0, len(train_on) - CONTEXT, BATCH))
        windows = train_on[starts[:, None] + torch.arange(CONTEXT + 1)]
        loss_of(model, windows).backward()
        stepped = time.perf_counter()
        for optimizer in chosen:
            optimizer.step()
        own.append(time.perf_counter() - stepped)
        for optimizer, schedule in zip(chosen, schedules):
            optimizer.zero_grad()
            schedule.step()
        seconds.append(time.perf_counter() - begun)
        if number % EVERY == 0 or number == steps:
            with torch.no_grad():
                curve.append((number, loss_of(model, held_out).item()))
    return curve, float(np.median(seconds)), float(np.median(own))


def plot(path, curves):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for name, curve in curves.items():
        axes.plot(*zip(*curve), label=name, color=COLOURS[name])
    axes.set(xlabel="step", ylabel="loss on text held out (nats for each character)")
    axes.set_title("Character transformer")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plot", help="where a plot is written")
    arguments = parser.parse_args()
    data = text()
    print(f"{data[2]} different characters, {len(data[0]):,} to train on, {data[1].numel():,} held out")
    print(f"\n{'':21} {'loss':>8} {'steps to AdamW':>15} {'per step':>10} {'optimizer':>10}")
    curves = {}
    for name in COLOURS:
        curve, seconds, own = train(name, data, arguments.steps, arguments.seed)
        curves[name] = curve
        goal = curves["AdamW"][-1][1]
        there = [number for number, value in curve if value <= goal]
        steps = str(there[0]) if there else "-"
        print(f"{name:21} {curve[-1][1]:8.4f} {steps:>15} {1e3 * seconds:7.1f} ms {1e3 * own:7.2f} ms")
        sys.stdout.flush()
    if arguments.plot:
        plot(arguments.plot, curves)
        print(f"\nthe plot is {arguments.plot}")


if __name__ == "__main__":
    main()
