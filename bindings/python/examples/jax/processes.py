"""Trains a small network on several processes, each of which has some of the devices:

    python processes.py --processes 4 --save here/step.safetensors
    python processes.py --processes 2 --resume here/step.safetensors

The first command starts four processes on this machine, which talk over gloo. On several
machines start this script on each, with --coordinator HOST:PORT of the first and its --number.

Devices form a mesh with the axes "data", over which a batch is divided, and "model", over
which the units of layers are. The line that concerns SONew is the one that makes the
optimizer: `partition_specs=params` says that the arrays are cut as they are."""

import argparse
import os
import socket
import statistics
import subprocess
import sys
import time

LAYERS = [("first", 32, 64), ("second", 64, 64), ("last", 64, 32)]
# Devices of all processes together.
DEVICES = 4


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--processes", type=int, default=4, choices=(1, 2, 4))
    parser.add_argument("--number", type=int, help="of this process; by default all are started")
    parser.add_argument("--coordinator", default="localhost:0")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--save", metavar="FILE")
    parser.add_argument("--resume", metavar="FILE")
    arguments = parser.parse_args()
    if arguments.number is None:
        sys.exit(start_all(arguments.processes))
    train(arguments)


def start_all(count):
    """Starts this script once for each process, and returns 0 if all end well."""
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port = found.getsockname()[1]
    own = [sys.executable, *sys.argv, "--coordinator", f"localhost:{port}"]
    processes = [subprocess.Popen([*own, "--number", str(i)]) for i in range(count)]
    return max(abs(process.wait()) for process in processes)


def train(arguments):
    flags = f" --xla_force_host_platform_device_count={DEVICES // arguments.processes}"
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + flags

    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import NamedSharding
    from jax.sharding import PartitionSpec as P
    from sonew.jax import fused_sonew, load, save

    if arguments.processes > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(arguments.coordinator, arguments.processes, arguments.number)
    devices = np.array(jax.devices()).reshape(DEVICES // 2, 2)
    mesh = jax.sharding.Mesh(devices, ("data", "model"))

    def placed(whole, *spec):
        """An array of which every process makes the parts that are its own."""
        sharding = NamedSharding(mesh, P(*spec))
        return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])

    rng = np.random.default_rng(0)
    params = {}
    for name, inputs, units in LAYERS:
        kernel = rng.standard_normal((inputs, units)).astype(np.float32) / np.sqrt(inputs)
        bias = np.zeros(units, np.float32)
        # Cut along the units, so that chains, which run along their inputs, stay whole.
        params[name] = {"kernel": placed(kernel, None, "model"), "bias": placed(bias, "model")}
    mixing = rng.standard_normal((8, 32)).astype(np.float32)

    def batch(step):
        hidden = np.random.default_rng(step + 1).standard_normal((64, 8)).astype(np.float32)
        return placed(np.tanh(hidden @ mixing), "data")

    def loss(params, x):
        y = x
        for name, _, _ in LAYERS:
            y = y @ params[name]["kernel"] + params[name]["bias"]
            y = y if name == "last" else jnp.tanh(y)
        return jnp.mean((y - x) ** 2)

    options = {"chains": "strided_lines", "lagged_norms": True, "partition_specs": params}
    optimizer = fused_sonew(3e-3, **options)

    @jax.jit
    def step(params, state, x):
        value, grads = jax.value_and_grad(loss)(params, x)
        params, state = optimizer.step(params, grads, state)
        return params, state, value

    state = optimizer.init(params)
    if arguments.resume:
        params, state = load(arguments.resume, params, state, **options)
    seconds = []
    for _ in range(arguments.steps):
        done = int(state.count)
        x = batch(done)
        begun = time.perf_counter()
        params, state, value = jax.block_until_ready(step(params, state, x))
        seconds.append(time.perf_counter() - begun)
        if jax.process_index() == 0:
            print(f"step {done + 1}: loss {float(value):.9g}", flush=True)
    if seconds and jax.process_index() == 0:
        median = 1e3 * statistics.median(seconds)
        print(f"{arguments.processes} processes, {median:.2f} ms a step (median)", flush=True)
    if arguments.save:
        save(arguments.save, params, state, **options)


if __name__ == "__main__":
    main()
