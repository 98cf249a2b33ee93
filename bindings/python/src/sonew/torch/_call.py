"""One call of sonew_plan_step() for all parameters on the CPU whose options agree in what must
be the same for a plan. What does not change between steps is kept: the plan, and the list of
buffers, of which a step refreshes the gradients' addresses."""

import ctypes
import weakref
from ctypes import byref, c_double, c_void_p
from itertools import chain
from operator import is_, itemgetter

import numpy as np
import torch

from .. import _structs
from .._library import c, check, filled, filled_list
from .._optimizer import Tensor, options_struct, tensor_structs
from . import _memory
from ._options import COMMON, DTYPES, OWN, needs_scalars, pooled_shape, state_dtype_of, update_of

TORCH = {1: torch.float32, 2: torch.float64, 3: torch.bfloat16, 4: torch.float16}
data_ptr = torch.Tensor.data_ptr
# The fields of sonew_buffers that change, as numpy sees a list of them.
FIELDS = np.dtype(
    {
        "names": [name for name, _ in _structs.Buffers._fields_],
        "formats": [
            np.float64 if kind is c_double else np.uint64 for _, kind in _structs.Buffers._fields_
        ],
        "offsets": [getattr(_structs.Buffers, name).offset for name, _ in _structs.Buffers._fields_],
        "itemsize": ctypes.sizeof(_structs.Buffers),
    }
)

OF_PLAN = {name for name, _ in _structs.Options._fields_} - {"threads", "lagged_norms"}


class Entry:
    """A parameter: where its group has it, and how it lies in memory."""

    def __init__(self, groups, g, i, name):
        self.group, self.g, self.i, self.name = groups[g], g, i, name
        self.whole = groups[g]["params"][i]
        self.p = self.own_part(self.whole)
        # As it is now: `p.data` may become another.
        self.shape, self.order = self.p.shape, order_of(self.p)
        self.is_copied = self.order is None
        self.own = Tensor(
            name=name,
            shape=tuple(self.p.shape if self.is_copied else self.p.permute(self.order).shape),
            chains=self.group["chains"],
            update=update_of(self.group, i, self.p),
            dtype=DTYPES[self.p.dtype],
            grad_dtype=DTYPES[getattr(self.p, "grad_dtype", None) or self.p.dtype],
            state_dtype=DTYPES[state_dtype_of(self.group, self.p)],
            master=self.group["master_weights"],
            options=own_options(self.group),
        )

    def own_part(self, p):
        """What this process steps of a parameter."""
        return p

    def own_parts(self, own):
        """The same of its state, by name."""
        return own

    def of_parts(self, own):
        """The state whose own parts these are."""
        return own

    def rows(self):
        """Which rows of the whole parameter are stepped here: the first, and of how many; (0, 0)
        for all."""
        return 0, 0

    def grad(self):
        return self.p.grad

    def length(self):
        """Of the chains that pool their correlations."""
        return self.own.shape[0 if self.own.chains.startswith("strided") else -1]

    def lies_well(self, x):
        """Whether a tensor lies in memory as the step takes it."""
        # What torch calls negative has the numbers in memory with another sign.
        return (x if self.is_copied else x.permute(self.order)).is_contiguous() and not x.is_neg()

    def placed(self, x):
        """The same numbers, as the step takes them."""
        if self.lies_well(x):
            return x
        if self.is_copied:
            return x.contiguous().resolve_neg()
        like = torch.empty_like(self.p, dtype=x.dtype, memory_format=torch.preserve_format)
        return like.copy_(x)

    def zeros(self, shape, dtype):
        """A state plane of zeros: as the parameter lies, or a list of its own shape."""
        p = self.p
        if shape is not None or p.device.type != "cpu":
            shape = shape if shape is not None else p.shape
            like = p.detach() if shape == p.shape else p.new_empty(shape)
            return torch.zeros_like(like, dtype=dtype, memory_format=torch.preserve_format)
        flat = _memory.zeros(p.numel(), dtype)
        if self.is_copied:
            return flat.view(p.shape)
        places = sorted(range(p.ndim), key=self.order.__getitem__)
        return flat.view([p.shape[d] for d in self.order]).permute(places)


def own_options(group):
    options = {name: group[name] for name in OWN}
    options["beta1"], options["beta2"] = map(float, group["initial_betas"])
    return options


def common_options(group):
    options = {name: group[name] for name in COMMON if name in OF_PLAN}
    lagged, threads = group["lagged_norms"], group["threads"]
    options["lagged_norms"] = -1 if lagged is None else int(lagged)
    options["threads"] = torch.get_num_threads() if threads is None else threads
    return options


