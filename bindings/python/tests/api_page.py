"""Docstrings as a page of the documentation."""

import inspect
import re

NOTES = {"warning": "Note", "seealso": "See also"}


def signature(thing):
    """One line, or one line for each argument if there are many."""
    parameters = inspect.signature(thing).parameters.values()
    shown = [str(p.replace(annotation=p.empty)) for p in parameters]
    first = next((i for i, p in enumerate(parameters) if p.kind is p.KEYWORD_ONLY), None)
    if first is not None and not any(p.kind is p.VAR_POSITIONAL for p in parameters):
        shown.insert(first, "*")
    line = f"{thing.__qualname__}({', '.join(shown)})"
    if len(line) > 88:
        line = f"{thing.__qualname__}(\n    " + ",\n    ".join(shown) + ",\n)"
    # Older versions of JAX write the name of P in full.
    line = line.replace("PartitionSpec(", "P(")
    return f"```python\n{line}\n```"


def section(title, body):
    """An indented section of a docstring."""
    text = inspect.cleandoc(body)
    if title == "Examples":
        return f"**{title}**\n\n```python\n{text}\n```"
    if title in ("Args", "Raises", "Attributes"):
        # `name: what it is`; further lines of it are indented.
        items = re.split(r"\n(?=\S)", text)
        return f"**{title}**\n\n" + "\n".join(item(x) for x in items)
    return f"**{title}**\n\n{escaped(text)}"


def item(text):
    names, what = text.split(":", 1)
    what = " ".join(what.split())
    return f"- `{names}`: {escaped(what)}"


def escaped(text):
    """What Markdown takes for its own, outside of code."""
    parts = re.split(r"(`[^`]*`)", text)
    for i in range(0, len(parts), 2):
        for special, safe in {"<": "&lt;", "*": "\\*", "_": "\\_"}.items():
            parts[i] = parts[i].replace(special, safe)
    return "".join(parts)


def markdown(docstring):
    text = re.sub(r":math:(`[^`]*`)", r"\1", docstring)
    # Each part begins at the margin and has all that is indented below it.
    return "\n\n".join(map(part, re.split(r"\n\n(?=\S)", text)))


def part(text):
    head, body = re.fullmatch(r"(.*?)((?:\n+ .*)?)", text, re.DOTALL).groups()
    title = re.fullmatch(r"([A-Z][a-z]+):", head)
    note = re.fullmatch(r"\.\. (\w+)::(.*)", head)
    if title:
        return section(title[1], body)
    if note:
        words = " ".join((note[2] + body).split())
        return f"**{NOTES[note[1]]}.** {escaped(words)}"
    if body:
        head = head.removesuffix(":")
        return f"{escaped(head)}\n\n```text\n{inspect.cleandoc(body)}\n```"
    return escaped(head)


def page(head, module, names):
    """The page of some names of a module; `Class.method` is one, too."""
    entries = []
    for name in names:
        thing = module
        for part_of_name in name.split("."):
            thing = getattr(thing, part_of_name)
        entries.append(f"## {name}\n\n{signature(thing)}\n\n{markdown(inspect.getdoc(thing))}\n")
    return "\n".join([head, *entries])
