"""docs/jax-api.md: the docstrings as a page.
Made here, committed, and held to the docstrings:

    python tests/test_api_page.py        # writes it
"""

import sys
from pathlib import Path

import sonew.jax as sonew_jax

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from api_page import page  # noqa: E402

PAGE = Path(__file__).resolve().parents[4] / "docs/jax-api.md"
HEAD = """<!-- Made from the docstrings of sonew.jax by bindings/python/tests/jax/test_api_page.py. -->
# sonew.jax: the reference

[The README](../bindings/python/jax.md) describes how to install and use the package, and
how it works with JAX's transformations. [method.md](method.md) explains the method and its
options, and [choosing.md](choosing.md) which values to choose.
"""

# In the order of the page.
NAMES = (
    "sonew",
    "scale_by_sonew",
    "fused_sonew",
    "FusedSonew",
    "ScaleBySonewState",
    "LateState",
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


def test_every_public_name_is_on_the_page():
    assert sorted(NAMES) == sorted(sonew_jax.__all__)


def test_the_page_is_what_the_docstrings_say():
    assert PAGE.read_text() == page(HEAD, sonew_jax, NAMES), "to update it: python bindings/python/tests/jax/test_api_page.py"


if __name__ == "__main__":
    PAGE.write_text(page(HEAD, sonew_jax, NAMES))
