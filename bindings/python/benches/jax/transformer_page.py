"""The page of tuned_transformer.py, from runs that are done."""

from typing import NamedTuple

import jax
import numpy as np
import tables
import transformer


class Found(NamedTuple):
    """What was found at one size and length."""

    size: str
    steps: int
    plan: tuple
    data: dict
    text: transformer.Text
    # By name, those that are done.
    rows: dict
    variants: dict

    @property
    def name(self):
        return f"{self.size}-{self.steps}"

    @property
    def milliseconds(self):
        return self.data.get("times", {}).get("milliseconds", {})


def state_bytes(found, name):
    """Of the whole network's state, for each parameter."""
    params = transformer.init(0, len(found.text.characters), transformer.SIZES[found.size])
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    optimizer = transformer.make(name, found.rows[name].setting, found.steps)
    state = jax.eval_shape(optimizer.init, params)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)) / count


def main_table(found):
    goal = tables.goal_of(found.rows)
    times = found.milliseconds
    rows = [
        [
            "",
            "loss on held-out text",
            "spread",
            "steps to AdamW's",
            "seconds to AdamW's",
            "per step",
            "state, bytes a parameter",
        ]
    ]
    for name, row in found.rows.items():
        there = tables.reached(row.curves, goal)
        took = f"{times[name]:.1f} ms" if name in times else "-"
        seconds = f"{there * times[name] / 1e3:.1f}" if there and name in times else "-"
        loss = f"{np.mean(tables.ends(row.curves)):.3f}"
        memory = f"{state_bytes(found, name):.1f}"
        share = tables.steps_to(there, found.steps)
        rows.append([name, loss, tables.spread(row.curves), share, seconds, took, memory])
    return tables.table(rows)


def variants_table(found):
    rows = [["best setting with one thing changed", "loss", "spread"]]
    for name, curves in found.variants.items():
        rows.append([name, f"{np.mean(tables.ends(curves)):.3f}", tables.spread(curves)])
    return tables.table(rows)


def machine(described):
    return f"{tables.machine(described)}, the text of Python {described['python']}"


def report(found):
    seeds, trials = found.plan.seeds, found.plan.trials()
    text = found.text
    made = (
        f"{machine(found.data['machine'])}: {len(text.train):,} characters to train on, "
        f"{text.held_out.size:,} held out. {found.steps} steps; {trials} trials for each row, then "
        f"seeds {seeds[0]} to {seeds[-1]}."
    )
    if "times" in found.data:
        made += f" Times: {machine(found.data['times']['machine'])}."
    made += tables.not_done(found.plan.rows, found.rows)
    image = f"![Loss against steps and seconds](transformer/{found.name}.svg)"
    parts = [made, main_table(found), image]
    if found.variants:
        parts.append(variants_table(found))
    return "\n\n".join([*parts, tables.settings_table(found.rows)])


def write(page, found):
    """Puts the results between their marks in the page."""
    tables.write(page, found.name, report(found))


def plot(path, found):
    label = "loss on held-out text (nats per character)"
    tables.plot(path, found.rows, label, found.milliseconds)
