"""The blocks of code in the documents run as they stand there."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from ranks import needs_fully_shard
from sonew.torch import SONew

sys.path.append(str(Path(__file__).resolve().parents[1]))

from pages import ROOT, blocks, run_commands  # noqa: E402


def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Embedding(7, 4), torch.nn.Linear(4, 3), torch.nn.LayerNorm(3))


def train(names):
    """A step of the optimizer that a block has made."""
    before = [p.detach().clone() for p in names["model"].parameters()]
    words = torch.arange(7)
    (names["model"](words) * torch.arange(3.0)).square().sum().backward()
    names["optimizer"].step()
    for old, new in zip(before, names["model"].parameters()):
        assert not torch.equal(old, new)


def test_the_example_of_the_readme():
    torch.manual_seed(0)
    names = {}
    [code] = blocks("README.md", "sonew.torch")
    exec(code, names)
    assert names["loss"].item() < 0.05


def test_the_blocks_of_the_guide(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"torch": torch, "model": model()}
    for code in blocks("bindings/python/torch.md"):
        exec(code, names)
        train(names)


@pytest.mark.skipif(shutil.which("cc") is None, reason="NOT TESTED: there is no cc")
@pytest.mark.skipif("SONEW_LIBRARY" in os.environ, reason="the library is not that of the package")
def test_a_program_in_c_with_the_library_of_the_package(tmp_path):
    [commands] = blocks("bindings/python/README.md", "sonew.library()", "sh")
    shutil.copy(ROOT / "examples" / "c" / "fit.c", tmp_path)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    run = subprocess.run(
        ["sh", "-e", "-c", commands],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0 and "step 200" in run.stdout, run.stderr


@pytest.fixture
def one_process():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@needs_fully_shard
def test_the_blocks_for_several_processes(tmp_path, monkeypatch, one_process):
    """On one process: what depends on their number is tested in test_distributed*.py."""
    from sonew.torch import load, save
    from torch.distributed.fsdp import fully_shard

    monkeypatch.chdir(tmp_path)
    names = {"model": model(), "fully_shard": fully_shard, "SONew": SONew}
    names |= {"save": save, "load": load, "rank": 0}
    mesh = dist.device_mesh.init_device_mesh("cpu", (1,))
    names["fully_shard"] = lambda model: fully_shard(model, mesh=mesh)
    for code in blocks("docs/distributed.md", "optimizer"):
        if "partition_specs" not in code:  # JAX's
            exec(code.replace("range(4)", "range(1)"), names)
            train(names)
    assert (tmp_path / "step-1000-0.safetensors").exists()


@pytest.mark.long
@needs_fully_shard
def test_the_commands_for_several_processes(tmp_path):
    """torchrun can take minutes to begin and end where names of machines are not resolved."""
    ours = f"{sys.executable} -m torch.distributed.run --rdzv-backend c10d"
    ours += " --rdzv-endpoint 127.0.0.1:0 --local-addr 127.0.0.1"
    run_commands("docs/distributed.md", "torchrun", tmp_path, {"torchrun": ours})
