"""The optimizer in optax's two layers."""

from typing import Any, Optional

import jax
import jax.numpy as jnp
import optax

from . import _settings
from ._settings import DType, Mask, Number, NumberOrSchedule, PerLeaf
from ._tree import Leaves, ScaleBySonewState, options, take_step

__all__ = ["ScaleBySonewState", "scale_by_sonew", "sonew"]

OPTIONS = """
      band: number of sub-diagonals, an int from 0 to 16, or to 64 with `pooling`: 0 is a
        diagonal, 1 a tridiagonal matrix. The state has band + 2 numbers for each
        parameter, and 2 with pooling, where only pooling="band" looks at it. None is the
        default, 1.
      beta1: decay rate of the momentum, in [0, 1).
      beta2: decay rate of the diagonal, the sub-diagonals and the plane of
        normalized RMSProp, in [0, 1).
      eps: amount of damping, finite and not negative; see `damping`.
      gamma: threshold of edge removal, in [0, 1): a coordinate whose Schur
        complement, or one of whose pivots, is not above gamma times the
        diagonal entry is preconditioned by its diagonal alone. The authors'
        code corresponds to 0, with which edges are removed only where one of
        these is not positive.
      graft: the method whose norm, leaf by leaf, the update takes: "none",
        "sgd" (|g|), "momentum" (|m^|), "adam" (|m^ / (sqrt(v) + graft_eps)|)
        or "normalized_rmsprop".
      graft_eps: added to the square root in the grafts of Adam and normalized
        RMSProp, and in the plain Adam update; finite and not negative. Where the
        root is 0 and this, too, the result is 0.
      statistics: "moving_average", the exponential moving average
        H <- beta2 H + (1 - beta2) g g^T, or "weighted_sum", H <- H + w g g^T
        with w = `statistics_weight`, which is never bias-corrected.
      statistics_weight: w of the weighted sum: a number, or a function of the
        count of steps taken so far. Must be 1 with the moving average.
      damping: "relative_lagged", max(eps h, 1e-24) with h the largest H_jj of the
        leaf's bias-corrected statistics after the last step (the first step, and one
        after which all were zero, takes its own); "relative", max(eps l1, 1e-24) with
        l1 the largest H_jj + |H_j,j-1| of this step, which takes a pass over them of
        its own; or "absolute", eps. The state of the first has numbers for each leaf,
        `scalars`, which are constants for derivatives.
      bias_correction: divide the momentum by 1 - beta1^t, and the statistics by
        1 - beta2^t if they are an exponential moving average.
      graft_bias_correction: correct the diagonal in the Adam graft, too.
      lagged_norms: scale a leaf's update by |a| / |u| of the last step, instead of
        this step's: on the CPU a step then goes through memory once. The first
        step, and one after a zero update, takes its own norms. An update that would
        be more than twice as long as with its own norms is brought to these. The
         state has numbers for each leaf, `scalars`, which are constants for
         derivatives. With `pooling`, correlations are those of the step before, too.
         None: True with pooling, otherwise False.
      nesterov: Nesterov momentum: in the direction and in the norms of the grafts of
        Adam and momentum, m^ is replaced by (beta1 m + (1 - beta1) g) /
        (1 - beta1^t), with m the momentum after the step.
      chains: which coordinates of a leaf are neighbours: "strided", the
        whole leaf as one chain with its first dimension fastest, right for
        kernels stored [in, out]; "contiguous", its last dimension fastest, the
        order of memory; "strided_lines" or "contiguous_lines", the same broken at
        the end of each line along that dimension. One value for all leaves, a tree
        of values, or a function of (path, leaf). Functions see the parameters, as
        far as a step is passed them. Kernels that a scan stacks,
        [layer, in, out], need `jax.vmap` over the layers, see the README.
      update: "sonew", or "adam" for the plain Adam update, as for biases and
        normalization layers. One value for all leaves, a tree of values, or a
        function of (path, leaf), such as `sonew.jax.adam_for_vectors`.
      state_dtype: type of the state: float32, float64 or bfloat16. One value for
        all leaves, a tree of values, or a function of (path, leaf). None:
        float64 for float64 parameters, float32 for all others.
      rounding: how 16-bit numbers are rounded: "nearest", or "stochastic",
        reproducibly from `seed`, step, leaf, plane and index.
      seed: seed of stochastic rounding, an int from 0 to 2**64 - 1. None is 0.
      grad_scale: every gradient is multiplied by it first; positive.
      clip_norm: if the norm of all gradients together exceeds it, all are
        multiplied by clip_norm / norm; None for no clipping.
      non_finite: what to do about a gradient that is not finite, or whose
        square overflows: "skip" the step (updates are zero, the state and its
        count stay as they are, and `skipped` in the state counts it), or
        "unchecked", which does not check the gradients first.
      threads: the largest number of threads of a step on the CPU; None or 0
        for one per core, shared by steps that run at the same time. Results do
        not depend on it.
      implementation: "auto", libsonew's custom call on the CPU and jax.numpy
        elsewhere; "custom_call" or "pure" to use one of them everywhere.
      partition_specs: how each leaf is cut over devices for the step. The parameters
        themselves (or a tree of `NamedSharding`): as these arrays are, on their mesh;
        steps take whole arrays, as everywhere under `jax.jit`, and each device takes
        the step of its parts. For use inside `jax.shard_map`, where arrays are parts
        already: a PartitionSpec for all leaves or a tree of them, as in `in_specs`.
        None is a leaf that is not cut. Each
        part keeps its own chains (there are no edges across a cut); norms are
        summed over the axes that the leaf is cut along, and no others, for all leaves
        by one collective. A leaf whose correlations are pooled is cut between its chains,
        not through them, and needs lagged norms; one collective more adds up what parts
        add to its sums.
      pooling: "none", the method of the paper, or the chains of a leaf, which are the
        units of a layer, share their correlations R, and each coordinate keeps a diagonal
        of its own. With q = sqrt(H^_jj), z = g / q and
        P <- beta2 P + (1 - beta2) sum over chains of z z', u = q^-1 R^-1 q^-1 m^. "band": a
        band of R, R_j,j+i = (1 - shrink) P_j,j+i / sqrt(P_jj P_j+i,j+i) for i = 1 .. band,
        R_jj = 1. "rank": a few directions, which follow the leading eigenvectors of P.
        "all": all of R, for chains of up to 4096; a step computes its Cholesky factor.
        Chains end at every line: "strided" is as "strided_lines", "contiguous" as
        "contiguous_lines". A leaf of one chain pools nothing. Not for embeddings and other
        leaves whose units see different inputs: give these `update="adam"`.
      rank: with pooling="rank", the number of directions, an int from 1 to 64; as many as
        a chain has coordinates, if these are fewer. None is the default, 16.
      shrink: with pooling, by which part of themselves correlations are taken to be
        smaller than their estimates, in [0, 1).
      b1, b2, mu_dtype: optax's names of `beta1`, `beta2` and `state_dtype`, which is
        that of all planes. Each takes the place of the other name.
"""


