"""Checkpoints of torch.distributed.checkpoint, saved on some processes and loaded on others."""

import os

import pytest
import sonew
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from common import bits, make
from ranks import outcomes, run_on
from sonew.torch import load, save
from test_distributed import all_bits, numbers, result, rows
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor

ROWS = {"chains": "contiguous_lines", "graft": "none"}


class Model(torch.nn.Module):
    """Parameters with gradients that depend on the step alone."""

    def __init__(self, numbers=numbers):
        super().__init__()
        self.p = torch.nn.ParameterList(torch.nn.Parameter(x) for x in numbers(0))


def sharded_model(options, numbers=numbers):
    """Its numbers are those of a seed, one tensor for each parameter."""
    own = fully_shard(Model(numbers))
    return own, make(own.named_parameters(), **options)


def take_steps(own, optimizer, start, count, numbers=numbers):
    for step in range(start, start + count):
        for p, grad in zip(own.parameters(), numbers(100 + step)):
            p.grad = rows(grad)
        optimizer.step()


def of(own, optimizer):
    optimizer.synchronize()
    return result(optimizer, list(own.parameters()))


def save_to(folder, own, optimizer):
    model_state, state = get_state_dict(own, optimizer)
    dcp.save({"model": model_state, "optimizer": state}, checkpoint_id=folder)


def load_from(folder, own, optimizer):
    model_state, state = get_state_dict(own, optimizer)
    dcp.load({"model": model_state, "optimizer": state}, checkpoint_id=folder)
    set_state_dict(own, optimizer, model_state_dict=model_state, optim_state_dict=state)


def saved(folder, options):
    """Saves after three steps, and returns what three more give."""
    own, optimizer = sharded_model(options)
    take_steps(own, optimizer, 0, 3)
    save_to(folder, own, optimizer)
    take_steps(own, optimizer, 3, 3)
    return of(own, optimizer)


def loaded(folder, options):
    own, optimizer = sharded_model(options)
    load_from(folder, own, optimizer)
    take_steps(own, optimizer, 3, 3)
    return of(own, optimizer)


LAGGED = {**ROWS, "graft": "adam", "lagged_norms": True}
ANY = (1, 2, 4)
RESUMED = [(2, ROWS, (1, 4)), (4, LAGGED, (2, 4))]
LONG = [(2, ROWS, ANY), (2, LAGGED, ANY), (4, ROWS, ANY), (4, LAGGED, ANY)]


@pytest.mark.parametrize(
    "count, options, now", RESUMED + [pytest.param(*run, marks=pytest.mark.long) for run in LONG], ids=str
)
def test_saved_on_some_processes_and_resumed_on_others(tmp_path, count, options, now):
    params, state = run_on(count, saved, tmp_path, options)[0]
    for others in now:
        own_params, own_state = run_on(others, loaded, tmp_path, options)[0]
        if others == count or options is ROWS:
            # Else the float64 sums are added up in another order.
            assert list(map(all_bits, own_state)) == list(map(all_bits, state))
        assert bits(own_params) == bits(params)


def loaded_elsewhere(folder, options):
    """The state after a load and a step, at the ends of the chains of own parts."""
    own, optimizer = sharded_model(options)
    load_from(folder, own, optimizer)
    ends = lambda: [x["band_1"].to_local().flatten()[-1:] for x in optimizer.state.values() if "band_1" in x]
    loaded = torch.cat(ends()).clone()
    take_steps(own, optimizer, 3, 1)
    return loaded, torch.cat(ends())


def test_an_entry_beyond_the_end_of_a_chain_is_cleared(tmp_path):
    """Chains that go through several rows end elsewhere on another number of processes."""
    run_on(2, saved, tmp_path, {})
    found = run_on(4, loaded_elsewhere, tmp_path, {})
    assert any((loaded != 0).any() for loaded, _ in found)
    assert all((stepped == 0).all() for _, stepped in found)


def dies_in_a_save(folder, options):
    own, optimizer = sharded_model(options)
    take_steps(own, optimizer, 0, 3)
    model_state, state = get_state_dict(own, optimizer)
    dcp.save({"model": model_state, "optimizer": state}, checkpoint_id=f"{folder}/first")
    take_steps(own, optimizer, 3, 1)
    if dist.get_rank() == 1:

        class Dies(dcp.FileSystemWriter):
            def write_data(self, *_):
                os._exit(9)

        dcp.save({"model": model_state, "optimizer": state}, storage_writer=Dies(f"{folder}/second"))
    dcp.save({"model": model_state, "optimizer": state}, checkpoint_id=f"{folder}/second")