def order_of(p):
    """The dimensions of a tensor by descending stride, with which it is contiguous; None if
    there are gaps between its elements, several share a place, or its numbers are not those in
    memory."""
    if p.is_neg():
        return None
    if p.is_contiguous():
        return tuple(range(p.ndim))
    order = sorted(range(p.ndim), key=lambda d: (-p.stride(d), -p.shape[d]))
    return tuple(order) if p.permute(order).is_contiguous() else None


def layouts(tensors):
    return [(x.dtype, x.shape, x.stride()) for x in tensors]


def likeness(tensors):
    """A function of as many tensors, true only if they have the types, shapes and strides of
    these: one call for all. It is private to torch, and may say no for other reasons, such as
    autocast; where there is none, the answer is no."""
    try:
        look = torch._C._dynamo.guards.TensorGuards
        return look(*tensors, dynamic_dims_sizes=[], dynamic_dims_strides=[]).check
    except (AttributeError, TypeError):
        return lambda *_: False


def has_memory(x):
    """Whether a tensor's elements are at an address. Those of subclasses that wrap other tensors
    are not."""
    return x.numel() == 0 or x.data_ptr() != 0


def step_count(number):
    """The state "step": on the CPU, whatever torch.set_default_device says, as all that the library
    reads."""
    return torch.tensor(float(number), dtype=torch.float32, device="cpu")


def no_scalars():
    """The state "scalars" before the first step."""
    return torch.zeros(_structs.SCALARS, dtype=torch.float64, device="cpu")


def free(handle):
    c().sonew_plan_free(handle)


