"""Converts pytrees to the lists that a step works on, and back. A leaf that does
not fit is refused with its name."""

import dataclasses
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .. import _pooling
from . import _settings, _sharding, _step
from ._settings import DTYPES, MAX_DIMS, NUMBERS, STATE_DTYPES, Leaf, Program


# Trees of arrays.
ArrayTree = Any

# What says how a leaf is cut.
CUTS = jax.sharding.PartitionSpec, jax.sharding.Sharding, jax.Array, jax.ShapeDtypeStruct

# The scalars of a leaf: the norm ratio, and the largest entry of the diagonal.
SCALARS = 2


class ScaleBySonewState(NamedTuple):
    """The state of SONew: arrays of the parameters' shapes.

    Attributes:
      count: int32 scalar, the steps taken.
      momentum: the exponential moving average of gradients, without bias
        correction.
      diagonal: the diagonal H_jj, without bias correction or damping.
      bands: the sub-diagonals; bands[k - 1] has H_j+k,j at coordinate j, zero
        where coordinate j+k is beyond the end of the chain. Leaves with the
        plain Adam update have an `optax.MaskedNode` instead.
      rms: the plane of normalized RMSProp, or () without that graft.
      master: float32 parameters, or () without master weights.
      skipped: int32 scalar, the steps that were skipped because a gradient was
        not finite. By default P(), for a state whose leaves are specs.
      scalars: with lagged norms or lagged damping, for each leaf, in the order of the
        leaves, |a| / |u| of its last step and the largest entry of its bias-corrected
        diagonal after it: each a float64 number in two uint32 words, the low one first,
        shape [leaves, 2, 2]; zeros before the first step. Otherwise (). By default P(),
        as for `skipped`.
      pooled: with pooling the sums of each leaf, float32, or float64 for float64
        parameters or state. For chains of length L, with "band" [band + 1, L], row i with
        P[j, j+i]; with "rank" [2 rank + 1, L], P[j, j], then Y, then U, a direction a row;
        with "all" [L, L], row i with P[i, j] for j >= i, and zeros. With lagged norms the
        sums are those up to the step before the last, and behind them follow those that
        the last step adds: [2, band + 1, L], [3 rank + 2, L] (U remains last) and
        [2, L, L]. Those of a leaf that is cut are of the whole leaf, and on every device: as a
        spec, P(). Leaves with the plain Adam update have an `optax.MaskedNode` instead.
        Otherwise ().
    """

    count: ArrayTree
    momentum: ArrayTree
    diagonal: ArrayTree
    bands: tuple[ArrayTree, ...]
    rms: ArrayTree
    master: ArrayTree
    skipped: ArrayTree = jax.sharding.PartitionSpec()
    scalars: ArrayTree = jax.sharding.PartitionSpec()
    pooled: ArrayTree = ()


def is_masked(node):
    return isinstance(node, optax.MaskedNode)


class Options(NamedTuple):
    """The options of an optimizer, before they are applied to a tree."""

    settings: _settings.Settings
    numbers: dict
    chains: Any
    update: Any
    state_dtype: Any
    partition_specs: Any
    # Numbers that depend on the step: functions of the count.
    schedules: dict
    master_weights: bool = False
    direction: bool = True


