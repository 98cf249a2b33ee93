"""Training on one or several processes with four devices in all, for test_processes.py:

python processes.py FOLDER COUNT NUMBER PORT SCENARIO...

Every scenario writes what the first process has of it to FOLDER/SCENARIO-COUNT.npz."""

import functools
import inspect
import os
import signal
import sys
from pathlib import Path

folder, count, number, port, *scenarios = sys.argv[1:]
folder, count, number = Path(folder), int(count), int(number)
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={4 // count}"

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

if count > 1:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    known = inspect.signature(jax.distributed.initialize).parameters
    # So that the survivors of a process that was killed hear of it soon.
    soon = {name: 20 for name in ("heartbeat_timeout_seconds",) if name in known}
    jax.distributed.initialize(f"localhost:{port}", count, number, **soon)

from sonew.jax import adam_for_vectors, fused_sonew, load, save, sonew

SHAPES = {"bias": (8,), "in": (6, 16), "out": (16, 6, 2), "scale": ()}
# Units are cut, so that chains of lines stay whole; "rows" is for files by rows.
UNITS = {"bias": P(), "in": P(None, "model"), "out": P(None, None, "data"), "scale": P()}
ROWS = {"bias": P("data"), "in": P("model", None), "out": P("data"), "scale": P()}
WHOLE = {"chains": "strided_lines"}
OPTIONS = {
    "default": {},
    "exact": WHOLE | {"graft": "none"},
    "relative": WHOLE | {"graft": "none", "damping": "relative", "band": 2},
    "norms": WHOLE | {"clip_norm": 0.5, "weight_decay": 0.1},
    "lagged": WHOLE | {"lagged_norms": True},
    "late": WHOLE | {"lagged_norms": True, "non_finite": "unchecked", "reduce_late": True},
    "rmsprop": WHOLE | {"graft": "normalized_rmsprop", "update": adam_for_vectors, "band": 3},
}
# Of leaves whose correlations are pooled. Each is cut in two, so that sums have two terms.
POOLED = {
    "band": WHOLE | {"pooling": "band", "band": 3},
    "rank": WHOLE | {"pooling": "rank", "rank": 2},
    "late": OPTIONS["late"] | {"pooling": "band", "band": 3},
}
STEPS = 3


def mesh(kind=AxisType.Auto):
    devices = np.array(jax.devices()).reshape(2, 2)
    return jax.sharding.Mesh(devices, ("data", "model"), axis_types=(kind,) * 2)


def tree(seed):
    """The same numbers on every process."""
    rng = np.random.default_rng(seed)
    return {name: np.float32(rng.standard_normal(shape)) for name, shape in SHAPES.items()}


def cut(whole, specs=UNITS, on=None):
    place = lambda x, spec: jax.make_array_from_callback(
        np.shape(x), NamedSharding(on or mesh(), spec), lambda index: x[index]
    )
    return {name: place(x, specs[name]) for name, x in whole.items()}


def kept(name, tree):
    """Writes what the arrays are to a file."""
    gather = lambda x: multihost_utils.process_allgather(x, tiled=True)
    is_spread = lambda x: isinstance(x, jax.Array) and not x.is_fully_addressable
    whole = [gather(x) if is_spread(x) else x for x in jax.tree.leaves(tree)]
    if number == 0:
        np.savez(folder / f"{name}-{count}.npz", *map(np.asarray, whole))


def trained(optimizer, params, state, steps, specs=UNITS):
    # Of the same optimizer the program is compiled once.
    step = jax.jit(optimizer.step)
    for i in steps:
        params, state = step(params, cut(tree(i + 1), specs), state)
    return params, state


def steps(kinds=OPTIONS, kind="steps"):
    """Steps with given gradients, with all kinds of options."""
    for name, options in kinds.items():
        params = cut(tree(0))
        optimizer = fused_sonew(1e-2, partition_specs=params, **options)
        params, state = trained(optimizer, params, optimizer.init(params), range(STEPS))
        if kinds is POOLED:
            # Sums that are added late are in the state then.
            params, state = jax.jit(optimizer.finish)(params, state)
        kept(f"{kind}.{name}", (params, state))


def pooled():
    steps(POOLED, "pooled")
    unsharded(POOLED, "pooled-unsharded")


def unsharded(kinds=OPTIONS, kind="unsharded"):
    """The same without a mesh."""
    for name, options in kinds.items():
        if "reduce_late" in options:
            continue
        params, optimizer = tree(0), fused_sonew(1e-2, **options)
        state, step = optimizer.init(params), jax.jit(optimizer.step)
        for i in range(STEPS):
            params, state = step(params, tree(i + 1), state)
        kept(f"{kind}.{name}", (params, state))


def plain():
    """Plain jit: the step of whole arrays, whoever has their parts."""
    params = cut(tree(0))
    optimizer = fused_sonew(1e-2)
    kept("plain", trained(optimizer, params, jax.jit(optimizer.init)(params), range(STEPS)))


def losses():
    """Gradients of a small network on a batch that is divided over the axis "data"."""
    params = cut(tree(0))
    optimizer = sonew(1e-2, partition_specs=params)
    data = np.random.default_rng(7).standard_normal((8, 6)).astype(np.float32)
    batch = jax.make_array_from_callback(
        data.shape, NamedSharding(mesh(), P("data")), lambda index: data[index]
    )

    def loss(params, x):
        hidden = jnp.tanh(x @ params["in"]) * params["scale"]
        y = jnp.einsum("bi,ijk->bjk", hidden, params["out"]) + jnp.sum(params["bias"])
        return jnp.mean((y - x[:, :, None]) ** 2)

    @jax.jit
    def step(params, state, batch):
        value, grads = jax.value_and_grad(loss)(params, batch)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    state, values = optimizer.init(params), []
    for _ in range(6):
        params, state, value = step(params, state, batch)
        values.append(float(value))
    kept("losses", np.float32(values))


FILES = {
    "units": (UNITS, {"band": 2}),
    "rows": (ROWS, {"chains": "contiguous_lines", "band": 2}),
    # Chains end at the cut: only where each process has one part do files have these rows.
    "cut": ({name: P("data") if name == "out" else P() for name in SHAPES}, {}),
}

LINES = {"chains": "contiguous_lines", "update": adam_for_vectors}
POOLED_FILES = {
    "pooled-rows": (ROWS, LINES | {"pooling": "rank", "rank": 2}),
    "pooled-units": (UNITS, POOLED["band"]),
}


# What Orbax saves, too.
ORBAX = {"units": "orbax", "pooled-units": "pooled-orbax"}


@functools.cache
def made(name):
    """A file's optimizer, which all scenarios of a process share; and parameters to load into."""
    specs, options = (FILES | POOLED_FILES)[name]
    params = cut(tree(9), specs)
    options = options | {"partition_specs": params}
    return specs, options, fused_sonew(1e-2, **options), params


def files(of):
    for name in of:
        yield name, *made(name)


def saved(of=FILES):
    """Both kinds of checkpoints after some steps, and what comes of going on."""
    for name, specs, options, optimizer, _ in files(of):
        params = cut(tree(0), specs)
        params, state = trained(optimizer, params, optimizer.init(params), range(STEPS), specs)
        path = folder / f"{name}-{count}.safetensors"
        if name == "cut" and count == 1:
            with pytest.raises(ValueError, match="'out' is cut along its dimensions"):
                save(path, params, state, **options)
            continue
        save(path, params, state, **options)
        if name in ORBAX:
            with ocp.StandardCheckpointer() as checkpointer:
                checkpointer.save(folder / f"{ORBAX[name]}-{count}", {"params": params, "state": state})
        more = trained(optimizer, params, state, range(STEPS, 2 * STEPS), specs)
        kept(f"{name}.on", more)


def resumed(before, of=FILES):
    """Goes on from the checkpoints of other processes."""
    for name, specs, options, optimizer, params in files(of):
        if name == "cut" and before == 1:
            # There is no file: one process was refused.
            continue
        state = optimizer.init(params)
        path = folder / f"{name}-{before}.safetensors"
        if name == "cut" and count == 1:
            with pytest.raises(ValueError, match="'out' is cut along its dimensions"):
                load(path, params, state, **options)
            continue
        loaded = load(path, params, state, **options)
        kept(f"{name}.from-{before}", trained(optimizer, *loaded, range(STEPS, 2 * STEPS), specs))
        if name in ORBAX:
            with ocp.StandardCheckpointer() as checkpointer:
                like = {"params": params, "state": state}
                restored = checkpointer.restore(folder / f"{ORBAX[name]}-{before}", like)
            loaded = restored["params"], restored["state"]
            kept(f"{ORBAX[name]}.from-{before}", trained(optimizer, *loaded, range(STEPS, 2 * STEPS), specs))


def killed():
    """The last process is killed after a save, in a step or in a save."""
    params = cut(tree(0))
    options = {"partition_specs": params}
    optimizer = fused_sonew(1e-2, **options)
    params, state = trained(optimizer, params, optimizer.init(params), range(1))
    save(folder / "step-1.safetensors", params, state, **options)
    print("saved", flush=True)
    if number == count - 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if "save" in scenarios:
        save(folder / "step-2.safetensors", params, state, **options)
    # Gradients and the step take collectives.
    params, state = trained(optimizer, params, state, range(1, 4))
    jax.block_until_ready(params)


for scenario in scenarios:
    if scenario in ("step", "save"):
        continue
    if scenario.startswith("from-"):
        resumed(int(scenario.removeprefix("from-")))
    elif scenario.startswith("pooled-from-"):
        resumed(int(scenario.removeprefix("pooled-from-")), POOLED_FILES)
    elif scenario == "pooled-saved":
        saved(POOLED_FILES)
    else:
        globals()[scenario]()
print("done", flush=True)
if count > 1:
    jax.distributed.shutdown()
