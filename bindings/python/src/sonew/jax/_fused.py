"""The step in place: one custom call for all parameters and their state."""

from typing import Any, Callable, NamedTuple, Optional

from . import _late, _settings
from ._optax import decays, with_options
from ._settings import DType, Mask, Number, NumberOrSchedule, PerLeaf
from ._tree import Leaves, ScaleBySonewState, options, program_of, take_step


class FusedSonew(NamedTuple):
    """The optimizer that `fused_sonew` returns.

    Attributes:
      init: `state = init(params)`.
      step: `params, state = step(params, grads, state)`.
      finish: `params, state = finish(params, state)`: the last step takes in its sums, with
        `reduce_late`; otherwise nothing changes.
    """

    init: Callable[[Any], ScaleBySonewState]
    step: Callable[[Any, Any, ScaleBySonewState], tuple[Any, ScaleBySonewState]]
    finish: Callable[[Any, ScaleBySonewState], tuple[Any, ScaleBySonewState]]


@with_options
def fused_sonew(
    learning_rate: NumberOrSchedule,
    beta1: Number = 0.9,
    beta2: Number = 0.99,
    eps: Number = 1e-3,
    gamma: Number = 1e-2,
    weight_decay: NumberOrSchedule = 0.0,
    mask: Mask = None,
    *,
    master_weights: bool = False,
    learning_rate_scale: PerLeaf[float] = 1.0,
    reduce_late: bool = False,
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
) -> FusedSonew:
    r"""SONew with parameters and state updated in place.

    The same method as `sonew`, but the step takes parameters and returns new
    ones. On the CPU it makes one pass over memory instead of three, and if
    parameters and state are donated, no buffer is copied or allocated. It gives
    the same bits as sonew_plan_step() in C.

    Args:
      learning_rate: a number, or a schedule: a function of the count of steps.
      weight_decay: a number, or a schedule: a function of the count of steps.
        Decoupled from the preconditioner, multiplied by the learning rate.
      mask: which leaves decay: a tree of booleans, or a function that returns
        one for the parameters; None for all.
      master_weights: keep float32 parameters in the state; 16-bit parameters
        are then rounded copies of these.
      learning_rate_scale: the factor on the learning rate of each leaf: a float
        for all, a tree of floats, or a function of (path, leaf).
      reduce_late: with lagged norms and leaves that are cut (`partition_specs=params`), a
        step waits for no sum over devices: the next step reduces its sums, while gradients
        are computed, and then corrects an update that was too long. A first step, and one
        after an update of a leaf was zero, waits. On the CPU alone; not with
        `damping="relative"`, `clip_norm`, or `non_finite="skip"`, which need sums first.
        The state is a `LateState`; call `finish` before parameters are saved or used, and
        save its `own`.
      {options}

    Returns:
      A `FusedSonew`: `init(params)` returns a `ScaleBySonewState`, and
      `step(params, grads, state)` returns new parameters and state.

    Examples:
      >>> import functools, jax, jax.numpy as jnp
      >>> from sonew.jax import fused_sonew
      >>> def loss(x): return jnp.sum((x - 3) ** 2)
      >>> optimizer = fused_sonew(0.1)
      >>> @functools.partial(jax.jit, donate_argnums=(0, 1))
      ... def train(x, state):
      ...   return optimizer.step(x, jax.grad(loss)(x), state)
      >>> x = jnp.zeros(3)
      >>> state = optimizer.init(x)
      >>> for _ in range(200):
      ...   x, state = train(x, state)
      >>> print(f"{loss(x):.3f}")
      0.000
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
    )._replace(
        master_weights=_settings.flag("master_weights", master_weights), direction=False
    )
    weight_decay = _settings.number_or_schedule("weight_decay", weight_decay)
    learning_rate = _settings.number_or_schedule("learning_rate", learning_rate)

    late = _settings.flag("reduce_late", reduce_late)

    def init(params):
        leaves = Leaves(chosen, params)
        if not late:
            return leaves.init()
        # Only which numbers are constants matters.
        given = {"learning_rate": learning_rate, "weight_decay": weight_decay}
        program, _ = program_of(leaves, given, decays(leaves, mask, params), False)
        return _late.init(leaves, leaves.init(), program)

    def taken(params, grads, state, run=None):
        leaves = Leaves(chosen, grads, params)
        targets = leaves.matching("the parameters", params)
        leaves.scale_rates(learning_rate_scale)
        numbers = {
            "learning_rate": _settings.at("learning_rate", learning_rate, state),
            "weight_decay": _settings.at("weight_decay", weight_decay, state),
        }
        wanted = decays(leaves, mask, params)
        targets, state, _ = take_step(leaves, state, targets, numbers, wanted, run)
        return leaves.tree(targets), state

    def step(params, grads, state):
        if not late:
            return taken(params, grads, state)
        run = _late.Late(state)
        params, own = taken(params, grads, state.own, run)
        return params, state._replace(own=own, **run.after)

    def finish(params, state):
        if not late:
            return params, state
        run = _late.Finish(state)
        params, own = taken(params, params, state.own, run)
        # It is the same step.
        own = own._replace(count=state.own.count, skipped=state.own.skipped)
        return params, state._replace(own=own, **run.after)

    return FusedSonew(init, step, finish)