def options(
    *,
    band,
    beta1,
    beta2,
    eps,
    gamma,
    graft,
    graft_eps,
    statistics,
    statistics_weight,
    damping,
    bias_correction,
    graft_bias_correction,
    lagged_norms,
    nesterov,
    chains,
    update,
    state_dtype,
    rounding,
    seed,
    grad_scale,
    clip_norm,
    non_finite,
    threads,
    implementation,
    partition_specs,
    pooling,
    rank,
    shrink,
    b1,
    b2,
    mu_dtype,
):
    """Checks the options that all of the optimizers share."""
    beta1 = _settings.named("beta1", beta1, 0.9, "b1", b1)
    beta2 = _settings.named("beta2", beta2, 0.99, "b2", b2)
    state_dtype = _settings.named("state_dtype", state_dtype, None, "mu_dtype", mu_dtype)
    settings = _settings.Settings(
        band=1 if band is None else band,
        statistics=statistics,
        damping=damping,
        graft=graft,
        bias_correction=bias_correction,
        graft_bias_correction=graft_bias_correction,
        lagged_norms=pooling != "none" if lagged_norms is None else lagged_norms,
        nesterov=nesterov,
        rounding=rounding,
        seed=0 if seed is None else seed,
        non_finite=non_finite,
        threads=0 if threads is None else threads,
        implementation=implementation,
        pooling=pooling,
        rank=16 if rank is None else rank,
    )
    numbers, schedules = {}, {}
    for name, value in {
        "beta1": beta1,
        "beta2": beta2,
        "eps": eps,
        "gamma": gamma,
        "graft_eps": graft_eps,
        "grad_scale": grad_scale,
        "statistics_weight": statistics_weight,
        "clip_norm": clip_norm,
        "shrink": shrink,
    }.items():
        if name == "clip_norm" and value is None:
            numbers[name] = 0.0
        elif name == "statistics_weight" and callable(value):
            schedules[name] = value
        else:
            numbers[name] = _settings.number(name, value)
    if pooling == "none":
        # Nothing depends on it.
        numbers["shrink"] = 0.0
    weight = numbers.get("statistics_weight")
    if statistics == "moving_average" and (schedules or isinstance(weight, float) and weight != 1.0):
        raise ValueError("statistics_weight must be 1 with moving-average statistics")
    if isinstance(chains, str):
        _settings.choice("chains", chains, _settings.CHAINS)
    if isinstance(update, str):
        _settings.choice("update", update, _settings.UPDATES)
    if state_dtype is not None and is_dtype(state_dtype):
        check_state_dtype("state_dtype", state_dtype)
    if not _settings.is_function(partition_specs):
        # Without the arrays themselves, which programs donate.
        partition_specs = jax.tree.map(_sharding.how_cut, partition_specs, is_leaf=is_cut)
    return Options(
        settings, numbers, chains, update, state_dtype, partition_specs, schedules
    )


def is_dtype(value):
    if value is None or isinstance(value, (dict, list)) or isinstance(value, tuple):
        return value is None
    try:
        jnp.dtype(value)
    except TypeError:
        return False
    return True


def check_state_dtype(argument, dtype):
    name = jnp.dtype(dtype).name
    if name not in STATE_DTYPES:
        raise TypeError(f"{argument} is {name}, must be one of {', '.join(STATE_DTYPES)}")
    if name == "float64" and not jax.config.jax_enable_x64:
        raise TypeError(f"{argument} is float64, which needs jax_enable_x64")
    return jnp.dtype(dtype)


