"""The blocks of code in the documents run as they stand there; those with a mesh are in
test_sharding.py."""

import doctest
import functools
import importlib
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import sonew.jax

sys.path.append(str(Path(__file__).resolve().parents[1]))

from pages import blocks, run_commands  # noqa: E402


def test_the_example_of_the_readme():
    names = {}
    [code] = blocks("README.md", "sonew.jax")
    exec(code, names)
    assert names["loss"] < 0.01


def test_the_blocks_of_the_guide(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    params = {"stacked": jnp.ones((2, 3, 4)), "rest": jnp.ones((3, 4))}
    names = {
        "jax": jax,
        "jnp": jnp,
        "optax": optax,
        "functools": functools,
        "sonew": sonew,
        "params": params,
        "grads": params,
        "loss": lambda params, batch: sum(jnp.sum((x - batch) ** 2) for x in jax.tree.leaves(params)),
        "labels": {"stacked": "stacked", "rest": "rest"},
        "fused_sonew": sonew.jax.fused_sonew,
        "adam_for_vectors": sonew.jax.adam_for_vectors,
    }
    for code in blocks("bindings/python/jax.md"):
        if "mesh" in code:
            continue
        before = names["params"]
        # The name of the function is that of the module, where the next block uses it.
        names["sonew"] = sonew if "sonew.jax.save" in code else sonew.jax.sonew
        if "sonew.jax.save" in code:
            code = code.replace("sonew(1e-3", "sonew.jax.sonew(1e-3")
            code = code.replace("\n...\n", "\nstate = optimizer.init(params)\n")
        exec(code, names)
        if "def train" in code:
            state = names["optimizer"].init(before)
            names["params"], _ = names["train"](jax.tree.map(jnp.copy, before), state, 0.5)
        elif "multi_transform" in code:
            optimizer = names["optimizer"]
            updates, _ = optimizer.update(before, optimizer.init(before), before)
            names["params"] = optax.apply_updates(before, updates)
        elif "save" in code:
            continue  # what is loaded is what was saved
        moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), before, names["params"])
        assert all(jax.tree.leaves(moved)), code
    assert (tmp_path / "step-1000.safetensors").exists()


def test_the_line_for_several_processes():
    [code] = blocks("docs/distributed.md", "partition_specs")
    mesh = jax.make_mesh((2,), ("model",), devices=jax.devices()[:2])
    spec = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "model"))
    params = {"kernel": jax.device_put(jnp.ones((4, 6)), spec)}
    names = {"params": params, "fused_sonew": sonew.jax.fused_sonew}
    exec(code, names)
    after, _ = jax.jit(names["optimizer"].step)(params, params, names["optimizer"].init(params))
    assert after["kernel"].sharding == spec and (after["kernel"] < 1).all()


@pytest.mark.long
def test_the_commands_for_several_processes(tmp_path, monkeypatch):
    monkeypatch.delenv("XLA_FLAGS")  # a device for each process
    run_commands("docs/distributed.md", "processes.py", tmp_path, {"python ": f"{sys.executable} "})


@pytest.mark.parametrize("name", ["_fused", "_optax"])
def test_examples_of_docstrings(name):
    result = doctest.testmod(importlib.import_module(f"sonew.jax.{name}"))
    assert result.attempted > 0 and result.failed == 0
