"""docs/jax-api.md: the docstrings as a page.
Made here, committed, and held to the docstrings:

    python tests/test_api_page.py        # writes it
"""

import inspect
import re
from pathlib import Path

import sonew.jax as sonew_jax

PAGE = Path(__file__).resolve().parents[4] / "docs/jax-api.md"
HEAD = """<!-- Made from the docstrings of sonew.jax by bindings/python/tests/jax/test_api_page.py. -->
# sonew.jax: the reference

[The README](../bindings/python/jax.md) describes how to install and use the package, and
how it works with JAX's transformations. [method.md](method.md) explains the method and its
options, and [choosing.md](choosing.md) which values to choose.
"""

NOTES = {"warning": "Note", "seealso": "See also"}

# In the order of the page.
NAMES = (
    "sonew",
    "scale_by_sonew",
    "fused_sonew",
    "FusedSonew",
    "ScaleBySonewState",
    "adam_for_vectors",
    "save",
    "load",
    "LibraryError",
    "register",
    "release",
    "library_path",
    "library_version",
    "instruction_set",
)


def signature(thing):
    """One line, or one line for each argument if there are many."""
    parameters = inspect.signature(thing).parameters.values()
    shown = [str(p.replace(annotation=p.empty)) for p in parameters]
    first = next((i for i, p in enumerate(parameters) if p.kind is p.KEYWORD_ONLY), None)
    if first is not None and not any(p.kind is p.VAR_POSITIONAL for p in parameters):
        shown.insert(first, "*")
    line = f"{thing.__name__}({', '.join(shown)})"
    if len(line) > 88:
        line = f"{thing.__name__}(\n    " + ",\n    ".join(shown) + ",\n)"
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


def page():
    entries = []
    for name in NAMES:
        thing = getattr(sonew_jax, name)
        entries.append(f"## {name}\n\n{signature(thing)}\n\n{markdown(inspect.getdoc(thing))}\n")
    return "\n".join([HEAD, *entries])


def test_every_public_name_is_on_the_page():
    assert sorted(NAMES) == sorted(sonew_jax.__all__)


def test_the_page_is_what_the_docstrings_say():
    assert PAGE.read_text() == page(), "to update it: python bindings/python/tests/jax/test_api_page.py"


if __name__ == "__main__":
    PAGE.write_text(page())