class Leaves:
    """The leaves of a tree of parameters or gradients. Options that are functions
    see the leaves of `params`, if it is given: the same in `init` and in steps."""

    def __init__(self, options, tree, params=None):
        listed, self.treedef = jax.tree_util.tree_flatten_with_path(tree)
        self.options = options
        self.paths = [path for path, _ in listed]
        self.names = _settings.names(self.paths)
        self.arrays = [leaf_array(name, leaf) for name, (_, leaf) in zip(self.names, listed)]
        self.params = params
        settings = options.settings
        is_name = lambda value: isinstance(value, str)
        self.chains = self.each("chains", options.chains, is_name, _settings.CHAINS)
        self.updates = self.each("update", options.update, is_name, _settings.UPDATES)
        # None where the default is taken.
        self.chosen_dtypes = self.each("state_dtype", options.state_dtype, is_dtype)
        self.state_dtypes = [
            check_state_dtype(f"the state_dtype of {name!r}", default(leaf) if dtype is None else dtype)
            for name, leaf, dtype in zip(self.names, self.arrays, self.chosen_dtypes)
        ]
        self.axes = self.cut_dims = [()] * len(listed)
        self.shardings = None
        if options.partition_specs is not None:
            cuts = self.each("partition_specs", options.partition_specs, is_cut)
            cuts = [_sharding.how_cut(cut) for cut in cuts]
            self.shardings = _sharding.on_one_mesh(self.names, cuts)
            self.axes, self.cut_dims = zip(*map(axes_of, cuts)) if cuts else ((), ())
        self.kinds = [
            Leaf(
                name=name,
                chains=chains,
                update=update,
                master=options.master_weights,
                lr_scale=1.0,
                weight_decay=1.0,
                axes=axes,
                cut_dims=cut_dims,
            )
            for name, chains, update, axes, cut_dims in zip(
                self.names, self.chains, self.updates, self.axes, self.cut_dims
            )
        ]
        for leaf, array in zip(self.kinds, self.arrays):
            if leaf.master and jnp.dtype(array.dtype).name == "float64":
                raise TypeError(f"{leaf.name!r} is float64, and master weights are float32")
            if not leaf.is_pooled(settings):
                continue
            length = leaf.pooled_length(array.shape)
            if settings.pooling == "all" and (wrong := _pooling.too_long(repr(leaf.name), length)):
                raise ValueError(wrong)
            if leaf.axes:
                check_pooled_cut(settings, leaf, len(array.shape))
        self.settings = settings

    def each(self, argument, value, is_value, among=None):
        leaves = self.arrays
        if self.params is not None and _settings.is_function(value):
            leaves = self.listed("the parameters", self.params)
        listed = _settings.per_leaf(argument, value, self.paths, leaves, self.treedef, is_value)
        if among is not None:
            for name, one in zip(self.names, listed):
                _settings.choice(f"the {argument} of {name!r}", one, among)
        return listed

    def scale_rates(self, scale):
        """Sets the factor on the learning rate of each leaf."""
        is_number = lambda value: isinstance(value, (int, float))
        scales = self.each("learning_rate_scale", scale, is_number)
        self.kinds = [
            dataclasses.replace(
                leaf,
                lr_scale=_settings.in_range(f"learning_rate_scale of {leaf.name!r}", float(one)),
            )
            for leaf, one in zip(self.kinds, scales)
        ]

    def tree(self, values):
        return jax.tree.unflatten(self.treedef, values)

    def init(self):
        """The state before the first step."""
        band = self.settings.sub_diagonals

        def plane(wanted):
            return self.tree(
                [
                    self.plane(i) if wanted(leaf) else optax.MaskedNode()
                    for i, leaf in enumerate(self.kinds)
                ]
            )

        bands = tuple(
            plane(lambda leaf, k=k: leaf.band(self.settings) > k) for k in range(band)
        )
        rms, master, scalars, pooled = (), (), (), ()
        if self.settings.graft == "normalized_rmsprop":
            rms = plane(lambda leaf: leaf.has_rms(self.settings))
        if self.options.master_weights:
            master = self.tree([master_weights(array) for array in self.arrays])
        if self.settings.needs_scalars():
            scalars = self.zeros((len(self.arrays), SCALARS, 2), jnp.uint32)
        if self.settings.pooling != "none":
            pooled = self.tree([self.zero_sums(i) for i in range(len(self.arrays))])
        everywhere = lambda leaf: True
        return ScaleBySonewState(
            count=self.zeros([], jnp.int32),
            momentum=plane(everywhere),
            diagonal=plane(everywhere),
            bands=bands,
            rms=rms,
            master=master,
            skipped=self.zeros([], jnp.int32),
            scalars=scalars,
            pooled=pooled,
        )

    def plane(self, i):
        """A plane of a leaf before the first step."""
        array, dtype = self.arrays[i], self.state_dtypes[i]
        if self.shardings is None:
            return jnp.zeros_like(array, dtype=dtype)
        return jnp.zeros(array.shape, dtype, device=self.shardings[i])

    def zeros(self, shape, dtype):
        """Zeros that all devices of the leaves have, if it is known which these are."""
        if self.shardings is None:
            return jnp.zeros(shape, dtype)
        everywhere = jax.sharding.NamedSharding(
            self.shardings[0].mesh, jax.sharding.PartitionSpec()
        )
        return jnp.zeros(shape, dtype, device=everywhere)

    def zero_sums(self, i):
        """The pooled sums of a leaf before the first step."""
        leaf, array = self.kinds[i], self.arrays[i]
        if not leaf.is_pooled(self.settings):
            return optax.MaskedNode()
        shape = leaf.sums_shape(self.settings, array.shape)
        return self.zeros(shape, sums_dtype(array.dtype, self.state_dtypes[i]))

    def listed(self, what, tree):
        """The arrays of a tree, which must have the structure of this one."""
        try:
            return self.treedef.flatten_up_to(tree)
        except (ValueError, TypeError, KeyError):
            pass
        listed, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_masked)
        there, here = set(_settings.names([path for path, _ in listed])), set(self.names)
        words = [f"{name!r} is missing" for name in sorted(here - there)]
        words += [f"{name!r} is not among the gradients" for name in sorted(there - here)]
        raise ValueError(
            f"the tree of {what} differs from that of the gradients: "
            + ("; ".join(words[:5]) or f"{jax.tree.structure(tree)} and {self.treedef}")
        )

    def matching(self, what, tree):
        """Like `listed`; the arrays must have the shapes of this tree's leaves."""
        listed = []
        for name, leaf, own in zip(self.names, self.listed(what, tree), self.arrays):
            if is_masked(leaf):
                raise ValueError(f"{what} has no array for {name!r}, which is masked there")
            array = leaf_array(f"{name!r} in {what}", leaf, quoted=True)
            if array.shape != own.shape:
                raise ValueError(
                    f"{name!r} has shape {array.shape} in {what}, but {own.shape} here"
                )
            listed.append(array)
        return listed

    def sums(self, state):
        """The pooled sums of each leaf that has them."""
        if self.settings.pooling == "none":
            return [None] * len(self.arrays)
        listed = self.listed("the pooled sums", state.pooled)
        wanted = lambda leaf: leaf.is_pooled(self.settings)
        self.present("the pooled sums", listed, wanted)
        for i, leaf in enumerate(self.kinds):
            if not wanted(leaf):
                continue
            listed[i] = leaf_array(f"{leaf.name!r} in the pooled sums", listed[i], quoted=True)
            shape = leaf.sums_shape(self.settings, self.arrays[i].shape)
            if listed[i].shape != shape:
                raise ValueError(
                    f"{leaf.name!r} has shape {listed[i].shape} in the pooled sums, but {shape} here"
                )
        return listed

    def planes(self, state, targets=None):
        """The state planes of each leaf, whose step writes `targets`: by default, arrays of
        the types of these leaves."""
        targets = self.arrays if targets is None else targets
        if not isinstance(state, ScaleBySonewState):
            raise TypeError(f"the state is a {type(state).__name__}, not a ScaleBySonewState")
        band = self.settings.sub_diagonals
        if len(state.bands) != band:
            pooled = " and correlations are pooled" if self.settings.pooling != "none" else ""
            raise ValueError(
                f"the state has {len(state.bands)} sub-diagonals, but band is "
                f"{self.settings.band}{pooled}"
            )
        momentum = self.matching("the momentum", state.momentum)
        diagonal = self.matching("the diagonal", state.diagonal)
        some = [self.listed(f"the sub-diagonal {k + 1}", e) for k, e in enumerate(state.bands)]
        for k, tree in enumerate(some):
            self.same(f"the sub-diagonal {k + 1}", tree, lambda leaf: leaf.band(self.settings) > 0)
        rms = master = None
        if self.settings.graft == "normalized_rmsprop":
            rms = self.listed("the plane rms", state.rms)
            self.same("the plane rms", rms, lambda leaf: leaf.has_rms(self.settings))
        if self.options.master_weights:
            master = self.matching("the master weights", state.master)
        sums = self.sums(state)
        planes = []
        for i, leaf in enumerate(self.kinds):
            own = [momentum[i], diagonal[i]]
            own += [tree[i] for tree in some[: leaf.band(self.settings)]]
            own += [rms[i]] if leaf.has_rms(self.settings) else []
            for array in own:
                if array.dtype != momentum[i].dtype:
                    raise TypeError(
                        f"the state of {leaf.name!r} has planes of {array.dtype} and "
                        f"{momentum[i].dtype}"
                    )
            if jnp.dtype(own[0].dtype).name not in STATE_DTYPES:
                raise TypeError(f"the state of {leaf.name!r} is {own[0].dtype}")
            if self.chosen_dtypes[i] is not None and own[0].dtype != self.state_dtypes[i]:
                raise TypeError(
                    f"the state of {leaf.name!r} is {own[0].dtype}, but state_dtype is "
                    f"{self.state_dtypes[i]}"
                )
            if sums[i] is not None and not is_masked(sums[i]):
                wanted = sums_dtype(targets[i].dtype, own[0].dtype)
                if sums[i].dtype != wanted:
                    raise TypeError(
                        f"the pooled sums of {leaf.name!r} are {sums[i].dtype}, must be {wanted}"
                    )
                own.append(sums[i])
            if master is not None:
                if master[i].dtype != jnp.float32:
                    raise TypeError(f"the master weights of {leaf.name!r} are {master[i].dtype}")
                own.append(master[i])
            planes.append(tuple(own))
        return planes

    def scalars(self, state):
        """The scalars of all leaves; () if steps need none."""
        if not self.settings.needs_scalars():
            return ()
        scalars, expected = state.scalars, (len(self.arrays), SCALARS, 2)
        if np.shape(scalars) != expected:
            raise ValueError(
                f"scalars of the state has shape {np.shape(scalars)}, but lagged_norms is "
                f"{self.settings.lagged_norms}, damping is {self.settings.damping!r} and it "
                f"needs {expected}"
            )
        if scalars.dtype != jnp.uint32:
            raise TypeError(f"scalars of the state is {scalars.dtype}, must be uint32")
        return scalars

    def present(self, what, listed, wanted):
        """Refuses a plane that is present but not wanted, or wanted but missing."""
        for leaf, array in zip(self.kinds, listed):
            if is_masked(array) == wanted(leaf):
                has = "no" if is_masked(array) else "a"
                raise ValueError(
                    f"the state has {has} plane for {leaf.name!r} in {what}, but its update "
                    f"is {leaf.update!r}"
                )

    def same(self, what, listed, wanted):
        """The same, and one of another shape."""
        self.present(what, listed, wanted)
        for leaf, array, own in zip(self.kinds, listed, self.arrays):
            if not is_masked(array) and array.shape != own.shape:
                raise ValueError(
                    f"{leaf.name!r} has shape {array.shape} in {what}, but {own.shape} here"
                )

    def state(self, count, skipped, planes, scalars, before):
        """The state with these counts, planes and scalars."""
        band = self.settings.sub_diagonals
        masked = optax.MaskedNode()
        nth = lambda n: self.tree([own[n] for own in planes])
        bands = tuple(
            self.tree(
                [
                    own[2 + k] if leaf.band(self.settings) > k else masked
                    for own, leaf in zip(planes, self.kinds)
                ]
            )
            for k in range(band)
        )
        rms, master = before.rms, before.master
        if self.settings.graft == "normalized_rmsprop":
            rms = self.tree(
                [
                    own[2 + band] if leaf.has_rms(self.settings) else masked
                    for own, leaf in zip(planes, self.kinds)
                ]
            )
        if self.options.master_weights:
            master = nth(-1)
        pooled = before.pooled
        if self.settings.pooling != "none":
            last = -2 if self.options.master_weights else -1
            pooled = self.tree(
                [
                    own[last] if leaf.is_pooled(self.settings) else masked
                    for own, leaf in zip(planes, self.kinds)
                ]
            )
        if not self.settings.needs_scalars():
            scalars = before.scalars
        return ScaleBySonewState(
            count, nth(0), nth(1), bands, rms, master, skipped, scalars, pooled
        )