def with_options(function):
    """Inserts the options that all of the optimizers share into a docstring."""
    # Under `python -OO` there are no docstrings.
    if function.__doc__ is not None:
        function.__doc__ = function.__doc__.replace("{options}", OPTIONS.strip())
    return function


@with_options
def scale_by_sonew(
    beta1: Number = 0.9,
    beta2: Number = 0.99,
    eps: Number = 1e-3,
    gamma: Number = 1e-2,
    *,
    band: Optional[int] = None,
    graft: str = "adam",
    graft_eps: Number = 0.0,
    statistics: str = "moving_average",
    statistics_weight: NumberOrSchedule = 1.0,
    damping: str = "relative_lagged",
    bias_correction: bool = True,
    graft_bias_correction: bool = True,
    lagged_norms: Optional[bool] = None,
    nesterov: bool = False,
    chains: PerLeaf[str] = "strided",
    update: PerLeaf[str] = "sonew",
    state_dtype: Optional[PerLeaf[DType]] = None,
    rounding: str = "nearest",
    seed: Optional[int] = None,
    grad_scale: Number = 1.0,
    clip_norm: Optional[Number] = None,
    non_finite: str = "skip",
    threads: Optional[int] = None,
    implementation: str = "auto",
    partition_specs: Any = None,
    pooling: str = "none",
    rank: Optional[int] = None,
    shrink: Number = 0.04,
    b1: Optional[Number] = None,
    b2: Optional[Number] = None,
    mu_dtype: Optional[PerLeaf[DType]] = None,
) -> optax.GradientTransformation:
    r"""Replaces gradients by SONew's direction.

    For one chain of coordinates with gradient :math:`g` at step :math:`t`::

      m       <- beta1 m + (1 - beta1) g                           momentum
      H_jj    <- beta2 H_jj + (1 - beta2) g_j^2                    diagonal
      H_j+k,j <- beta2 H_j+k,j + (1 - beta2) g_j g_j+k, k = 1..b   sub-diagonals
      m^ = m / (1 - beta1^t),   H^ = H / (1 - beta2^t) + eps I
      u  = X m^,   X = argmin tr(X H^) - log det X over banded X
      u  <- u |a| / |u|                                            grafting

    Numbers may be arrays, also traced ones (`optax.inject_hyperparams`);
    Python floats are exact, in float64. All other options must be static: with
    `inject_hyperparams`, name `band`, `rank`, `seed` and `threads` in `static_args` if
    they are given.

    Args:
      {options}

    Returns:
      An `optax.GradientTransformation` whose state is a `ScaleBySonewState`.
      Updates have the types of the gradients: float32, float64, bfloat16 or
      float16.

    Raises:
      ValueError, TypeError: an option is out of range. When the optimizer is
        used, with the leaf's name: a leaf has an unsupported type or more than
        8 dimensions, or a tree does not match the state.

    Examples:
      >>> import jax, optax
      >>> from sonew.jax import scale_by_sonew
      >>> optimizer = optax.chain(scale_by_sonew(band=4), optax.scale(-1e-3))
      >>> params = {"w": jax.numpy.ones((3, 2))}
      >>> state = optimizer.init(params)
      >>> grads = {"w": jax.numpy.ones((3, 2))}
      >>> updates, state = optimizer.update(grads, state, params)
      >>> params = optax.apply_updates(params, updates)

    References:
      Devvrit et al., "A Computationally Efficient Sparsified Online Newton
      Method", NeurIPS 2023, https://arxiv.org/abs/2311.10085

    .. warning::
      The defaults differ from the authors' JAX code, which has gamma = 0,
      relative damping (`damping="relative"`) and the Adam update for vectors
      (`update=adam_for_vectors`).

    .. warning::
      A chain is a property of the whole array. Outside of `jax.shard_map` an
      array that is sharded over devices is gathered for the step, and the results
      are sharded as it was; `partition_specs=params` avoids that.
    """
    chosen = options(
        beta1=beta1,
        beta2=beta2,
        eps=eps,
        gamma=gamma,
        band=band,
        graft=graft,
        graft_eps=graft_eps,
        statistics=statistics,
        statistics_weight=statistics_weight,
        damping=damping,
        bias_correction=bias_correction,
        graft_bias_correction=graft_bias_correction,
        lagged_norms=lagged_norms,
        nesterov=nesterov,
        chains=chains,
        update=update,
        state_dtype=state_dtype,
        rounding=rounding,
        seed=seed,
        grad_scale=grad_scale,
        clip_norm=clip_norm,
        non_finite=non_finite,
        threads=threads,
        implementation=implementation,
        partition_specs=partition_specs,
        pooling=pooling,
        rank=rank,
        shrink=shrink,
        b1=b1,
        b2=b2,
        mu_dtype=mu_dtype,
    )

    def init(params):
        return Leaves(chosen, params).init()

    def update(updates, state, params=None):
        leaves = Leaves(chosen, updates, params)
        directions, state, _ = take_step(leaves, state, None, UNUSED, ones(leaves))
        return leaves.tree(directions), state

    return optax.GradientTransformation(init, update)


