"""One, two and four processes (see processes.py), which have four devices together."""

import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from common import bits
from sonew.jax import LibraryError, fused_sonew, load

WORKER = Path(__file__).with_name("processes.py")
EXAMPLE = WORKER.parents[2] / "examples/jax/processes.py"
KNOWS = tuple(map(int, jax.__version__.split(".")[:2])) >= (0, 7)
pytestmark = pytest.mark.skipif(not KNOWS, reason="an older version of JAX, and of Orbax")

# Which processes do what, one after the other.
RUNS = [
    (2, "steps", "plain", "losses", "saved"),
    (4, "saved", "from-2"),
    (1, "steps", "unsharded", "plain", "losses", "saved", "from-2", "from-4"),
]
LONG = [(2, "from-1", "from-4"), (4, "from-1")]


def free_port():
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


def started(count, arguments):
    """Processes with these arguments of each, whose number is the last."""
    env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return [
        subprocess.Popen(
            [sys.executable, *map(str, arguments(number))],
            env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for number in range(count)
    ]  # fmt: skip


def worked(processes, timeout=300):
    """What they say, who must all end well."""
    said = [process.communicate(timeout=timeout)[0] for process in processes]
    for process, text in zip(processes, said):
        assert process.returncode == 0, text
    return said


def start_workers(folder, count, *scenarios):
    port = free_port()
    return started(count, lambda number: (WORKER, folder, count, number, port, *scenarios))


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """The folder of results of RUNS, which the first test process makes."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "processes"
    folder.mkdir(exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "ready").exists():
            for run in RUNS:
                worked(start_workers(folder, *run))
            (folder / "ready").touch()
    return folder


def results(folder, name):
    with np.load(folder / f"{name}.npz") as file:
        return [file[key] for key in file.files]


@pytest.mark.parametrize("options", ["default", "exact", "relative", "norms", "lagged", "late", "rmsprop"])
def test_steps_do_not_depend_on_the_number_of_processes(shared, options):
    """Given the same gradients and the same parts."""
    one, two = (bits(results(shared, f"steps.{options}-{n}")) for n in (1, 2))
    assert one == two


@pytest.mark.long
def test_steps_and_losses_are_the_same_on_four_processes(shared):
    worked(start_workers(shared, 4, "steps", "plain", "losses"))
    kinds = ("steps", "plain", "losses")
    names = [path.name.removesuffix("-2.npz") for kind in kinds for path in shared.glob(f"{kind}*-2.npz")]
    assert len(names) == 9
    for name in names:
        two, four = (bits(results(shared, f"{name}-{n}")) for n in (2, 4))
        assert two == four, name


def test_whole_chains_have_the_bits_of_a_single_device(shared):
    """If nothing is added up over parts: maxima are exact."""
    for options in ("exact", "relative"):
        cut, whole = (results(shared, f"{kind}.{options}-1") for kind in ("steps", "unsharded"))
        assert bits(cut) == bits(whole)


def test_norms_of_parts_are_those_of_the_whole_up_to_the_order_of_float64_sums(shared):
    for options in ("norms", "lagged", "rmsprop"):
        cut, whole = (results(shared, f"{kind}.{options}-1") for kind in ("steps", "unsharded"))
        for a, b in zip(cut, whole, strict=True):
            # uint32 are words of float64 numbers.
            a, b = (x.view(np.float64) if x.dtype == np.uint32 else x for x in (a, b))
            assert np.allclose(a, b, rtol=1e-6, atol=1e-9)


def test_under_plain_jit_the_step_is_that_of_whole_arrays(shared):
    one, two = (bits(results(shared, f"plain-{n}")) for n in (1, 2))
    assert one == two


def test_losses_of_data_parallel_training(shared):
    """Gradients are sums over devices, in an order that gloo decides between processes."""
    one, two = (results(shared, f"losses-{n}")[0] for n in (1, 2))
    assert np.allclose(one, two, rtol=1e-5) and one[-1] < one[0]


@pytest.mark.parametrize("kind", ["units", "rows", "cut", "orbax"])
@pytest.mark.parametrize("before, now", [(2, 4), (2, 1), (4, 1)])
def test_training_goes_on_with_another_number_of_processes(shared, kind, before, now):
    """Files of the library, and Orbax's."""
    if kind == "cut" and now == 1:
        # Refused, as processes.py has checked.
        return
    expected = results(shared, f"{kind.replace('orbax', 'units')}.on-{before}")
    assert bits(results(shared, f"{kind}.from-{before}-{now}")) == bits(expected)


@pytest.mark.long
@pytest.mark.parametrize("run", LONG, ids=str)
def test_training_goes_on_with_as_many_or_more(shared, run):
    worked(start_workers(shared, *run))
    for name in run[1:]:
        for kind in ("units", "rows", "cut", "orbax"):
            before = name.removeprefix("from-")
            if kind == "cut" and before == "1":
                continue
            expected = results(shared, f"{kind.replace('orbax', 'units')}.on-{before}")
            assert bits(results(shared, f"{kind}.{name}-{run[0]}")) == bits(expected)


@pytest.fixture(scope="module")
def of_pooled(tmp_path_factory):
    """The folder of results of steps and files of leaves with pooled correlations."""
    folder = tmp_path_factory.mktemp("pooled")
    worked(start_workers(folder, 2, "pooled", "pooled-saved"))
    worked(start_workers(folder, 4, "pooled", "pooled-saved", "pooled-from-2"))
    worked(start_workers(folder, 1, "pooled", "pooled-from-2", "pooled-from-4"))
    return folder


@pytest.mark.long
def test_parts_of_pooled_leaves_have_the_results_of_one_device(of_pooled):
    """On any number of processes, in time and late."""
    for name in ("band", "rank", "late"):
        whole = results(of_pooled, f"pooled-unsharded.{name.replace('late', 'band')}-1")
        for count in (1, 2, 4):
            parts = results(of_pooled, f"pooled.{name}-{count}")
            # Late, a state has more behind these.
            for a, b in zip(parts, whole, strict=name != "late"):
                # uint32 are words of float64 numbers.
                a, b = (x.view(np.float64) if x.dtype == np.uint32 else x for x in (a, b))
                assert np.allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.long
@pytest.mark.parametrize("before, now", [(2, 4), (2, 1), (4, 1)])
def test_training_of_pooled_leaves_goes_on_with_another_number_of_processes(of_pooled, before, now):
    """Every file has the sums of the whole leaf."""
    for kind in ("pooled-rows", "pooled-units", "pooled-orbax"):
        expected = results(of_pooled, f"{kind.replace('orbax', 'units')}.on-{before}")
        assert bits(results(of_pooled, f"{kind}.from-{before}-{now}")) == bits(expected)
    data = (of_pooled / "pooled-rows-4-00001-of-00004.safetensors").read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    shapes = {name: tensor["shape"] for name, tensor in header.items() if "shape" in tensor}
    assert [8, 6, 2] in shapes.values() and [8, 2] in shapes.values()


SHAPES = {"bias": (8,), "in": (6, 16), "out": (16, 6, 2), "scale": ()}
ROWS = {"chains": "contiguous_lines", "band": 2}


def loaded(folder):
    params = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    return load(folder / "x.safetensors", params, fused_sonew(1e-2, **ROWS).init(params), **ROWS)


def copy(shared, folder, names, name="rows-4"):
    for number, other in enumerate(names, 1):
        source = shared / f"{name}-{other:05}-of-00004.safetensors"
        shutil.copy(source, folder / f"x-{number:05}-of-00004.safetensors")


def test_files_say_which_rows_they_have(shared, tmp_path):
    headers = []
    for number in range(1, 5):
        data = (shared / f"rows-4-{number:05}-of-00004.safetensors").read_bytes()
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        headers.append(json.loads(header["__metadata__"]["sonew.tensors"]))
    rows = [
        (tensor["shard"]["first_row"], tensor["dims"][0], tensor["shard"]["whole_rows"])
        for tensors in headers for tensor in tensors if tensor["name"] == "out"
    ]  # fmt: skip
    # Two of the four processes have the same rows; one of them writes.
    assert sorted(rows) == [(0, 8, 16), (8, 8, 16)]
    # Rows are found by what files say, whatever their names.
    copy(shared, tmp_path, (3, 1, 4, 2))
    in_place = tmp_path / "in_place"
    in_place.mkdir()
    copy(shared, in_place, (1, 2, 3, 4))
    assert bits(loaded(tmp_path)) == bits(loaded(in_place))


def test_the_file_of_another_process_is_refused(shared, tmp_path):
    # The second half of the rows of "out" is in the third file, which has the shapes of the
    # first, and of "in" in the second.
    for names in (1, 2, 1, 4), (1, 1, 3, 4):
        copy(shared, tmp_path, names)
        with pytest.raises(LibraryError, match="not in the files|rows"):
            loaded(tmp_path)
    # By itself.
    shutil.copy(shared / "rows-4-00001-of-00004.safetensors", tmp_path / "x.safetensors")
    for number in range(1, 5):
        (tmp_path / f"x-{number:05}-of-00004.safetensors").unlink()
    with pytest.raises(LibraryError):
        loaded(tmp_path)


def test_files_of_two_saves_are_refused(shared, tmp_path):
    copy(shared, tmp_path, (1, 2, 3, 4))
    copy(shared, tmp_path, (1,), name="units-4")
    with pytest.raises(ValueError, match="x-00001-of-00004.* are of two different saves"):
        loaded(tmp_path)


def test_a_set_that_is_not_complete_or_not_the_only_one_is_refused(shared, tmp_path):
    copy(shared, tmp_path, (1, 2, 3))
    with pytest.raises(ValueError, match="x-00004-of-00004.* is missing"):
        loaded(tmp_path)
    copy(shared, tmp_path, (1, 2, 3, 4))
    shutil.copy(shared / "rows-1.safetensors", tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="was saved as 4 files and as one file"):
        loaded(tmp_path)
    (tmp_path / "x.safetensors").unlink()
    loaded(tmp_path)


@pytest.mark.parametrize("when", ["step", pytest.param("save", marks=pytest.mark.long)])
def test_when_a_process_is_killed_the_others_end_with_an_error(tmp_path, when):
    workers = start_workers(tmp_path, 2, "killed", when)
    first, last = [worker.communicate(timeout=240)[0] for worker in workers]
    assert workers[1].returncode == -9 and "saved" in last
    assert workers[0].returncode != 0 and "saved" in first and "done" not in first
    params = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    state = load(tmp_path / "step-1.safetensors", params, fused_sonew(1e-2).init(params))[1]
    assert int(state.count) == 1


@pytest.mark.long
def test_the_example(tmp_path):
    """What its documentation says; and a run of one process without a stop."""

    def losses(*arguments):
        command = [sys.executable, EXAMPLE, *map(str, arguments)]
        env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        lines = [line for line in done.stdout.splitlines() if line.startswith("step ")]
        return {int(line.split()[1].rstrip(":")): float(line.split()[-1]) for line in lines}

    path = tmp_path / "step.safetensors"
    first = losses("--processes", 4, "--steps", 3, "--save", path)
    then = losses("--processes", 2, "--steps", 3, "--resume", path)
    straight = losses("--processes", 1, "--steps", 6)
    alone = losses("--processes", 1, "--steps", 3, "--resume", path)
    assert list(first) + list(then) == list(straight) == list(range(1, 7))
    for goes_on in (then, alone):
        assert np.allclose(list((first | goes_on).values()), list(straight.values()), rtol=1e-5)