def default(leaf):
    return "float64" if jnp.dtype(leaf.dtype).name == "float64" else "float32"


def sums_dtype(target, state):
    """The type of pooled sums, which is that of the step's arithmetic."""
    return jnp.result_type(jnp.float32, target, state)


def check_pooled_cut(settings, leaf, ndim):
    """Refuses a leaf with pooled correlations whose parts would need more of each other than
    sums of the step before."""
    along = 0 if leaf.first_of_units else ndim - 1
    if along in leaf.cut_dims:
        raise ValueError(
            f"partition_specs cuts {leaf.name!r} along its dimension {along}, where its chains "
            f"run ({leaf.chains!r}), and its correlations are pooled: a part would need products "
            "with coordinates of others. Cut it between its units, along other dimensions, or "
            'not at all, or give it update="adam"'
        )
    if not settings.lagged_norms:
        raise ValueError(
            f"partition_specs cuts {leaf.name!r}, whose correlations are pooled, and lagged_norms "
            "is False: every step would need sums over all parts first. Leave out lagged_norms, "
            "or give the leaf the spec P()"
        )


def is_cut(value):
    """Whether this says how leaves are cut. As in `in_specs`, None is a leaf that is not."""
    return value is None or isinstance(value, CUTS)


def axes_of(cut):
    """The mesh axes that a leaf is cut along, and its dimensions that are cut."""
    entries = getattr(cut, "spec", cut) or ()
    by_dim = [e if isinstance(e, (tuple, list)) else () if e is None else (e,) for e in entries]
    sizes = cut.mesh.shape if isinstance(cut, jax.sharding.NamedSharding) else {}
    dims = [d for d, axes in enumerate(by_dim) if any(sizes.get(axis) != 1 for axis in axes)]
    return tuple(itertools.chain(*by_dim)), tuple(dims)