def dies_in_a_step(options):
    own, optimizer = sharded_model(options)
    take_steps(own, optimizer, 0, 3)
    if dist.get_rank() == 1:
        os._exit(9)
    take_steps(own, optimizer, 3, 2)


def test_when_a_process_dies_in_a_save_the_others_fail_and_the_last_checkpoint_loads(tmp_path):
    first, second, third = outcomes(3, dies_in_a_save, tmp_path, ROWS, seconds=5)
    assert second is None
    assert first[0] == third[0] == "raised"
    run_on(2, loaded, tmp_path / "first", ROWS)
    failed = outcomes(2, loaded, tmp_path / "second", ROWS, seconds=5)
    assert all(kind == "raised" and "metadata" in text for kind, text in failed)


@pytest.mark.parametrize("lagged", [False, True])
def test_when_a_process_dies_in_a_step_the_others_fail(lagged):
    options = {"chains": "contiguous_lines", "lagged_norms": lagged}
    first, second, third = outcomes(3, dies_in_a_step, options, seconds=5)
    assert second is None
    assert first[0] == third[0] == "raised"
    assert "RuntimeError" in first[1] or "DistBackendError" in first[1]


# Files of the library.


def path_of(folder, rank=None):
    return os.path.join(folder, f"{dist.get_rank() if rank is None else rank}.safetensors")


def saved_to_files(folder, options, more=0):
    own, optimizer = sharded_model(options)
    take_steps(own, optimizer, 0, 3)
    for name in ("first", "second")[: 1 + more]:
        os.makedirs(folder / name, exist_ok=True)
        save(path_of(folder / name), optimizer)
    take_steps(own, optimizer, 3, 3)
    return of(own, optimizer)


def loaded_from_files(paths, options):
    own, optimizer = sharded_model(options)
    load(paths, optimizer)
    take_steps(own, optimizer, 3, 3)
    return of(own, optimizer)


@pytest.mark.parametrize("now", [(1, 2), pytest.param((4,), marks=pytest.mark.long)])
def test_files_of_some_processes_are_loaded_by_others(tmp_path, now):
    params, state = run_on(4, saved_to_files, tmp_path, ROWS)[0]
    paths = [path_of(tmp_path / "first", rank) for rank in range(4)]
    for count in now:
        own_params, own_state = run_on(count, loaded_from_files, paths, ROWS)[0]
        assert bits(own_params) == bits(params)
        assert list(map(all_bits, own_state)) == list(map(all_bits, state))
    # A process alone, without a group.
    alone = Model()
    optimizer = make(alone.named_parameters(), **ROWS)
    load(paths, optimizer)
    assert all(own["step"] == 3 for own in optimizer.state.values())


def wrong_files(folder):
    """What is said of files that are another rank's, of two saves, or at one place."""
    own, optimizer = sharded_model(ROWS)
    before = bits([p.to_local() for p in own.parameters()])
    said = []
    attempts = [
        lambda: load(path_of(folder / "first", 1 - dist.get_rank()), optimizer),
        lambda: load([path_of(folder / "first", 0), path_of(folder / "second", 1)], optimizer),
        lambda: save(folder / "same", optimizer),
    ]
    for attempt in attempts:
        try:
            attempt()
            said.append("done")
        except (ValueError, sonew.LibraryError) as error:
            said.append(str(error))
    assert bits([p.to_local() for p in own.parameters()]) == before and not optimizer.state
    return said


def test_wrong_files_are_refused_by_name(tmp_path):
    run_on(2, saved_to_files, tmp_path, ROWS, 1)
    for rank, (another, two, same) in enumerate(run_on(2, wrong_files, tmp_path)):
        # Both ranks have five rows of the first parameter.
        assert '"p.0"' in another and "rows" in another
        assert "of different saves" in two and "second" in two
        assert "ranks 0 and 1 save to the same file" in same
    assert not (tmp_path / "same").exists()


def files_of_columns(path):
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    p = torch.nn.Parameter(distribute_tensor(torch.ones(4, 6), mesh, [Shard(1)]))
    with pytest.raises(ValueError, match="w has the placements .* a file has whole rows"):
        save(path, make([("w", p)]))


def test_a_parameter_that_is_cut_along_columns_has_no_file(tmp_path):
    run_on(2, files_of_columns, tmp_path / "x")
