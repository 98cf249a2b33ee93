"""Training on several processes: DDP, fully_shard, and meshes with tensor parallelism."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
from common import bits, make
from ranks import run_on
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

# On 4 processes the third has fewer rows than the first, and some have none.
SHAPES = [(10, 6), (10,), (3, 4, 5), (30,), (7, 1), (1, 8), (2, 2, 3)]
STEPS = 6


def numbers(seed, shapes=SHAPES, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


def whole(x):
    return x.full_tensor() if isinstance(x, DTensor) else x


def steps(place, options, shapes=SHAPES, dtype=torch.float32, count=STEPS, gradients=None):
    """Takes steps with gradients that depend on the step alone, and returns the optimizer and its
    parameters."""
    params = [torch.nn.Parameter(place(x)) for x in numbers(0, shapes, dtype)]
    optimizer = make([(f"p{i}", p) for i, p in enumerate(params)], **options)
    gradients = gradients or (lambda step: numbers(100 + step, shapes, dtype))
    for step in range(count):
        for p, grad in zip(params, gradients(step)):
            p.grad = None if grad is None else place(grad)
        optimizer.step()
    optimizer.synchronize()
    return optimizer, params


def result(optimizer, params):
    """Whole parameters, and whole state by name."""
    state = [{name: whole(x) for name, x in optimizer.state[p].items()} for p in params]
    return [whole(p.detach()) for p in params], state


def single(options, **more):
    return result(*steps(lambda x: x, options, **more))


def rows(x):
    """A tensor whose rows are divided among all processes."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    return distribute_tensor(x, mesh, [Shard(0)])


def several(cases):
    return [result(*steps(rows, options, **more)) for options, more in cases]


def on_processes(count, cases):
    """The result of each case, which is the same on each process."""
    first, *others = run_on(count, several, cases)
    for found in others:
        for (params, state), (of_first, state_of_first) in zip(found, first):
            assert bits(params) == bits(of_first)
            assert list(map(all_bits, state)) == list(map(all_bits, state_of_first))
    return first


def all_bits(own):
    return {name: bits([x]) for name, x in own.items()}


# Chains that no rank cuts. Without a graft nothing is summed.
EXACT = {
    "rows": {"chains": "contiguous_lines", "graft": "none"},
    "rows, band 3": {"chains": "contiguous_lines", "graft": "none", "band": 3},
    "relative": {"chains": "contiguous_lines", "graft": "none", "damping": "relative"},
    "absolute": {"chains": "contiguous_lines", "graft": "none", "damping": "absolute"},
    "diagonal": {"band": 0, "graft": "none"},
    "adam": {"update": "adam"},
    "bfloat16 state": {"chains": "contiguous_lines", "graft": "none", "state_dtype": torch.bfloat16},
}


@pytest.mark.parametrize("count", [2, 4])
def test_bits_of_one_process_where_nothing_is_summed(count):
    found = on_processes(count, [(options, {}) for options in EXACT.values()])
    for options, (own_params, own_state) in zip(EXACT.values(), found):
        params, state = single(options)
        assert bits(own_params) == bits(params), options
        assert list(map(all_bits, own_state)) == list(map(all_bits, state)), options


SUMMED = {
    "norms": {},
    "lagged": {"lagged_norms": True},
    "lagged, absolute": {"lagged_norms": True, "damping": "absolute"},
    "lagged, nesterov": {"lagged_norms": True, "nesterov": True},
    "relative": {"damping": "relative"},
    "normalized rmsprop": {"graft": "normalized_rmsprop"},
    "skip": {"non_finite": "skip", "lagged_norms": True},
    "master": {"dtype": torch.bfloat16, "master_weights": True, "lagged_norms": True},
    "bfloat16": {"dtype": torch.bfloat16, "lagged_norms": True},
}


@pytest.mark.parametrize("count", [2, 4])
def test_norms_are_those_of_whole_tensors(count):
    """Sums in float64 are added in another order, so that the last bits of a norm differ: that
    shows in parameters of float64, and in smaller ones hardly ever."""
    cases = []
    for options in SUMMED.values():
        options = {"chains": "contiguous_lines", **options}
        cases.append((options, {"dtype": options.pop("dtype", torch.float64)}))
    for (options, more), (own_params, own_state) in zip(cases, on_processes(count, cases)):
        params, state = single(options, **more)
        for own, expected in zip(own_params, params):
            torch.testing.assert_close(own, expected, rtol=1e-12, atol=1e-12)
        for own, expected in zip(own_state, state):
            assert own.keys() == expected.keys()
            for key, x in expected.items():
                torch.testing.assert_close(own[key], x, rtol=1e-11, atol=1e-13)


