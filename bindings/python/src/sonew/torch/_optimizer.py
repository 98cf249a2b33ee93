"""The optimizer for PyTorch."""

import warnings
from collections.abc import Callable
from functools import partial
from itertools import chain
from operator import is_, itemgetter
from typing import Any, Optional, Union

import numpy as np
import torch
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from .._library import LibraryError
from .._structs import NON_FINITE_GRADIENT
from . import _device, _memory
from ._call import Call, Entry, order_of, step_count
from ._options import COMMON, STATIC, check_group, check_numbers, check_parameter, is_dtensor, name_of


_options_of, _params_of = itemgetter(*STATIC), itemgetter("params")


class _Kept:
    """A tensor of a state dict that keeps its type while torch loads it."""

    def __init__(self, tensor):
        self.tensor = tensor


class SONew(Optimizer):
    r"""SONew, the Sparsified Online Newton method.

    A second-order method: beside momentum and diagonal it
    keeps sub-diagonals of the gradients' statistics H, and multiplies the momentum by the
    positive definite banded matrix X whose inverse agrees with H on the band. With the
    default graft the update takes Adam's norm, so that a learning rate that suits AdamW is
    one to begin with.

    All state is in tensors in `optimizer.state[p]`: "step", "momentum", "diagonal",
    "band_1" and so on, "rms", "master", "pooled" and "scalars" where an option needs
    them. Parameters on the CPU are updated by libsonew, those on other devices by operations
    of torch. All options may differ between parameter groups.

    Args:
      params: parameters, named parameters, or dicts of parameter groups. With names,
        embeddings are known as such; `sonew.torch.param_groups` makes groups of a module.
      lr: learning rate, a number or a tensor of one element; finite and not negative.
      betas: decay rates of the momentum, and of the diagonal and the sub-diagonals; in
        [0, 1). Schedules may change them.
      eps: amount of damping, finite and not negative; see `damping`. There is a warning if relative
        damping has AdamW's 1e-8, with which a run loses much of what it gains.
      weight_decay: decoupled: p <- p - lr (u + weight_decay p).
      band: number of sub-diagonals, 0 to 16, or to 64 with pooling: 0 is a diagonal, 1 a
        tridiagonal matrix. The state has band + 2 numbers for each parameter, and 2 with
        pooling.
      gamma: threshold of edge removal, in [0, 1): a coordinate whose Schur complement, or one
        of whose pivots, is not above gamma times the diagonal entry is preconditioned by its
        diagonal alone.
      graft: the method whose norm, parameter by parameter, the update takes: "none", "sgd",
        "momentum", "adam" or "normalized_rmsprop".
      graft_eps: added to the square root in the grafts of Adam and normalized RMSProp, and in
        the plain Adam update.
      lagged_norms: scale a parameter's update by the norms of its last step, so that a step
        goes through memory once. None: only with pooling.
      pooling: "none", or the chains of a parameter share their correlations: a "band" of them,
        some leading directions ("rank"), or "all", for chains of up to 4096.
      rank: with pooling="rank", the number of directions, 1 to 64.
      shrink: with pooling, by which part of themselves correlations are taken to be smaller
        than their estimates; in [0, 1).
      chains: which coordinates are neighbours: "contiguous", the whole parameter in the order
        of memory, right for weights stored [out, in] as those of nn.Linear; "strided", the
        first dimension fastest; "contiguous_lines" or "strided_lines", the same broken at the
        end of each line along that dimension. A parameter in another memory format, such as
        channels_last, has its chains along memory.
      update: "sonew", "adam" for the plain Adam update, or "auto": Adam for parameters of at
        most one dimension and, where names are known, for those with a word of wte, wpe, emb,
        embed, embedding (or embs, embeds, embeddings) between the dots and underscores of
        their names; SONew for all others.
      statistics: "moving_average", or "weighted_sum": H <- H + statistics_weight g g^T.
      statistics_weight: the weight of a step's gradient in the weighted sum.
      damping: "relative_lagged", max(eps h, 1e-24) with h the largest H_jj of the parameter's
        bias-corrected statistics after its last step (in its first step, of its own); or
        "relative", max(eps l1, 1e-24) with l1 the largest H_jj + |H_j,j-1| of this step; or
        "absolute", eps.
      bias_correction: divide momentum and statistics by 1 - beta^t.
      graft_bias_correction: correct the diagonal in the Adam graft, too.
      nesterov: Nesterov momentum.
      state_dtype: type of the state: torch.float32, torch.float64 or torch.bfloat16. None:
        float64 for float64 parameters, float32 for all others.
      master_weights: keep float32 parameters in the state, of which those of 16 bits are
        roundings.
      rounding: how 16-bit numbers are rounded: "nearest", or "stochastic", reproducibly from
        `seed`, step, parameter and index.
      seed: seed of stochastic rounding.
      maximize: maximize the objective.
      non_finite: what to do about a gradient that is not finite: "unchecked" does not look.
        Then a NaN does not reach the parameters, as it does with torch's optimizers: the momentum
        becomes NaN and, with a graft, the parameter silently stops training. So use the others
        unless gradients are known to be finite. "skip" leaves parameters, state and step
        counts as they are, and counts the step in `optimizer.skipped`; "raise" does the same
        and raises `sonew.LibraryError`.
      threads: the largest number of threads of a step on the CPU. None: as many as torch
        uses. Results do not depend on it.
      implementation: "auto", the library for parameters on the CPU and operations of torch for
        others; "library" or "torch" to use one of them everywhere; "compiled" for operations
        that torch.compile has compiled, which takes long at first.
      fused: True: GradScaler leaves its scale to the step, as with torch's fused optimizers, which
        saves a pass over the gradients. Lightning does not clip gradients then, if precision
        is mixed. A step is one call for all parameters in any case.
      foreach: not needed, and accepted because scripts pass it.
      amsgrad, capturable, differentiable: accepted for the same reason; must be False.

    Raises:
      ValueError, TypeError: an option or a parameter cannot be, with its name.

    Examples:
      >>> import torch
      >>> from sonew.torch import SONew
      >>> model = torch.nn.Linear(3, 1)
      >>> optimizer = SONew(model.parameters(), lr=0.1)
      >>> x = torch.eye(3)
      >>> for _ in range(200):
      ...   loss = (model(x) - 1).square().mean()
      ...   loss.backward()
      ...   optimizer.step()
      ...   optimizer.zero_grad()
      >>> bool(loss < 1e-3)
      True

    References:
      Devvrit et al., "A Computationally Efficient Sparsified Online Newton
      Method", NeurIPS 2023, https://arxiv.org/abs/2311.10085
    """

    def __init__(
        self,
        params: Any,
        lr: Union[float, torch.Tensor] = 1e-3,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-3,
        weight_decay: float = 0.0,
        *,
        band: int = 1,
        gamma: float = 0.01,
        graft: str = "adam",
        graft_eps: float = 0.0,
        lagged_norms: Optional[bool] = None,
        pooling: str = "none",
        rank: int = 16,
        shrink: float = 0.04,
        chains: str = "contiguous",
        update: str = "auto",
        statistics: str = "moving_average",
        statistics_weight: float = 1.0,
        damping: str = "relative_lagged",
        bias_correction: bool = True,
        graft_bias_correction: bool = True,
        nesterov: bool = False,
        state_dtype: Optional[torch.dtype] = None,
        master_weights: bool = False,
        rounding: str = "nearest",
        seed: int = 0,
        maximize: bool = False,
        non_finite: str = "unchecked",
        threads: Optional[int] = None,
        implementation: str = "auto",
        foreach: Optional[bool] = None,
        fused: Optional[bool] = None,
        amsgrad: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ):
        given = locals()
        for name in ("amsgrad", "capturable", "differentiable"):
            if given[name]:
                raise ValueError(f"{name} is {given[name]!r}, which SONew does not support; it must be False")
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        defaults |= {name: given[name] for name in STATIC if name not in defaults}
        check_group(defaults)
        if eps == 1e-8 and damping != "absolute":
            warnings.warn(
                "eps is 1e-8, as scripts have it for AdamW: here it is the damping, as a part of the "
                "largest entry of the diagonal, for which 1e-3 is a value to begin with",
                stacklevel=2,
            )
        self._forget()
        # For GradScaler and for trainers. A copy of the optimizer, as of torch's own, has it no more,
        # so that GradScaler takes the pass.
        self._step_supports_amp_scaling = bool(fused)
        super().__init__(params, defaults)

    def _forget(self):
        """What is kept between steps is made anew by the next."""
        for call in self.__dict__.get("_calls") or ():
            call.discard()
        self._calls = None
        self.__dict__.setdefault("skipped", 0)

    def __setstate__(self, state):
        super().__setstate__(state)
        for group in self.param_groups:
            self._complete(group)
            for p in group["params"]:
                self._take_loaded(group, p)
        self._forget()

    def synchronize(self) -> None:
        """Waits for sums of the last step that are still being reduced over processes, and ends
        that step. `step` and `state_dict` do so themselves; a program that reads
        `optimizer.state` or parameters between them, or ends its process group, calls this
        first. It begins no collective. Without parameters that are cut over processes, or
        without lagged norms, there is nothing to wait for."""
        for call in self._calls or ():
            call.finish()

    def state_dict(self) -> dict[str, Any]:
        """The state and the options of all groups, as torch's own optimizers return them."""
        self.synchronize()
        return super().state_dict()

    def __getstate__(self):
        self.synchronize()
        return super().__getstate__()

    def _complete(self, group):
        """Options that an older state dict, or a trainer's groups, do not have."""
        for name, value in self.defaults.items():
            # torch adds this one to the defaults of an unpickled optimizer.
            if name != "differentiable":
                group.setdefault(name, value)

    def _take_loaded(self, group, p):
        """State after a load: as it was saved, where torch would convert it to the type of the
        parameter, and where the parameter is."""
        own = self.state.get(p)
        if not own:
            return
        for name, value in own.items():
            if isinstance(value, _Kept):
                place = partial(self._placed, name)
                if is_dtensor(p):
                    own[name] = self._sharded().placed(value.tensor, p, place)
                else:
                    own[name] = place(value.tensor, p)
        if not isinstance(own.get("step", 0), torch.Tensor):
            own["step"] = step_count(own["step"])

    @staticmethod
    def _placed(name, x, p):
        """A copy of loaded state where that of the parameter belongs."""
        if p.device.type != "cpu":
            return x.clone() if name == "step" else x.to(p.device, copy=True)
        if x.ndim == 0 or not (order := order_of(x)):
            return x.cpu().clone()
        x = x.detach().permute(order)
        places = sorted(range(x.ndim), key=order.__getitem__)
        return _memory.zeros(x.numel(), x.dtype).view(x.shape).copy_(x).permute(places)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads what `state_dict` returned, or what torch.load has read of it. Unlike torch's own
        optimizers this one copies state, and does not convert it to the type of the parameters:
        float32 state of bfloat16 parameters comes back bit for bit."""

        def keep(_, loaded):
            hold = lambda x: _Kept(x) if isinstance(x, torch.Tensor) else x
            state = {
                key: {name: hold(x) for name, x in own.items()} if isinstance(own, dict) else own
                for key, own in loaded["state"].items()
            }
            return {**loaded, "state": state}

        # The last hook sees what those of the program have made of the dict.
        hook = self.register_load_state_dict_pre_hook(keep)
        try:
            super().load_state_dict(state_dict)
        finally:
            hook.remove()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group of parameters, whose options are the defaults where it has no others."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            check_group(group)
            for i, p in enumerate(group["params"]):
                # What a lazy module has not made yet is looked at in the first step.
                if not is_lazy(p):
                    self._checked_name(len(self.param_groups) - 1, i)
        except Exception:
            self.param_groups.pop()
            raise
        # What is under way of the last step still belongs to the others' state.
        self.synchronize()
        self._forget()

    def _is_current(self):
        """Whether the calls of the last step still fit: options, parameters and state are what
        and where they were."""
        if self._calls is None or self._state is not self.state:
            return False
        groups, values = self.param_groups, self.state.values()
        return (
            len(values) == len(self._values)
            and all(map(is_, values, self._values))
            and list(map(_options_of, groups)) == self._options
            and list(map(len, map(_params_of, groups))) == self._lengths
            and all(map(is_, chain.from_iterable(map(_params_of, groups)), self._params))
            and all(call.is_current() for call in self._calls)
        )

    def _prepare(self):
        """Divides the parameters among calls."""
        self.synchronize()
        self._calls = None
        kinds = {}
        for g, group in enumerate(self.param_groups):
            self._complete(group)
            check_group(group)
            group.setdefault("initial_betas", tuple(map(float, group["betas"])))
            betas = tuple(map(float, group["betas"]))
            special = None if betas == tuple(group["initial_betas"]) else betas
            for i, p in enumerate(group["params"]):
                name = self._checked_name(g, i)
                make = self._kind_of_call(g, i, name)
                kind = (make, p.device, *(group[name] for name in COMMON), special)
                kinds.setdefault(kind, []).append((g, i, name))
        calls = []
        for (make, *_), listed in kinds.items():
            entries = [self._entry(g, i, name) for g, i, name in listed]
            calls.append(make(entries, self.state))
        self._calls, self._state = calls, self.state
        self._values = list(self.state.values())
        self._options = list(map(_options_of, self.param_groups))
        self._lengths = list(map(len, map(_params_of, self.param_groups)))
        self._params = list(chain.from_iterable(map(_params_of, self.param_groups)))
        self._rates = self._betas = None

    def _checked_name(self, g, i):
        """The name of a parameter that can be one of this optimizer."""
        group, name = self.param_groups[g], name_of(self.param_groups, g, i)
        p = group["params"][i]
        check_parameter(name, p)
        if is_dtensor(p):
            self._sharded().check_dtensor(name, p, group, i)
        return name

    @staticmethod
    def _sharded():
        """The module for DTensors, which are not there where torch has no distributed part."""
        from . import _distributed

        return _distributed

    def _entry(self, g, i, name):
        """What a plan, or a file, knows of a parameter."""
        own = is_dtensor(self.param_groups[g]["params"][i])
        return (self._sharded().ShardedEntry if own else Entry)(self.param_groups, g, i, name)

    def _kind_of_call(self, g, i, name):
        group, p = self.param_groups[g], self.param_groups[g]["params"][i]
        if is_dtensor(p):
            return self._sharded().kind_of_call(group, i, p)
        asked, device = group["implementation"], p.device
        if asked == "library" and device.type != "cpu":
            raise ValueError(f"{name} is on {device}, where implementation='library' has no step")
        of_library = asked == "library" or asked == "auto" and device.type == "cpu"
        return Call if of_library else _device.Call

    def _take_numbers(self):
        """What schedules change: learning rates, weight decays and betas of all groups. Returns
        False if the parameters must be divided anew, because groups that shared a call now have
        betas that one step cannot have."""
        groups = self.param_groups
        rates = [(float(group["lr"]), float(group["weight_decay"])) for group in groups]
        if rates != self._rates:
            for group in groups:
                check_numbers(group)
            for call in self._calls:
                call.take_rates(np.array(rates))
            self._rates = rates
        betas = [tuple(map(float, group["betas"])) for group in groups]
        if betas != self._betas:
            for group in groups:
                check_numbers(group)
            if not all(call.take_betas(groups) for call in self._calls):
                return False
            self._betas = betas
        return True

    @torch._disable_dynamo
    def step(self, closure: Optional[Callable[[], Any]] = None) -> Any:
        """Takes a step with the gradients in `p.grad`. A parameter whose gradient is None takes no
        part: it, its state and its step count stay as they are.

        Args:
          closure: computes the loss and the gradients; the step returns its result.

        Raises:
          RuntimeError: a gradient is sparse, or the library refuses the step; the message has
            the name of the parameter.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        # GradScaler sets these for the time of the step.
        found_inf, scale = self.__dict__.get("found_inf"), self.__dict__.get("grad_scale")
        if found_inf is not None and float(found_inf) != 0:
            return loss
        if not self._is_current() or not self._take_numbers():
            self._prepare()
            self._take_numbers()
        grad_scale = 1.0 if scale is None else 1.0 / float(scale)
        calls = self._calls
        # Of several calls none may begin before it is known that all of them can.
        if len(calls) > 1:
            for call in calls:
                if call.non_finite != "unchecked" and (wrong := call.not_finite()):
                    return self._skipped(loss, call, wrong)
        for call in calls:
            if wrong := call.step(grad_scale):
                return self._skipped(loss, call, wrong)
        return loss

    def _skipped(self, loss, call, wrong):
        self.skipped += 1
        if call.non_finite == "raise":
            raise LibraryError(wrong, NON_FINITE_GRADIENT)
        return loss