# Numbers that the direction does not depend on.
UNUSED = {"learning_rate": 0.0, "weight_decay": 0.0}


def ones(leaves):
    return [1.0] * len(leaves.arrays)


@with_options
def sonew(
    learning_rate: optax.ScalarOrSchedule,
    beta1: Number = 0.9,
    beta2: Number = 0.99,
    eps: Number = 1e-3,
    gamma: Number = 1e-2,
    weight_decay: NumberOrSchedule = 0.0,
    mask: Mask = None,
    *,
    band: Optional[int] = None,
    graft: str = "adam",
    graft_eps: Number = 0.0,
    statistics: str = "moving_average",
    statistics_weight: NumberOrSchedule = 1.0,
    damping: str = "relative_lagged",
    bias_correction: bool = True,
    graft_bias_correction: bool = True,
    lagged_norms: Optional[bool] = None,
    nesterov: bool = False,
    chains: PerLeaf[str] = "strided",
    update: PerLeaf[str] = "sonew",
    state_dtype: Optional[PerLeaf[DType]] = None,
    rounding: str = "nearest",
    seed: Optional[int] = None,
    grad_scale: Number = 1.0,
    clip_norm: Optional[Number] = None,
    non_finite: str = "skip",
    threads: Optional[int] = None,
    implementation: str = "auto",
    partition_specs: Any = None,
    pooling: str = "none",
    rank: Optional[int] = None,
    shrink: Number = 0.04,
    b1: Optional[Number] = None,
    b2: Optional[Number] = None,
    mu_dtype: Optional[PerLeaf[DType]] = None,
) -> optax.GradientTransformationExtraArgs:
    r"""SONew, the Sparsified Online Newton method.

    `p <- p - learning_rate (u + weight_decay p)` with the direction u of
    `scale_by_sonew`. It is a second-order method whose time and memory
    are proportional to the number of parameters, as Adam's are. With the default graft, a learning rate that suits Adam also suits
    SONew.

    Args:
      learning_rate: a number, or a schedule: a function of the step.
      weight_decay: a number, or a schedule: a function of the count of steps
        taken. Decoupled from the preconditioner; as in `optax.adamw` it is
        multiplied by the learning rate. A skipped step does not decay either.
      mask: which leaves decay: a tree of booleans, or a function that returns
        one for the parameters; None for all.
      {options}

    Returns:
      An `optax.GradientTransformationExtraArgs`, as optax's own optimizers.

    Examples:
      >>> import jax, jax.numpy as jnp, optax
      >>> from sonew.jax import sonew
      >>> def loss(x): return jnp.sum((x - 3) ** 2)
      >>> optimizer = sonew(0.1)
      >>> x = jnp.zeros(3)
      >>> state = optimizer.init(x)
      >>> for _ in range(200):
      ...   updates, state = optimizer.update(jax.grad(loss)(x), state, x)
      ...   x = optax.apply_updates(x, updates)
      >>> print(f"{loss(x):.3f}")
      0.000

    References:
      Devvrit et al., "A Computationally Efficient Sparsified Online Newton
      Method", NeurIPS 2023, https://arxiv.org/abs/2311.10085

    .. seealso:: `scale_by_sonew` for the formula and for differences between
      implementations; `fused_sonew` for a step in place.
    """
    chosen = options(
        beta1=beta1,
        beta2=beta2,
        eps=eps,
        gamma=gamma,
        band=band,
        graft=graft,
        graft_eps=graft_eps,
        statistics=statistics,
        statistics_weight=statistics_weight,
        damping=damping,
        bias_correction=bias_correction,
        graft_bias_correction=graft_bias_correction,
        lagged_norms=lagged_norms,
        nesterov=nesterov,
        chains=chains,
        update=update,
        state_dtype=state_dtype,
        rounding=rounding,
        seed=seed,
        grad_scale=grad_scale,
        clip_norm=clip_norm,
        non_finite=non_finite,
        threads=threads,
        implementation=implementation,
        partition_specs=partition_specs,
        pooling=pooling,
        rank=rank,
        shrink=shrink,
        b1=b1,
        b2=b2,
        mu_dtype=mu_dtype,
    )
    weight_decay = _settings.number_or_schedule("weight_decay", weight_decay)

    def init(params):
        return Leaves(chosen, params).init()

    def step(updates, state, params=None):
        leaves = Leaves(chosen, updates, params)
        weight = _settings.at("weight_decay", weight_decay, state)
        directions, state, taken = take_step(leaves, state, None, UNUSED, ones(leaves))
        directions = decayed(leaves, directions, params, weight, mask, taken)
        return leaves.tree(directions), state

    return optax.chain(
        optax.GradientTransformation(init, step), optax.scale_by_learning_rate(learning_rate)
    )


def decayed(leaves, directions, params, weight_decay, mask, taken):
    """Adds weight decay to the directions of the leaves that decay."""
    if isinstance(weight_decay, float) and weight_decay == 0.0:
        return directions
    if params is None:
        raise ValueError("weight decay needs the parameters: update(updates, state, params)")
    arrays = leaves.matching("the parameters", params)
    wanted = decays(leaves, mask, params)
    weight = jnp.where(taken > 0, jnp.asarray(weight_decay), 0)
    return [
        u + (weight.astype(u.dtype) * p.astype(u.dtype) if decay else 0)
        for u, p, decay in zip(directions, arrays, wanted)
    ]


def decays(leaves, mask, params):
    """For each leaf, 1.0 if its weights decay, otherwise 0.0."""
    if mask is None:
        return ones(leaves)
    if _settings.is_function(mask):
        mask = mask(params)
    is_bool = lambda value: isinstance(value, bool)
    return [float(x) for x in leaves.each("mask", jax.tree.map(bool, mask), is_bool)]
