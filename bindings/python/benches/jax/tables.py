"""Tables and plots that the pages of benchmarks have in common, from runs that are done. A curve is
a list of points, each of which begins with a step and its loss."""

import numpy as np

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


def ends(curves):
    return [curve[-1][1] for curve in curves]


def spread(curves, digits=3):
    return f"{min(ends(curves)):.{digits}f} to {max(ends(curves)):.{digits}f}"


def reached(curves, goal):
    """Steps until the mean of the curves is at the goal."""
    means = np.mean([[point[1] for point in curve] for curve in curves], axis=0)
    there = np.flatnonzero(means <= goal)
    return curves[0][there[0]][0] if len(there) else None


def goal_of(rows):
    """The baseline's final loss; lower than any without it."""
    return np.mean(ends(rows[BASELINE].curves)) if BASELINE in rows else -np.inf


def steps_to(there, steps):
    return f"{there} ({100 * there / steps:.0f}%)" if there else "not reached"


def table(rows):
    """A table in Markdown; numbers stand to the right."""
    head, *body = [[str(cell) for cell in row] for row in rows]
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def settings_table(rows, digits=3):
    own = ("gamma", "shrink", "rms")
    keys = ("rate", "beta1", "beta2", "eps")
    lines = [["best setting", "loss of the trial", *keys, "its own"]]
    for name, row in rows.items():
        shown = [f"{row.setting[key]:g}" if key in row.setting else "" for key in keys]
        more = [f"{key} {row.setting[key]:g}" for key in own if key in row.setting]
        lines.append([name, f"{row.trial:.{digits}f}", *shown, *(more or [""])])
    return table(lines)


def machine(described):
    return (
        f"{described['date']}, {described['processor']}, {described['cores']} cores "
        f"({described['instructions']}); libsonew {described['libsonew']}, jax {described['jax']}"
    )


def not_done(wanted, rows):
    missing = [name for name in wanted if name not in rows]
    return f" Not done yet: {'; '.join(missing)}." if missing else ""


def write(page, name, text):
    """Puts a text between its marks in the page."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    before, mark, rest = page.read_text().partition(begin)
    if not mark or end not in rest:
        # Results that are not of the page.
        print(text)
        return
    page.write_text(f"{before}{begin}\n{text}\n\n{end}{rest.partition(end)[2]}")


def plot(path, rows, ylabel, times=None, log=False):
    """The mean of each row's curves, and between which they lie; with times, in milliseconds a
    step, also against seconds."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    # The same numbers make the same file.
    matplotlib.rcParams["svg.hashsalt"] = "sonew"
    shown = {name: rows[name].curves for name in COLOURS if name in rows}
    timed = bool(shown) and all(name in (times or {}) for name in shown)
    figure, panels = pyplot.subplots(
        1, 1 + timed, figsize=(5 * (1 + timed), 4), layout="constrained", sharey=True, squeeze=False
    )
    for name, curves in shown.items():
        numbers = np.array([point[0] for point in curves[0]])
        values = np.array([[point[1] for point in curve] for curve in curves])
        scales = (1, times[name] / 1e3) if timed else (1,)
        for panel, scale in zip(panels[0], scales):
            colour = COLOURS[name]
            panel.plot(numbers * scale, values.mean(0), label=name, color=colour)
            panel.fill_between(
                numbers * scale, values.min(0), values.max(0), alpha=0.2, facecolor=colour
            )
    # What comes first is the same for all of them.
    top = max((curves[0][len(curves[0]) // 10][1] for curves in shown.values()), default=None)
    panels[0][0].set(xlabel="step", ylabel=ylabel)
    if log:
        panels[0][0].set_yscale("log")
    panels[0][0].set_ylim(top=top)
    if timed:
        panels[0][1].set(xlabel="seconds of training")
    panels[0][0].legend()
    for panel in panels[0]:
        panel.grid(alpha=0.3)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
