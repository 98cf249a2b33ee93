"""The example of training on several processes, as docs/distributed.md shows it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from ranks import needs_fully_shard, run_on

EXAMPLES = Path(__file__).parents[2] / "examples" / "torch"
sys.path.append(str(EXAMPLES))
pytestmark = needs_fully_shard


def train(*arguments):
    import fsdp

    return fsdp.train(fsdp.options_of(arguments))


@pytest.mark.parametrize(
    "count, others", [(1, 2), *(pytest.param(n, n, marks=pytest.mark.long) for n in (1, 2))]
)
def test_losses_are_the_same_and_a_run_goes_on_on_other_numbers_of_processes(tmp_path, count, others):
    """To three digits: gradients are means over processes, which are rounded differently."""
    folder = str(tmp_path / "checkpoint")
    saved = run_on(4, train, "--steps", "4", "--every", "2", "--save", folder)[0]
    more = ("--steps", "6", "--every", "2")
    whole = run_on(count, train, *more)[0]
    assert saved == pytest.approx(whole[:2], rel=1e-3)
    (after,) = run_on(others, train, *more, "--load", folder)[0]
    assert after == pytest.approx(whole[2], rel=1e-3)


@pytest.mark.long
def test_torchrun_starts_the_example():
    """It can take minutes to begin and end where names of machines are not resolved."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1"]
    command += [str(EXAMPLES / "fsdp.py"), "--steps", "3", "--every", "3"]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert len(re.findall(r"step \d+: loss (\S+)", ran.stdout)) == 1


def collectives():
    import fsdp

    return fsdp.collectives()


def test_what_optimizers_communicate():
    """The bytes that docs/distributed.md derives: of six matrices three float64 numbers from each of
    four processes; pooled, the same numbers in words, which are four of float32 each, and float32 sums of
    products with up to four neighbours of 688 inputs; and float32 matrices of 75,360 elements, one of
    which, of one row of 96, is sent as four."""
    for found in run_on(4, collectives):
        assert found["AdamW"] == (0, 0)
        assert found["SONew"] == found["SONew, lagged norms"] == (1, 6 * 3 * 8 * 4)
        assert found["SONew, pooled, band 4"] == (1, 6 * 3 * 4 * 4 * 4 + 4 * 5 * (16 + 2 * (96 + 192) + 96))
        assert found["Muon, matrices alone"] == (6, 4 * (75360 + 3 * 96))