def master_weights(array):
    """float32 master weights of a leaf. A leaf that has only a shape and a type
    has no values that they could have: they are not a number."""
    if isinstance(array, jax.ShapeDtypeStruct):
        return jnp.full(array.shape, jnp.nan, jnp.float32)
    return jnp.array(array, dtype=jnp.float32, copy=True)


def leaf_array(name, leaf, quoted=False):
    """A leaf as an array that the optimizer takes. Numbers of Python and arrays
    of numpy become JAX's, with its types."""
    name = name if quoted else repr(name)
    if isinstance(leaf, (np.ndarray, np.generic, int, float)):
        if jnp.issubdtype(np.asarray(leaf).dtype, np.number):
            leaf = jnp.asarray(leaf)
    if not hasattr(leaf, "dtype") or not hasattr(leaf, "shape"):
        raise TypeError(f"{name} is a {type(leaf).__name__}, not an array")
    # Types that only JAX has, such as those of PRNG keys, have no name in numpy.
    if str(leaf.dtype) not in DTYPES:
        raise TypeError(f"{name} has dtype {leaf.dtype}, must be one of {', '.join(DTYPES)}")
    if len(leaf.shape) > MAX_DIMS:
        raise ValueError(f"{name} has {len(leaf.shape)} dimensions, at most {MAX_DIMS} are taken")
    return leaf


