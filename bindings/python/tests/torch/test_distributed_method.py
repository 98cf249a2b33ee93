"""What a step on several processes computes, against the method written down in float64, and what is
refused."""

import numpy as np
import pytest
import sonew
import torch
import torch.distributed as dist
from common import bits, make
from ranks import run_on
from test_distributed import SHAPES, STEPS, numbers, result, rows, steps, whole
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

BETA1, BETA2, EPS, GAMMA, LR = 0.9, 0.99, 1e-4, 0.01, 1e-2


def direction(m, h, e, damping):
    """X m of one chain, tridiagonal: X = L D L^T, after removal of edges."""
    d = h + damping
    psi, s = np.zeros_like(d), d.copy()
    for j in range(len(d) - 1):
        ratio = e[j] / d[j + 1]
        if d[j] - ratio * e[j] > GAMMA * d[j]:
            psi[j], s[j] = ratio, d[j] - ratio * e[j]
    w = m.copy()
    w[:-1] -= psi[:-1] * m[1:]
    w /= s
    u = w.copy()
    u[1:] -= psi[:-1] * w[:-1]
    return u


def textbook(start, gradients, parts):
    """A tensor after steps with Adam's norm and damping that follows the step before. Its rows are
    in so many parts: a chain goes through the rows of one, and the norm is of all."""
    p = start.copy()
    chunks = torch.arange(len(p)).chunk(parts)
    slices = [slice(int(chunk[0]), int(chunk[-1]) + 1) for chunk in chunks]
    m, h = np.zeros_like(p), np.zeros_like(p)
    e = [np.zeros(p[own].size) for own in slices]
    largest = None
    for t, g in enumerate(gradients, start=1):
        m = BETA1 * m + (1 - BETA1) * g
        h = BETA2 * h + (1 - BETA2) * g * g
        m_, h_ = m / (1 - BETA1**t), h / (1 - BETA2**t)
        damping = EPS * (h_.max() if largest is None else largest)
        largest = h_.max()
        u = np.zeros_like(p)
        for i, own in enumerate(slices):
            flat = g[own].ravel()
            e[i][:-1] = BETA2 * e[i][:-1] + (1 - BETA2) * flat[:-1] * flat[1:]
            found = direction(m_[own].ravel(), h_[own].ravel(), e[i] / (1 - BETA2**t), damping)
            u[own] = found.reshape(u[own].shape)
        a = m_ / np.sqrt(h_)
        p = p - LR * u * np.linalg.norm(a) / np.linalg.norm(u)
    return p


def cut():
    _, params = steps(rows, {"betas": (BETA1, BETA2), "eps": EPS, "gamma": GAMMA, "lr": LR}, dtype=torch.float64)
    return [whole(p.detach()) for p in params]


@pytest.mark.parametrize("count", [pytest.param(1, marks=pytest.mark.long), pytest.param(2, marks=pytest.mark.long), 4])
def test_chains_that_are_cut_have_no_edges_over_the_cut(count):
    """The default: one chain through all rows, of which each process has some."""
    found = run_on(count, cut)
    start = numbers(0, dtype=torch.float64)
    gradients = [numbers(100 + step, dtype=torch.float64) for step in range(STEPS)]
    others = {}
    for i, shape in enumerate(SHAPES):
        if len(shape) == 1:
            continue
        own = [g[i].numpy() for g in gradients]
        expected = textbook(start[i].numpy(), own, count)
        for rank in range(count):
            np.testing.assert_allclose(found[rank][i].numpy(), expected, rtol=1e-9, atol=1e-11)
        others[i] = np.abs(expected - textbook(start[i].numpy(), own, 1)).max()
    # The cut is seen.
    assert count == 1 or max(others.values()) > 1e-4


