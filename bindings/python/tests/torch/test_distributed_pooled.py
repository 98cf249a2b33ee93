"""Pooled correlations of parameters that are cut over processes between their chains: sums of products
are added up in the background, and results are those of one process."""

import pytest
import torch
import torch.distributed as dist
from common import bits, make
from ranks import run_on
from sonew.torch import load, save
from test_distributed import Trace, Waited, all_bits, numbers, on_processes, result, rows, single, steps
from test_distributed_checkpoint import load_from, of, path_of, save_to, sharded_model, take_steps
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

# The chains of the first are three groups, which take turns and are cut elsewhere than between
# groups; of the others some processes have no rows.
SHAPES = [(601, 5), (9,), (3, 4, 5), (5, 7), (1, 8)]
STEPS = 7
ROWS = {"chains": "contiguous_lines"}
OPTIONS = {
    "band": {"pooling": "band", "band": 2},
    "rank": {"pooling": "rank", "rank": 2},
    "all": {"pooling": "all"},
    "without a norm": {"pooling": "band", "graft": "none"},
    "without stages": {"pooling": "rank", "rank": 3, "graft": "none", "damping": "absolute"},
    "relative": {"pooling": "band", "damping": "relative", "statistics": "weighted_sum"},
    "nesterov": {"pooling": "band", "nesterov": True, "chains": "contiguous"},
    "skip": {"pooling": "band", "graft": "normalized_rmsprop", "non_finite": "skip"},
    "bfloat16": {"pooling": "band", "dtype": torch.bfloat16, "master_weights": True},
}


def agree(found, expected, tolerance):
    (params, state), (whole_params, whole_state) = found, expected
    for own, other in zip(params, whole_params):
        torch.testing.assert_close(own, other, rtol=tolerance, atol=tolerance)
    for own, other in zip(state, whole_state):
        assert own.keys() == other.keys()
        for key, x in other.items():
            torch.testing.assert_close(own[key], x, rtol=10 * tolerance, atol=tolerance)


def check(count, names):
    cases = []
    for name in names:
        options = {**ROWS, **OPTIONS[name]}
        more = {"shapes": SHAPES, "dtype": options.pop("dtype", torch.float64), "count": STEPS}
        cases.append((options, more))
    # Also that all processes have the same bits.
    for (options, more), found in zip(cases, on_processes(count, cases)):
        agree(found, single(options, **more), 1e-9 if more["dtype"] == torch.float64 else 1e-2)


def test_two_processes_take_the_steps_of_one():
    check(2, ["band", "rank"])


@pytest.mark.long
@pytest.mark.parametrize("count", [2, 4])
def test_steps_are_those_of_one_process(count):
    check(count, OPTIONS)


# What a step does with collectives.


def traced(options, count=4):
    """The collectives of each step, all-reduces beside all-gathers."""
    with pytest.MonkeyPatch.context() as patch:
        trace = Trace(patch)
        all_reduce = dist.all_reduce

        def begin(*arguments, **more):
            trace.count += 1
            trace.note("all-reduce", trace.count)
            return Waited(all_reduce(*arguments, **more), trace, trace.count)

        patch.setattr(dist, "all_reduce", begin)

        def gradients(step):
            trace.steps.append([])
            return numbers(100 + step, SHAPES)

        steps(rows, {**ROWS, **options}, SHAPES, count=count, gradients=gradients)
    return trace.steps


@pytest.mark.parametrize(
    "options", [OPTIONS["band"], OPTIONS["without stages"]], ids=["band", "without stages"]
)
def test_one_collective_that_is_not_waited_for_before_the_next_step(options):
    """From the second step on, sums and norms begin together when parameters have been written; the
    last ones are waited for by synchronize()."""
    for found in run_on(2, traced, options):
        first, *others = found
        last = int(first[-1].split()[-1])
        for n, events in enumerate(others, start=last + 1):
            before = [] if first[-1].startswith("wait for") and n == last + 1 else [f"wait for {n - 1}"]
            after = [f"wait for {n}"] if events is others[-1] else []
            assert events == [*before, f"all-reduce {n}", *after]


# Meshes, and what programs do.