def program_of(leaves, numbers, weight_decays, direction):
    """The program of steps of leaves that have elements, and all of its numbers."""
    options = leaves.options
    ordered = [{**options.numbers, **numbers}[name] for name in NUMBERS]
    static = tuple(n if isinstance(n, float) else None for n in ordered)
    kinds = [
        dataclasses.replace(leaf, weight_decay=float(decay))
        for leaf, decay, array in zip(leaves.kinds, weight_decays, leaves.arrays)
        if np.prod(array.shape) > 0
    ]
    return Program(options.settings, tuple(kinds), static, direction), ordered


def take_step(leaves, state, targets, numbers, weight_decays, run=None):
    """Takes a step, by `run`. Returns new targets (parameters, or directions), the new
    state, and whether the step was taken. Leaves without elements are not
    changed."""
    options, run = leaves.options, run or _step.run
    planes, scalars = leaves.planes(state, targets), leaves.scalars(state)
    scheduled = {name: _settings.at(name, of, state) for name, of in options.schedules.items()}
    numbers = {**numbers, **scheduled}
    program, ordered = program_of(leaves, numbers, weight_decays, targets is None)
    wide = jnp.float64 if jax.config.jax_enable_x64 else jnp.float32
    traced = [jnp.asarray(n, wide) for n in ordered if not isinstance(n, float)]
    traced = jnp.stack(traced) if traced else jnp.zeros((0,), wide)

    full = [i for i, array in enumerate(leaves.arrays) if np.prod(array.shape) > 0]
    pick = lambda listed: tuple(listed[i] for i in full)
    new_targets = [jnp.zeros_like(a) for a in leaves.arrays] if targets is None else list(targets)
    taken = jnp.ones([], jnp.int32)
    if full:
        partly = options.settings.needs_scalars() and len(full) < len(leaves.arrays)
        taken, new_scalars, some_targets, some_planes = run(
            program,
            jnp.asarray(state.count, jnp.int32),
            traced,
            *jax.tree.map(
                jnp.asarray,
                (
                    scalars[np.array(full)] if partly else scalars,
                    () if targets is None else pick(targets),
                    pick(leaves.arrays),
                    pick(planes),
                ),
            ),
            None if leaves.shardings is None else pick(leaves.shardings),
        )
        if partly:
            # Without a scatter, which meshes with explicit axes do not have.
            empty = [i for i in range(len(leaves.arrays)) if i not in set(full)]
            rows = jnp.concatenate([new_scalars, jnp.asarray(scalars)[np.array(empty)]])
            new_scalars = rows[np.argsort(full + empty)]
        scalars = new_scalars
        for i, target, own in zip(full, some_targets, some_planes):
            new_targets[i], planes[i] = target, own
    count, skipped = increased(state.count, taken), increased(state.skipped, 1 - taken)
    return new_targets, leaves.state(count, skipped, planes, scalars, state), taken


def increased(count, by):
    """A count that stays at its largest number instead of overflowing."""
    most = jnp.iinfo(jnp.int32).max
    return jnp.where(count < most, count + by, most).astype(jnp.int32)
