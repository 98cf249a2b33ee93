"""Runs functions of tests in several processes that are joined by gloo."""

import datetime
import io
import multiprocessing
import os
import tempfile
import traceback

import pytest
import torch
import torch.distributed as dist

# PyTorch 2.6 has no events of the CPU, which its fully_shard waits for.
needs_fully_shard = pytest.mark.skipif(
    not hasattr(torch.cpu.Stream, "record_event"),
    reason="fully_shard of this PyTorch does not run on the CPU",
)

# The server imports torch once, and processes are copies of it.
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(
    [
        "pytest",
        "torch._dynamo",
        "torch.distributed.checkpoint",
        "torch.distributed.fsdp",
        "torch.distributed.tensor.parallel",
        "torch.nn.parallel",
        "sonew.torch",
        "sonew.torch._distributed",
    ]
)


# Seconds after which a process hangs; on a machine with much else to do all take long.
PATIENCE = 300


def begin(rank, count, store, seconds):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=count,
        timeout=datetime.timedelta(seconds=seconds),
    )


def main(function, arguments, rank, count, store, seconds, pipe):
    found = None
    try:
        begin(rank, count, store, seconds)
        found = "returned", function(*arguments)
    except BaseException as error:
        found = "raised", f"{type(error).__name__}: {error}\n{traceback.format_exc()}"
    # As bytes: memory that is shared between processes would end with this one.
    held = io.BytesIO()
    torch.save(found, held)
    pipe.send_bytes(held.getvalue())
    pipe.close()
    # Peers may be gone: nothing is waited for.
    os._exit(0)


def outcomes(count, function, *arguments, seconds=120):
    """What a function did on each rank: ("returned", value), ("raised", text) or None where the
    process died."""
    with tempfile.TemporaryDirectory() as folder:
        store, ranks = os.path.join(folder, "store"), []
        for rank in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=main, args=(function, arguments, rank, count, store, seconds, theirs)
            )
            process.start()
            theirs.close()
            ranks.append((process, ours))
        found = []
        for process, pipe in ranks:
            try:
                if pipe.poll(seconds + PATIENCE):
                    found.append(torch.load(io.BytesIO(pipe.recv_bytes()), weights_only=False))
                else:
                    found.append(("hung", None))
            except EOFError:
                found.append(None)
            process.kill()
            process.join()
        return found


def run_on(count, function, *arguments):
    """The values that a function returned, by rank."""
    found = outcomes(count, function, *arguments)
    for rank, one in enumerate(found):
        assert one is not None, f"rank {rank} died"
        assert one[0] == "returned", f"rank {rank} {one[0]} {one[1]}"
    return [value for _, value in found]
