"""Training on several processes: DDP, fully_shard, and meshes with tensor parallelism."""

import functools

import pytest
import torch
import torch.distributed as dist
from common import bits, make
from ranks import needs_fully_shard, run_on
from sonew.torch._sums import holders
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard
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


@functools.cache
def line():
    """All processes, as a mesh."""
    return init_device_mesh("cpu", (dist.get_world_size(),))


def rows(x):
    """A tensor whose rows are divided among all processes. Each has the whole one, so that
    nothing is sent, as distribute_tensor does."""
    chunks = x.chunk(dist.get_world_size())
    own = chunks[dist.get_rank()] if dist.get_rank() < len(chunks) else x[:0]
    return DTensor.from_local(own.clone(), line(), [Shard(0)], shape=x.shape, stride=x.stride())


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


@pytest.mark.parametrize("count", [pytest.param(2, marks=pytest.mark.long), 4])
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


@pytest.mark.parametrize("count", [pytest.param(2, marks=pytest.mark.long), 4])
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


def too_long(place):
    """A direction that becomes far longer than before, in rows of one process. Returns the
    parameters at the end, and whether any of them was taken back."""
    params = [torch.nn.Parameter(place(x)) for x in numbers(0)]
    optimizer = make(params, lagged_norms=True, chains="contiguous_lines")
    taken_back = False
    for step in range(7):
        for p, grad in zip(params, numbers(100 + step)):
            # Steep in the first row, then flat in others, whose statistics are small.
            grad[1:] = 0 if step < 4 else grad[1:] * 1e-3
            grad[:1] *= 100 if step < 4 else 0
            p.grad = place(grad)
        optimizer.step()
        before = [whole(p.detach()).clone() for p in params]
        optimizer.synchronize()
        after = [whole(p.detach()).clone() for p in params]
        taken_back |= bits(before) != bits(after)
    return after, taken_back


def cut_too_long():
    return too_long(rows)


def test_what_was_too_long_is_taken_back_when_sums_arrive():
    expected, _ = too_long(lambda x: x)
    (cut, taken_back), _ = run_on(2, cut_too_long)
    assert taken_back
    for own, other in zip(cut, expected):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-6)


# Models.


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = torch.nn.Linear(6, 10), torch.nn.Linear(10, 5)
        self.norm, self.head = torch.nn.LayerNorm(5), torch.nn.Linear(5, 1)

    def forward(self, x):
        return self.head(self.norm(self.down(torch.nn.functional.gelu(self.up(x)))))


def model():
    torch.manual_seed(0)
    return Model()


