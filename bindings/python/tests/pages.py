"""The blocks of Python in README.md, jax.md, torch.md and docs/distributed.md, and the commands in the
last one, for the tests of each framework, which run them as they stand there."""

import re
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
BLOCK = r"(<!-- not run: [^\n]* -->\n)?^```{}\n(.*?)^```"


def blocks(page, having="", language="python"):
    """Those of a page that have some words, without those of which the page says why they are not
    run."""
    found = re.findall(BLOCK.format(language), (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)
    found = [code for why, code in found if not why and having in code]
    assert found, f"{page} has no block of {language} with {having!r}"
    return found


def run_commands(page, having, folder, replaced):
    """Runs the commands of a block, the first of which goes to a folder of the repository, in a copy
    of that folder."""
    [code] = blocks(page, having, "sh")
    first, *commands = code.splitlines()
    examples = first.removeprefix("cd ")
    assert first != examples and commands
    copy = shutil.copytree(ROOT / examples, folder / "examples")
    for command in commands:
        for words, others in replaced.items():
            command = command.replace(words, others)
        ran = subprocess.run(command, shell=True, cwd=copy, capture_output=True, text=True)
        assert ran.returncode == 0, f"{command}\n{ran.stdout}{ran.stderr}"
