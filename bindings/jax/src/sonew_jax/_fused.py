"""The step in place: one custom call for all parameters and their state."""

from typing import Any, Callable, NamedTuple

import jax
import jax.numpy as jnp

from . import _settings
from ._optax import decays, with_options
from ._tree import Leaves, options, take_step


class FusedSonew(NamedTuple):
    """The optimizer that `fused_sonew` returns.

    Attributes:
      init: `state = init(params)`.
      step: `params, state = step(params, grads, state)`.
    """

    init: Callable[[Any], Any]
    step: Callable[[Any, Any, Any], Any]


@with_options
def fused_sonew(
    learning_rate,
    beta1=0.9,
    beta2=0.99,
    eps=1e-6,
    gamma=1e-2,
    weight_decay=0.0,
    mask=None,
    *,
    master_weights=False,
    learning_rate_scale=1.0,
    band=None,
    graft="adam",
    graft_eps=1e-8,
    statistics="moving_average",
    statistics_weight=1.0,
    damping="absolute",
    bias_correction=True,
    graft_bias_correction=True,
    chains="column_major",
    update="sonew",
    state_dtype=None,
    rounding="nearest",
    seed=None,
    grad_scale=1.0,
    clip_norm=None,
    non_finite="skip",
    threads=None,
    implementation="auto",
    partition_specs=None,
):
    r"""SONew with parameters and state updated in place.

    The same method as `sonew`, but the step takes parameters and returns new
    ones. On the CPU it makes one pass over memory instead of three, and if
    parameters and state are donated, no buffer is copied or allocated. It gives
    the same bits as sonew_plan_step() in C.

    Args:
      learning_rate: a number, or a schedule: a function of the count of steps.
      weight_decay: decoupled from the preconditioner, multiplied by the
        learning rate.
      mask: which leaves decay: a tree of booleans, or a function that returns
        one for the parameters; None for all.
      master_weights: keep float32 parameters in the state; 16-bit parameters
        are then rounded copies of these.
      learning_rate_scale: the factor on the learning rate of each leaf: a float
        for all, a tree of floats, or a function of (path, leaf).
      {options}

    Returns:
      A `FusedSonew`: `init(params)` returns a `ScaleBySonewState`, and
      `step(params, grads, state)` returns new parameters and state.

    Examples:
      >>> import functools, jax, jax.numpy as jnp
      >>> from sonew_jax import fused_sonew
      >>> def loss(x): return jnp.sum((x - 3) ** 2)
      >>> optimizer = fused_sonew(0.1)
      >>> @functools.partial(jax.jit, donate_argnums=(0, 1))
      ... def train(x, state):
      ...   return optimizer.step(x, jax.grad(loss)(x), state)
      >>> x = jnp.zeros(3)
      >>> state = optimizer.init(x)
      >>> for _ in range(100):
      ...   x, state = train(x, state)
      >>> print(f"{loss(x):.3f}")
      0.000
    """
    shared = {
        name: value
        for name, value in locals().items()
        if name
        not in ("learning_rate", "weight_decay", "mask", "master_weights", "learning_rate_scale")
    }
    chosen = options(**shared)._replace(
        master_weights=_settings.flag("master_weights", master_weights), direction=False
    )
    weight_decay = _settings.number("weight_decay", weight_decay)
    if not callable(learning_rate):
        learning_rate = _settings.number("learning_rate", learning_rate)

    def init(params):
        return Leaves(chosen, params).init()

    def step(params, grads, state):
        leaves = Leaves(chosen, grads)
        targets = leaves.matching("the parameters", params)
        leaves.scale_rates(learning_rate_scale)
        rate = learning_rate
        if callable(rate):
            rate = _settings.number("learning_rate", jnp.asarray(rate(state.count)))
        numbers = {"learning_rate": rate, "weight_decay": weight_decay}
        wanted = decays(leaves, mask, params)
        targets, state, _ = take_step(leaves, state, targets, numbers, wanted)
        return leaves.tree(targets), state

    return FusedSonew(init, step)