def data(rank=0, count=1, size=16):
    """The rows of a batch that a rank has."""
    x = torch.randn(size, 6, generator=torch.Generator().manual_seed(1))
    y = x[:, :1].sin() + x[:, 1:2]
    own = slice(rank * size // count, (rank + 1) * size // count)
    return x[own], y[own]


def train(model, optimizer, x, y, count):
    losses = []
    for _ in range(count):
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return losses


def mean_losses(losses):
    """Those of the whole batch."""
    losses = torch.stack(losses)
    dist.all_reduce(losses)
    return losses / dist.get_world_size()


def parallel(kind):
    """The model, divided among processes, and the rows of data that this one has."""
    rank, count, own = dist.get_rank(), dist.get_world_size(), model()
    if kind == "ddp":
        return DistributedDataParallel(own), data(rank, count)
    if kind == "hsdp":
        mesh = init_device_mesh("cpu", (2, count // 2), mesh_dim_names=("replicate", "shard"))
        return fully_shard(own, mesh=mesh), data(rank, count)
    if kind == "tensor parallel":
        mesh = init_device_mesh("cpu", (2, count // 2), mesh_dim_names=("dp", "tp"))
        plan = {"up": ColwiseParallel(), "down": RowwiseParallel()}
        parallelize_module(own, mesh["tp"], plan)
        fully_shard(own, mesh=mesh["dp"])
        return own, data(mesh.get_coordinate()[0], 2)
    options = {"offload_policy": CPUOffloadPolicy(pin_memory=False)} if kind == "offload" else {}
    fully_shard(own.down, **options)
    return fully_shard(own, **options), data(rank, count)


MODELS = ("ddp", "fully_shard", "offload", "hsdp", "tensor parallel")
OPTIONS = {
    "rows": {"chains": "contiguous_lines"},
    # With more damping an update of this model is more than twice too long: where sums are late, it is
    # brought back one gradient later than on one process.
    "lagged": {"chains": "contiguous_lines", "lagged_norms": True, "eps": 1e-4},
    "diagonal": {"band": 0},
    "cut": {},
}
# Under DDP no chain is cut, and RowwiseParallel cuts those of rows.
CUT = {"ddp": (), "tensor parallel": ("rows", "lagged", "cut")}


MODEL_STEPS = 5


def trained(kind):
    found = []
    for name, options in OPTIONS.items():
        torch.manual_seed(0)
        own, (x, y) = parallel(kind)
        optimizer = make(own.named_parameters(), **options)
        losses = mean_losses(train(own, optimizer, x, y, MODEL_STEPS))
        optimizer.synchronize()
        found.append((losses, [whole(p.detach()) for p in own.parameters()]))
    return found


def case(kind, count, *marks):
    return pytest.param(kind, count, marks=[*marks, *([] if kind == "ddp" else [needs_fully_shard])])


# Some need a mesh of 2 x 2.
ON_TWO = [case(kind, 2, pytest.mark.long) for kind in MODELS if kind not in ("hsdp", "tensor parallel")]


# What others have, too: both "offload" and "hsdp" are fully_shard.
ON_FOUR = [case(kind, 4, *([pytest.mark.long] if kind == "fully_shard" else [])) for kind in MODELS]


@pytest.mark.parametrize("kind, count", ON_FOUR + ON_TWO)
def test_models_train_as_on_one_process(kind, count):
    """Up to the rounding of gradients, which are means over processes; where chains are cut, the
    training is another one."""
    found = run_on(count, trained, kind)
    for own in found[1:]:
        for (losses, params), (first_losses, first) in zip(own, found[0]):
            assert bits(params) == bits(first) and bits([losses]) == bits([first_losses])
    for (name, options), (losses, params) in zip(OPTIONS.items(), found[0]):
        own = model()
        expected = torch.stack(train(own, make(own.named_parameters(), **options), *data(), MODEL_STEPS))
        close = name not in CUT.get(kind, ("cut",))
        torch.testing.assert_close(losses, expected, rtol=2e-3 if close else 0.1, atol=0)
        if close:
            for p, q in zip(params, own.parameters()):
                torch.testing.assert_close(p, q.detach(), rtol=1e-2, atol=1e-3)


def pooled():
    own, (x, y) = parallel("ddp")
    optimizer = make(own.named_parameters(), pooling="band", band=2)
    train(own, optimizer, x, y, 4)
    assert any("pooled" in state for state in optimizer.state.values())
    return [p.detach() for p in own.parameters()], [dict(x) for x in optimizer.state.values()]


def test_pooled_correlations_where_parameters_are_replicated():
    (params, state), (others, other_state) = run_on(2, pooled)
    assert bits(params) == bits(others) and list(map(all_bits, state)) == list(map(all_bits, other_state))


def summed_over():
    own, _ = parallel("tensor parallel")
    return {name: holders(p) for name, p in own.named_parameters()}


@needs_fully_shard
def test_sums_are_over_the_dimensions_of_the_mesh_that_cut_a_tensor():
    found = run_on(4, summed_over)
    # The mesh is [[0, 1], [2, 3]]; the norm is the same on both processes of a row.
    for rank, own in enumerate(found):
        assert own["up.weight"] == own["down.weight"] == (0, 1, 2, 3)
        assert own["norm.weight"] == own["head.weight"] == (rank % 2, rank % 2 + 2)


def traced_model(kind):
    own, (x, y) = parallel(kind)
    optimizer = make(own.named_parameters(), lagged_norms=True)
    with pytest.MonkeyPatch.context() as patch:
        trace = Trace(patch)
        patch.setattr(optimizer, "step", lambda step=optimizer.step: (trace.steps.append([]), step()))
        # Backward and forward passes have collectives of their own.
        begin = trace.begin
        patch.setattr(
            dist,
            "all_gather_into_tensor",
            lambda out, own, **more: (begin if own.dtype == torch.float64 else trace.gather)(out, own, **more),
        )
        train(own, optimizer, x, y, 3)
        optimizer.synchronize()
    return trace.steps


@needs_fully_shard
@pytest.mark.parametrize("kind", [pytest.param("fully_shard", marks=pytest.mark.long), "hsdp", "tensor parallel"])
def test_one_collective_for_all_parameters_of_a_model(kind):
    for found in run_on(4, traced_model, kind):
        assert found[1:] == [["begin 3"], ["wait for 3", "begin 4", "wait for 4"]]