def on_a_mesh():
    """The same steps by one process, with a second copy of each part, and with a matrix that tensor
    parallelism and fully_shard cut, some groups of whose chains are on each process."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    options = {**ROWS, **OPTIONS["rank"]}
    replicated = lambda x: distribute_tensor(x, mesh, [Replicate(), Shard(0)])
    found = [steps(place, options, SHAPES, torch.float64, STEPS) for place in (lambda x: x, replicated)]
    found = [result(*one) for one in found]

    models = []
    for is_cut in (False, True):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(4, 1200), torch.nn.Linear(1200, 3)).double()
        if is_cut:
            parallelize_module(model, mesh["tp"], {"0": ColwiseParallel()})
            fully_shard(model, mesh=mesh["dp"])
        optimizer = make(model.named_parameters(), **options)
        for step in range(STEPS):
            shapes = [p.shape for p in model.parameters()]
            for p, grad in zip(model.parameters(), numbers(step, shapes, torch.float64)):
                p.grad = distribute_tensor(grad, p.device_mesh, p.placements) if is_cut else grad
            optimizer.step()
        optimizer.synchronize()
        models.append(result(optimizer, list(model.parameters())))
    return found, models


@pytest.mark.long
def test_sums_are_over_the_processes_that_have_a_part():
    for pairs in run_on(4, on_a_mesh):
        for expected, found in pairs:
            agree(found, expected, 1e-9)


def without_some_gradients(place):
    """Steps in which the first parameter has no gradient, or one that is not finite on one process."""
    params = [torch.nn.Parameter(place(x)) for x in numbers(0, SHAPES, torch.float64)]
    optimizer = make([("a", params[0])], **ROWS, **OPTIONS["band"], non_finite="skip")
    for step in range(STEPS):
        grads = numbers(100 + step, SHAPES, torch.float64)
        if step == 2:
            grads[0][-1] = float("inf")
        if step == 4:
            # Sums that are under way stay.
            optimizer.add_param_group({"params": [(f"b{i}", p) for i, p in enumerate(params[1:])]})
        for i, (p, grad) in enumerate(zip(params, grads)):
            p.grad = None if (step, i) in ((1, 0), (5, 0), (6, 3)) else place(grad)
        optimizer.step()
    optimizer.synchronize()
    return result(optimizer, params), optimizer.skipped


def habits():
    return without_some_gradients(lambda x: x), without_some_gradients(rows)


def test_skipped_steps_and_parameters_without_a_gradient():
    for (expected, skipped), (found, own_skipped) in run_on(2, habits):
        assert skipped == own_skipped == 1
        agree(found, expected, 1e-9)


# Checkpoints.


def wide(seed):
    return numbers(seed, SHAPES, torch.float64)


def saved(folder, options):
    """Saves after three steps, in both ways, and returns what three more give."""
    own, optimizer = sharded_model(options, wide)
    take_steps(own, optimizer, 0, 3, wide)
    assert optimizer._calls[0].late or optimizer._calls[1].late
    save(path_of(folder), optimizer)
    save_to(folder / "dcp", own, optimizer)
    take_steps(own, optimizer, 3, 3, wide)
    return of(own, optimizer)


def resumed(folder, paths, options):
    own, optimizer = sharded_model(options, wide)
    load_from(folder / "dcp", own, optimizer)
    take_steps(own, optimizer, 3, 3, wide)
    from_files, other = sharded_model(options, wide)
    load(paths, other)
    take_steps(from_files, other, 3, 3, wide)
    return of(own, optimizer), of(from_files, other)


def check_resumed(folder, name, count, others):
    options = {**ROWS, **OPTIONS[name]}
    expected = run_on(count, saved, folder, options)[0]
    paths = [path_of(folder, rank) for rank in range(count)]
    for other in others:
        for first, second in run_on(other, resumed, folder, paths, options):
            agree(first, expected, 1e-9)
            agree(second, expected, 1e-9)
            if other == count:
                assert bits(first[0]) == bits(second[0]) == bits(expected[0])
                assert list(map(all_bits, first[1])) == list(map(all_bits, expected[1]))


def test_saved_and_resumed(tmp_path):
    check_resumed(tmp_path, "band", 2, [1])


@pytest.mark.long
@pytest.mark.parametrize("name", ["band", "rank", "all"])
def test_saved_on_four_and_resumed_on_any_number(tmp_path, name):
    check_resumed(tmp_path, name, 4, [1, 2, 4])


# What cannot be.


def refusals():
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))

    def made(x, placements, **options):
        p = torch.nn.Parameter(distribute_tensor(x, mesh, placements))
        return make([("w", p)], pooling="band", **options)

    matrix, vector = torch.ones(4, 6), torch.ones(6)
    cut = "w is cut over processes .* and pooling is 'band' with "
    for x, placements, options, said in (
        (matrix, [Shard(0)], {"lagged_norms": False}, "lagged_norms=False: pooled sums"),
        (matrix, [Shard(1)], ROWS, "chains='contiguous_lines': correlations .* whole chains"),
        (matrix, [Shard(0)], {"chains": "strided_lines"}, "chains='strided_lines'"),
        (matrix, [Shard(1)], {"chains": "strided_lines"}, "chains='strided_lines'"),
        (torch.ones(2, 4, 3), [Shard(1)], ROWS, "first dimension only"),
        (vector, [Shard(0)], {"update": "sonew", **ROWS}, "at least two dimensions"),
    ):
        with pytest.raises(ValueError, match=f"{cut}.*{said}"):
            made(x, placements, **options)
    with pytest.raises(ValueError, match="w is a DTensor on cpu with implementation='torch'"):
        made(matrix, [Shard(0)], implementation="torch")
    # A vector with the plain Adam update has no correlations.
    made(vector, [Shard(0)], **ROWS)


def test_what_cannot_be_pooled_is_refused_by_name():
    run_on(2, refusals)
