"""Tables and plots of tuned_transformer.py, from runs that are done."""

from typing import NamedTuple

import jax
import numpy as np
import transformer

BASELINE = "AdamW"
# Those in the plots: of twelve curves nobody can tell one from another.
COLOURS = {
    "AdamW": "#6e6e6e",
    "Muon": "#cc79a7",
    "SONew, tridiagonal, Nesterov": "#0072b2",
    "SONew, pooled band 4": "#56b4e9",
    "SONew, pooled band 32": "#d55e00",
    "SONew, pooled rank 16": "#e69f00",
    "SONew, pooled all": "#009e73",
}


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


def ends(curves):
    return [curve[-1][1] for curve in curves]


def spread(curves):
    return f"{min(ends(curves)):.3f} to {max(ends(curves)):.3f}"


def reached(curves, goal):
    """Steps until the mean of the curves is at the goal."""
    means = np.mean([[value for _, value in curve] for curve in curves], axis=0)
    there = np.flatnonzero(means <= goal)
    return curves[0][there[0]][0] if len(there) else None


def state_bytes(found, name):
    """Of the whole network's state, for each parameter."""
    params = transformer.init(0, len(found.text.characters), transformer.SIZES[found.size])
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    optimizer = transformer.make(name, found.rows[name].setting, found.steps)
    state = jax.eval_shape(optimizer.init, params)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)) / count


def table(rows):
    """A table in Markdown; numbers stand to the right."""
    head, *body = [[str(cell) for cell in row] for row in rows]
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main_table(found):
    goal = np.mean(ends(found.rows[BASELINE].curves)) if BASELINE in found.rows else -np.inf
    times = found.data.get("times", {}).get("milliseconds", {})
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
        there = reached(row.curves, goal)
        share = f"{there} ({100 * there / found.steps:.0f}%)" if there else "not reached"
        took = f"{times[name]:.1f} ms" if name in times else "-"
        seconds = f"{there * times[name] / 1e3:.1f}" if there and name in times else "-"
        loss = f"{np.mean(ends(row.curves)):.3f}"
        memory = f"{state_bytes(found, name):.1f}"
        rows.append([name, loss, spread(row.curves), share, seconds, took, memory])
    return table(rows)


def variants_table(found):
    rows = [["best setting with one thing changed", "loss", "spread"]]
    for name, curves in found.variants.items():
        rows.append([name, f"{np.mean(ends(curves)):.3f}", spread(curves)])
    return table(rows)


def settings_table(found):
    own = ("gamma", "shrink", "rms")
    keys = ("rate", "beta1", "beta2", "eps")
    rows = [["best setting", "loss of the trial", *keys, "its own"]]
    for name, row in found.rows.items():
        shown = [f"{row.setting[key]:g}" if key in row.setting else "" for key in keys]
        more = [f"{key} {row.setting[key]:g}" for key in own if key in row.setting]
        rows.append([name, f"{row.trial:.3f}", *shown, *(more or [""])])
    return table(rows)


def machine(described):
    return (
        f"{described['date']}, {described['processor']}, {described['cores']} cores "
        f"({described['instructions']}); libsonew {described['libsonew']}, jax {described['jax']}, "
        f"the text of Python {described['python']}"
    )


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
    missing = [name for name in found.plan.rows if name not in found.rows]
    if missing:
        made += f" Not done yet: {'; '.join(missing)}."
    name = f"{found.size}-{found.steps}"
    parts = [made, main_table(found), f"![Loss against steps and seconds](transformer/{name}.svg)"]
    if found.variants:
        parts.append(variants_table(found))
    return "\n\n".join([*parts, settings_table(found)])


def write(page, found):
    """Puts the results between their marks in the page."""
    name = f"{found.size}-{found.steps}"
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    before, mark, rest = page.read_text().partition(begin)
    if not mark or end not in rest:
        # Sizes and lengths that are not of the page.
        print(report(found))
        return
    page.write_text(f"{before}{begin}\n{report(found)}\n\n{end}{rest.partition(end)[2]}")


def plot(path, found):
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    # The same numbers make the same file.
    matplotlib.rcParams["svg.hashsalt"] = "sonew"
    times = found.data.get("times", {}).get("milliseconds", {})
    shown = {name: found.rows[name].curves for name in COLOURS if name in found.rows}
    timed = bool(shown) and all(name in times for name in shown)
    figure, panels = pyplot.subplots(
        1, 1 + timed, figsize=(5 * (1 + timed), 4), layout="constrained", sharey=True, squeeze=False
    )
    for name, curves in shown.items():
        numbers = np.array([number for number, _ in curves[0]])
        values = np.array([[value for _, value in curve] for curve in curves])
        scales = (1, times[name] / 1e3) if timed else (1,)
        for panel, scale in zip(panels[0], scales):
            colour = COLOURS[name]
            panel.plot(numbers * scale, values.mean(0), label=name, color=colour)
            panel.fill_between(
                numbers * scale, values.min(0), values.max(0), alpha=0.2, facecolor=colour
            )
    # What comes first is the same for all of them.
    top = max((curves[0][len(curves[0]) // 10][1] for curves in shown.values()), default=None)
    panels[0][0].set(xlabel="step", ylabel="loss on held-out text (nats per character)")
    panels[0][0].set_ylim(top=top)
    if timed:
        panels[0][1].set(xlabel="seconds of training")
    panels[0][0].legend()
    for panel in panels[0]:
        panel.grid(alpha=0.3)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