class Call:
    """The plan of some parameters, and the buffers of its step."""

    def __init__(self, entries, state):
        self.entries = entries
        first = entries[0].group
        self.maximize, self.non_finite = first["maximize"], first["non_finite"]
        options = common_options(first)
        if all(entry.own.options == entries[0].own.options for entry in entries):
            # Those of single tensors take the library longer.
            options |= entries[0].own.options
            for entry in entries:
                entry.own.options = {}
        if len({entry.name for entry in entries}) < len(entries):
            # Of two modules: a plan wants names of its own.
            for n, entry in enumerate(entries):
                entry.own.name = f"{entry.name} ({n})"
        structs = tensor_structs([entry.own for entry in entries], options)
        handle, common = c_void_p(), options_struct(options)
        check(c().sonew_plan_create(byref(common), structs, len(entries), byref(handle)))
        self.plan = handle
        weakref.finalize(self, free, handle)
        self.needs_scalars = needs_scalars(first)
        self.params = [entry.p for entry in entries]
        for entry, p in zip(entries, self.params):
            if not has_memory(p):
                raise ValueError(
                    f"{entry.name} is a {type(p).__name__} without memory of its own, which the "
                    "library cannot step; implementation='torch' steps by operations of torch"
                )
        self.group_of = np.array([entry.g for entry in entries])
        self.groups = sorted(set(self.group_of.tolist()))
        self.step_options = filled(_structs.StepOptions)
        self.step_options.lr = 1.0
        self.step_options.statistics_weight = float(first["statistics_weight"])
        self.step_options.non_finite = _structs.NON_FINITE[
            "unchecked" if first["non_finite"] == "unchecked" else "skip"
        ]
        self.buffers = filled_list(_structs.Buffers, len(entries), "sonew_buffers_init")
        self.fields = np.frombuffer(self.buffers, FIELDS)
        self.grad_fields, self.number_fields = self.fields["grad"], self.fields["step_number"]
        self.fields["len"] = [p.numel() for p in self.params]
        self.planes = [self.planes_of(i) for i in range(len(entries))]
        self.take_state(state)

    def planes_of(self, i):
        """The names, types and shapes of the planes of a parameter; the shape is None where it is
        that of the parameter."""
        planes, entry = _structs.Planes(), self.entries[i]
        check(c().sonew_plan_planes(self.plan, i, byref(planes), ctypes.sizeof(planes)))
        found = {}
        for n in range(planes.count):
            name = planes.names[n].decode()
            shape = pooled_shape(entry.group, entry.length()) if name == "pooled" else None
            found[name.replace(".", "_")] = TORCH[planes.dtypes[n]], shape
        return found

    def take_state(self, state):
        """Notes where the state of each parameter is, and makes that of parameters that have a
        gradient for the first time."""
        self.kept = []
        live = []
        for i, entry in enumerate(self.entries):
            own = state.get(entry.p)
            if not own:
                if entry.grad() is None:
                    continue
                own = state.setdefault(entry.p, {})
                self.begin(i, own)
            if "scalars" in own and own["scalars"].dtype == torch.float32:
                # An optimizer around this one has loaded them, to the type of the parameters.
                own["scalars"] = own["scalars"].double()
            self.check_state(i, own)
            if self.needs_scalars and "scalars" not in own:
                own["scalars"] = no_scalars()
            live.append((i, own))
        # One tensor has the counts of all, so that a step counts by one operation.
        counts = torch.tensor([float(own["step"]) for _, own in live], dtype=torch.float32, device="cpu")
        self.counts = counts.numpy()
        for n, (i, own) in enumerate(live):
            own["step"] = counts[n]
            tensors = [own[name] for name in self.planes[i]]
            pointers = (c_void_p * len(tensors))(*map(data_ptr, tensors))
            self.kept.append(pointers)
            entry = self.buffers[i]
            entry.planes, entry.plane_count = pointers, len(tensors)
            scalars = own.get("scalars")
            self.fields["scalars"][i] = 0 if scalars is None else scalars.data_ptr()
        indices = [i for i, _ in live]
        # As a slice where it can be, which numpy is quicker with.
        self.live = slice(None) if len(live) == len(self.params) else np.array(indices, int)
        self.live_entries = [self.entries[i] for i in indices]
        self.live_planes = [self.planes[i] for i in indices]
        self.states = [own for _, own in live]
        self.live_params = [self.params[i] for i, _ in live]
        self.are_usual = lambda *_: False
        waiting = set(range(len(self.params))) - set(indices)
        self.waiting = [self.params[i] for i in sorted(waiting)]
        self.addresses = list(map(data_ptr, self.params))
        self.layouts, self.are_alike = layouts(self.params), likeness(self.params)
        self.fields["params"] = self.addresses
        self.copies = [i for i in indices if self.entries[i].is_copied]
        self.look_at_state()

    def begin(self, i, own):
        """The state before the first step."""
        entry = self.entries[i]
        own["step"] = step_count(0)
        for name, (dtype, shape) in self.planes[i].items():
            own[name] = entry.zeros(shape, dtype)
        if "master" in own:
            own["master"].copy_(entry.p.detach())

    def check_state(self, i, own):
        """Refuses state that is not of this parameter, by name."""
        entry, planes = self.entries[i], self.planes[i]
        missing = [name for name in ("step", *planes) if name not in own]
        if missing:
            raise ValueError(
                f"the state of {entry.name} has no {missing[0]!r}, but {sorted(own)}: it is of "
                "another optimizer, or of other options"
            )
        for name, (dtype, shape) in planes.items():
            plane, wanted = own[name], tuple(shape or entry.p.shape)
            if plane.device.type != "cpu":
                raise ValueError(f"{name!r} of {entry.name} is on {plane.device}, and the parameter on the CPU")
            if plane.dtype != dtype:
                raise ValueError(f"{name!r} of {entry.name} is {plane.dtype}, expected {dtype}")
            if tuple(plane.shape) != wanted:
                raise ValueError(
                    f"{name!r} of {entry.name} has shape {tuple(plane.shape)}, expected {wanted}"
                )
            lies_well = plane.is_contiguous() if shape else entry.lies_well(plane)
            if not lies_well:
                raise ValueError(
                    f"{name!r} of {entry.name} has the strides {plane.stride()}, and the "
                    f"parameter {entry.p.stride()}: state lies in memory as its parameter does"
                )
        scalars = own.get("scalars")
        if scalars is not None and (scalars.dtype, scalars.shape) != (torch.float64, (_structs.SCALARS,)):
            raise ValueError(f"'scalars' of {entry.name} must be {_structs.SCALARS} float64 numbers")

    def look_at_state(self):
        """Notes where state is. Programs may have entries of their own beside it."""
        kinds = {}
        for planes, own in zip(self.live_planes, self.states):
            names = "step", *planes, *(["scalars"] if "scalars" in own else [])
            kinds.setdefault(names, []).append(own)
        self.kinds = [(itemgetter(*names), owns) for names, owns in kinds.items()]
        self.flat = self.state_addresses()

    def state_addresses(self):
        found = (map(tensors_of, owns) for tensors_of, owns in self.kinds)
        return list(map(data_ptr, chain.from_iterable(chain.from_iterable(found))))

    def is_current(self):
        """Whether parameters and state are still where they were."""
        try:
            return (
                list(map(data_ptr, self.params)) == self.addresses
                and (self.are_alike(*self.params) or layouts(self.params) == self.layouts)
                and self.state_addresses() == self.flat
                and all(p.grad is None for p in self.waiting)
            )
        except (RuntimeError, TypeError, KeyError):
            return False

    def gradients(self):
        """The gradients, and their addresses: 0 where there is none."""
        found = [p.grad for p in self.live_params]
        if self.are_usual(*found) and 0 not in (pointers := list(map(data_ptr, found))):
            return found, pointers
        grads = [g if g is None else self.gradient(e, g) for e, g in zip(self.live_entries, found)]
        if all(map(is_, grads, found)) and not any(grad is None for grad in grads):
            # Others that lie as these do need no closer look.
            self.are_usual = likeness(grads)
        return grads, [0 if grad is None else grad.data_ptr() for grad in grads]

    def gradient(self, entry, grad):
        """The gradient as the step takes it: itself, if it lies so in memory."""
        if grad.layout is not torch.strided:
            raise RuntimeError(
                f"the gradient of {entry.name} is sparse: SONew does not support sparse gradients"
            )
        if DTYPES.get(grad.dtype) != entry.own.grad_dtype or grad.shape != entry.shape:
            raise RuntimeError(
                f"the gradient of {entry.name} is {grad.dtype}{list(grad.shape)}, expected "
                f"{entry.own.grad_dtype}{list(entry.shape)}"
            )
        if not has_memory(grad):
            raise RuntimeError(f"the gradient of {entry.name} is a {type(grad).__name__} without memory")
        if entry.lies_well(grad) and not self.maximize:
            return grad
        grad = grad.detach()
        return entry.placed(torch.neg(grad) if self.maximize else grad)

    def take_rates(self, rates):
        """Learning rate and weight decay by group."""
        own = rates[self.group_of]
        self.fields["lr_scale"], self.fields["weight_decay"] = own[:, 0], own[:, 1]

    def take_betas(self, groups):
        """The betas of this step, where a schedule has changed them. Returns False if those of
        the groups differ: one step can have the first betas of all, or one pair."""
        mine = [groups[g] for g in self.groups]
        now = {tuple(map(float, group["betas"])) for group in mine}
        step = self.step_options
        if all(tuple(map(float, g["betas"])) == tuple(g["initial_betas"]) for g in mine):
            step.beta1 = step.beta2 = -1.0
            return True
        if len(now) > 1:
            return False
        ((step.beta1, step.beta2),) = now
        pointers = np.zeros(len(self.states), np.uint64)
        for n, own in enumerate(self.states):
            if "scalars" not in own:
                own["scalars"] = no_scalars()
            pointers[n] = own["scalars"].data_ptr()
        self.fields["scalars"][self.live] = pointers
        self.look_at_state()
        return True

    def step(self, grad_scale):
        """Takes the step. Returns None, or what is wrong if it was skipped because a gradient is
        not finite."""
        grads, pointers = self.gradients()
        self.grad_fields[self.live] = pointers
        self.number_fields[self.live] = self.counts + 1
        self.step_options.grad_scale = grad_scale
        copies = self.copy_in() if self.copies else ()
        status = c().sonew_plan_step(
            self.plan, byref(self.step_options), 1, self.buffers, len(self.buffers)
        )
        if status != 0:
            if status == _structs.NON_FINITE_GRADIENT:
                return c().sonew_last_error().decode()
            check(status)
        if 0 in pointers:
            self.counts[np.array(pointers, np.uint64) != 0] += 1
        else:
            self.counts += 1
        for p, copy in copies:
            p.detach().copy_(copy)
        # Autograd then refuses a backward pass through what a step has changed.
        torch.autograd.graph.increment_version(self.live_params)
        return None

    def finish(self):
        """Ends the last step, if something of it is under way: see _distributed."""

    discard = finish

    def copy_in(self):
        """Contiguous copies of the parameters that have gaps, in their places."""
        copies = []
        for i in self.copies:
            copies.append((self.params[i], self.params[i].detach().contiguous().resolve_neg()))
            self.fields["params"][i] = copies[-1][1].data_ptr()
        return copies

    def not_finite(self):
        """What is wrong if a gradient is not finite, or its square overflows; otherwise None."""
        grads, _ = self.gradients()
        return not_finite(zip(self.live_entries, grads))


def not_finite(pairs):
    """The same, of entries with their gradients."""
    for entry, grad in pairs:
        if grad is None:
            continue
        wide = grad if grad.dtype == torch.float64 else grad.float()
        if not torch.isfinite(wide.square()).all():
            return (
                f"{entry.name}: the gradient is not finite, or its square overflows; "
                "the step was skipped"
            )
    return None