# What a step does with collectives.


class Trace:
    """Notes when collectives of the optimizer begin, and when they are waited for, by step."""

    def __init__(self, patch):
        self.count, self.steps, self.gather = 0, [], dist.all_gather_into_tensor
        patch.setattr(dist, "all_gather_into_tensor", self.begin)

    def note(self, what, number):
        self.steps[-1].append(f"{what} {number}")

    def begin(self, *arguments, **more):
        self.count += 1
        self.note("begin", self.count)
        return Waited(self.gather(*arguments, **more), self, self.count)


class Waited:
    def __init__(self, work, trace, number):
        self.work, self.trace, self.number = work, trace, number

    def wait(self):
        self.trace.note("wait for", self.number)
        return self.work.wait()


def traced(options, count=4):
    """The collectives of each step."""
    with pytest.MonkeyPatch.context() as patch:
        trace = Trace(patch)

        def gradients(step):
            trace.steps.append([])
            return numbers(100 + step)

        steps(rows, options, count=count, gradients=gradients)
    return trace.steps


def test_one_collective_for_all_tensors():
    """A first step also needs what the damping is relative to."""
    one = [["begin 3", "wait for 3"], ["begin 4", "wait for 4"], ["begin 5", "wait for 5"]]
    for found in run_on(2, traced, {}):
        assert found == [["begin 1", "wait for 1", "begin 2", "wait for 2"], *one]
    # One for each stage: what damping is relative to in the same step, and norms.
    for found in run_on(2, traced, {"damping": "relative"}):
        assert all(len(events) == 4 for events in found)
    for found in run_on(2, traced, {"graft": "none", "damping": "absolute"}):
        assert found == [[]] * 4


@pytest.mark.parametrize("options", [{}, {"band": 4}, {"graft": "none", "lagged_norms": False}])
def test_nothing_is_waited_for_before_the_next_step_with_lagged_norms(options):
    """From the second step on: sums of a step begin when its parameters have been written, and are
    waited for when the next step begins. The last one is waited for by synchronize()."""
    for found in run_on(2, traced, {"lagged_norms": True, **options}):
        first, *others = found
        last = int(first[-1].split()[-1])
        for n, events in enumerate(others, start=last + 1):
            before = [] if "wait for" in first[-1] and n == last + 1 else [f"wait for {n - 1}"]
            after = [f"wait for {n}"] if events is others[-1] else []
            assert events == [*before, f"begin {n}", *after]


def lagged_writes():
    """Parameters after a step, before and after its sums have arrived."""
    optimizer, params = steps(rows, {"lagged_norms": True})
    for p, grad in zip(params, numbers(100 + STEPS)):
        p.grad = rows(grad)
    optimizer.step()
    assert optimizer._calls[0].late
    before = [p.to_local().clone() for p in params]
    optimizer.synchronize()
    assert not optimizer._calls[0].late
    assert bits(before) == bits([p.to_local() for p in params])


def test_lagged_norms_write_parameters_before_sums_arrive():
    run_on(2, lagged_writes)


def too_long():
    """A direction that becomes far longer than before, in one row of one process."""

    def gradients(step):
        grads = numbers(100 + step)
        for grad in grads:
            grad[1:] *= 0.0
            if step < 4:
                grad[:1] *= 100
        if step >= 4:
            grads = [torch.flip(grad, [0]) * 1e-3 for grad in grads]
        return grads

    found = []
    for place in (rows, lambda x: x):
        params = [torch.nn.Parameter(place(x)) for x in numbers(0)]
        optimizer = make(params, lagged_norms=True, chains="contiguous_lines")
        for step in range(7):
            for p, grad in zip(params, gradients(step)):
                p.grad = place(grad)
            optimizer.step()
            ratios = [float(own["scalars"][0]) for own in optimizer.state.values()]
            late = [whole(p.detach()).clone() for p in params]
            optimizer.synchronize()
            ended = [whole(p.detach()).clone() for p in params]
        found.append((ended, late, ratios))
    return found


def test_what_was_too_long_is_taken_back_when_sums_arrive():
    (cut, _, _), (expected, _, _) = run_on(2, too_long)[0]
    for own, other in zip(cut, expected):
        torch.testing.assert_close(own, other, rtol=1e-6, atol=1e-7)
