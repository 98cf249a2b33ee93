"""docs/torch-api.md and docs/python-api.md: the docstrings as pages.
Made here, committed, and held to the docstrings:

    python tests/torch/test_api_page.py        # writes them
"""

import doctest
import sys
from pathlib import Path

import pytest
import sonew
import sonew.torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from api_page import page  # noqa: E402

DOCS = Path(__file__).resolve().parents[4] / "docs"
MADE = "<!-- Made from the docstrings of {} by bindings/python/tests/torch/test_api_page.py. -->\n"
TORCH = (
    MADE.format("sonew.torch")
    + """# sonew.torch: the reference

[torch.md](../bindings/python/torch.md) describes how to install and use the package.
[method.md](method.md) explains the method and its options, and [choosing.md](choosing.md)
which values to choose.
"""
)
NUMPY = (
    MADE.format("sonew")
    + """# sonew: the reference

What [the Python package](../bindings/python/README.md) has without PyTorch and JAX: an optimizer
over buffers that are passed by address, with all that [the C API](c-api.md) promises.
"""
)
# In the order of the pages.
PAGES = {
    "torch-api.md": (
        TORCH,
        sonew.torch,
        ("SONew", "SONew.step", "SONew.synchronize", "SONew.load_state_dict", "SONew.add_param_group", "param_groups", "save", "load"),
    ),
    "python-api.md": (
        NUMPY,
        sonew,
        (
            "Tensor",
            "Optimizer",
            *(f"Optimizer.{name}" for name in vars(sonew.Optimizer) if not name.startswith("_")),
            "addresses",
            "library",
            "include",
            "version",
            "LibraryError",
        ),
    ),
}


def test_every_public_name_is_on_a_page():
    for _, module, names in PAGES.values():
        missing = set(module.__all__) - {name.split(".")[0] for name in names}
        assert missing <= {"NON_FINITE_GRADIENT"}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_what_the_docstrings_say(name):
    written = (DOCS / name).read_text()
    assert written == page(*PAGES[name]), "to update it: python bindings/python/tests/torch/test_api_page.py"


@pytest.mark.parametrize("module", [sonew._optimizer, sonew.torch._optimizer, sonew.torch._groups])
def test_examples(module):
    result = doctest.testmod(module)
    assert result.attempted > 0 and result.failed == 0


if __name__ == "__main__":
    for name, made in PAGES.items():
        (DOCS / name).write_text(page(*made))
