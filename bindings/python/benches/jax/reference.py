"""A reimplementation of the authors' JAX code (init2winit's tridiagonal optimizer,
2024), to measure what a step costs JAX users without libsonew.

It performs the same operations on the same arrays, leaf by leaf: the gradient is
transposed and flattened, statistics are averaged and bias-corrected, an l1 norm
scales the damping, the two diagonals of the preconditioner are computed, stored,
and multiplied by the momentum with shifted additions, and the result is scaled to
the norm of Adam's update and transposed back. tests/test_reference.py compares it
with the authors' trajectories.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class State(NamedTuple):
    count: Any
    momentum: Any
    sub_diagonal: Any
    diagonal: Any


def preconditioner(diagonal, sub, eps, relative):
    """The diagonal and the sub-diagonal of X = L D L^T."""
    if relative:
        sums = diagonal.at[:-1].add(jnp.abs(sub))
        sums = sums.at[1:].set(diagonal[1:] + jnp.abs(sub))
        eps = jnp.maximum(eps * jnp.max(sums), 1e-24)
    damped = diagonal + eps
    psi = sub / damped[1:]
    schur = damped.at[:-1].add(-sub * psi)
    positive = schur > 0
    inverse = jnp.where(positive, 1 / schur, 1 / damped)
    lower = jnp.where(positive[:-1], -psi, 0)
    x_sub = lower * inverse[:-1]
    x_diagonal = inverse.at[1:].add(lower * lower * inverse[:-1])
    return x_diagonal, x_sub


def flat(x):
    return x.T.reshape(-1)


def scale(beta1, beta2, eps, graft, graft_eps, relative):
    def init(params):
        zeros = lambda cut: jax.tree.map(lambda p: jnp.zeros(p.size - cut, p.dtype), params)
        momentum = jax.tree.map(jnp.zeros_like, params)
        return State(jnp.zeros([], jnp.int32), momentum, zeros(1), zeros(0))

    def leaf(g, m, sub, diagonal, count):
        h = flat(g)
        m = (1 - beta1) * g + beta1 * m
        diagonal = (1 - beta2) * h**2 + beta2 * diagonal
        sub = (1 - beta2) * (h[:-1] * h[1:]) + beta2 * sub
        correct = lambda x, beta: x / (1 - beta**count).astype(x.dtype)
        m_hat, d_hat, e_hat = correct(m, beta1), correct(diagonal, beta2), correct(sub, beta2)
        adam = flat(m_hat) / (jnp.sqrt(d_hat) + graft_eps)
        if g.ndim <= 1:
            u = adam
        else:
            x_diagonal, x_sub = preconditioner(d_hat, e_hat, eps, relative)
            v = flat(m_hat)
            u = v * x_diagonal
            u = u.at[1:].add(v[:-1] * x_sub)
            u = u.at[:-1].add(v[1:] * x_sub)
            if graft:
                u = jnp.linalg.norm(adam) / (jnp.linalg.norm(u) + 1e-12) * u
        return u.reshape(g.T.shape).T, m, sub, diagonal

    def update(grads, state, params=None):
        count = state.count + 1
        leaves, treedef = jax.tree.flatten(grads)
        rest = [treedef.flatten_up_to(tree) for tree in state[1:]]
        done = [leaf(*all_of_leaf, count) for all_of_leaf in zip(leaves, *rest)]
        trees = [treedef.unflatten(part) for part in zip(*done)]
        return trees[0], State(count, *trees[1:])

    return optax.GradientTransformation(init, update)


def tridiagonal(
    learning_rate, beta1=0.9, beta2=0.99, eps=1e-8, graft=True, graft_eps=1e-8, relative=True
):
    """Tridiagonal SONew with the Adam update for vectors."""
    return optax.chain(
        scale(beta1, beta2, eps, graft, graft_eps, relative),
        optax.scale_by_learning_rate(learning_rate),
    )