def habits():
    """Schedules of betas, parameters without a gradient, several groups, and a second copy of each
    part."""
    count = dist.get_world_size()
    mesh = init_device_mesh("cpu", (2, count // 2), mesh_dim_names=("replicate", "shard"))
    found = []
    for place in (lambda x: x, lambda x: distribute_tensor(x, mesh, [Replicate(), Shard(0)])):
        params = [torch.nn.Parameter(place(x)) for x in numbers(0, dtype=torch.float64)]
        groups = [
            {"params": [("a", params[0]), ("b", params[1])], "lr": 3e-2, "weight_decay": 0.1},
            {"params": [(f"c{i}", p) for i, p in enumerate(params[2:])], "graft": "sgd", "band": 2},
        ]
        optimizer = make(groups, chains="contiguous_lines", non_finite="skip")
        for step in range(6):
            grads = numbers(100 + step, dtype=torch.float64)
            if step == 3:
                # Not finite on one process only.
                grads[0][-1] = float("nan")
            for i, (p, grad) in enumerate(zip(params, grads)):
                p.grad = None if (step, i) in ((0, 2), (4, 0)) else place(grad)
            for group in optimizer.param_groups:
                group["betas"] = (0.9 - 0.01 * step, 0.99)
            optimizer.step()
        found.append((result(optimizer, params), optimizer.skipped))
    return found


def test_habits_of_programs():
    for (expected, skipped), (own, own_skipped) in run_on(4, habits):
        assert skipped == own_skipped == 1
        for p, q in zip(own[0], expected[0]):
            torch.testing.assert_close(p, q, rtol=1e-11, atol=1e-12)
        for one, other in zip(own[1], expected[1]):
            assert one.keys() == other.keys() and one["step"] == other["step"]
            for name, x in one.items():
                torch.testing.assert_close(x, other[name], rtol=1e-10, atol=1e-12)


def raised():
    """What is said of a gradient that is not finite on the second process, on each."""
    p = torch.nn.Parameter(rows(torch.ones(4, 3)))
    optimizer = make([("w", p)], non_finite="raise")
    grad = torch.ones(4, 3)
    grad[3, 0] = float("inf")
    p.grad = rows(grad)
    with pytest.raises(sonew.LibraryError, match="w") as caught:
        optimizer.step()
    assert caught.value.status == sonew.NON_FINITE_GRADIENT
    assert bits([p.to_local()]) == bits([torch.ones(2, 3)])


def test_a_gradient_that_is_not_finite_on_one_process_is_refused_on_all():
    run_on(2, raised)


def refusals():
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    p = torch.nn.Parameter(rows(torch.ones(4, 3)))
    for options, said in (({"lagged_norms": False}, "lagged_norms=False"), ({"chains": "strided_lines"}, "whole chains")):
        with pytest.raises(ValueError, match=f"w is cut over processes .* pooling is 'band' .*{said}"):
            make([("w", p)], pooling="band", **options)
    for implementation in ("torch", "compiled"):
        with pytest.raises(ValueError, match=f"w is a DTensor on cpu with implementation='{implementation}'"):
            make([("w", p)], implementation=implementation)
    partial = torch.nn.Parameter(DTensor.from_local(torch.ones(2), mesh, [Partial()]))
    with pytest.raises(ValueError, match="w has the placements .* a partial sum is no parameter"):
        make([("w", partial)])
    optimizer = make([("w", p)])
    p.grad = rows(torch.ones(4, 3))
    optimizer.step()
    own = optimizer.state[p]
    kept = own["momentum"]
    for wrong, said in ((kept.full_tensor(), "no DTensor"), (kept.redistribute(placements=[Shard(1)]), "Shard\\(dim=1\\)")):
        own["momentum"] = wrong
        with pytest.raises(ValueError, match=f"'momentum' of w has the placements .*{said}"):
            optimizer.step()
    own["momentum"] = kept
    optimizer.step()
    # Replicated DTensors are whole.
    p = torch.nn.Parameter(distribute_tensor(torch.ones(4, 3), mesh, [Replicate()]))
    optimizer = make([("w", p)], pooling="band")
    p.grad = distribute_tensor(torch.ones(4, 3), mesh, [Replicate()])
    optimizer.step()
    # A gradient that is placed in another way is brought to the parameter's rows.
    p = torch.nn.Parameter(rows(torch.ones(4, 3)))
    optimizer = make([("w", p)])
    p.grad = distribute_tensor(torch.ones(4, 3), mesh, [Replicate()])
    optimizer.step()
    assert p.to_local().shape == (2, 3) and (p.to_local() < 1).all()


def test_what_cannot_be_is_refused_by_name():
    run_on(2, refusals)
