"""Parameters that are DTensors: each process steps its own part by the library, in stages, and sums
over whole tensors are reduced in between, or while the next gradients are computed."""

import ctypes
import math
from ctypes import byref, c_double, c_int32, c_void_p

import numpy as np
import torch
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._dtensor_spec import DTensorSpec, TensorMeta
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from .. import _structs
from .._library import c, check
from ._call import Call, Entry, data_ptr
from ._options import is_lagged, pooled_count, update_of
from ._sums import NUMBERS, Reduction, Sums, cut_dims

# Of sonew_stage.
DONE, GRADIENT_SQUARES, LARGEST, NORMS = range(4)
# Of the scalars of a tensor.
RATIO, LARGEST_SCALAR = 0, 3
# Has no elements, but an address, which says that there is a tensor.
NOTHING = ctypes.create_string_buffer(128)
NO_ELEMENTS = (ctypes.addressof(NOTHING) + 63) // 64 * 64
# The state that belongs to a whole tensor, the same on each process.
WHOLE = ("step", "scalars", "pooled")


def part(x):
    """The part of a tensor that this process holds."""
    if not isinstance(x, DTensor):
        return x
    x = x._local_tensor
    return x.wait() if hasattr(x, "wait") else x


def like(whole, own):
    """A DTensor of which this process holds `own`, cut as another one."""
    meta = TensorMeta(whole.shape, whole.stride(), own.dtype)
    spec = DTensorSpec(whole.device_mesh, whole.placements, tensor_meta=meta)
    return DTensor(own, spec, requires_grad=False)


def placed(x, p, place):
    """A copy of loaded state of a DTensor where that of the parameter belongs; `place` does so for
    tensors that are none."""
    own = place(part(x), part(p))
    return like(x, own) if isinstance(x, DTensor) else own


def is_cut(p):
    return isinstance(p, DTensor) and bool(cut_dims(p.placements, p.device_mesh))


def has_whole_rows(p):
    """Whether no cut goes through a row of a DTensor: an index of its first dimension."""
    return all(p.placements[d].dim == 0 for d in cut_dims(p.placements, p.device_mesh))


def is_pooled(group, i, p):
    return group["pooling"] != "none" and update_of(group, i, p) == "sonew"


def check_dtensor(name, p, group, i):
    """Refuses a DTensor that cannot be stepped in parts."""
    if any(x.is_partial() for x in p.placements):
        raise ValueError(f"{name} has the placements {p.placements}: a partial sum is no parameter")
    if p.device_mesh.get_coordinate() is None:
        raise ValueError(f"{name} is on a mesh that this process is not part of")
    if is_pooled(group, i, p) and is_cut(p):
        check_pooled(name, p, group)
    if part(p).device.type != "cpu" or group["implementation"] in ("torch", "compiled"):
        raise ValueError(
            f"{name} is a DTensor on {part(p).device} with implementation="
            f"{group['implementation']!r}: DTensors are stepped by the library, on the CPU "
            "(with fully_shard, CPUOffloadPolicy puts them there)"
        )


def check_pooled(name, p, group):
    """Refuses a DTensor with pooled correlations that is not cut between chains, or whose sums a
    step needs at once."""
    cut = f"{name} is cut over processes ({p.placements}), and pooling is {group['pooling']!r}"
    if not is_lagged(group):
        raise ValueError(
            f"{cut} with lagged_norms=False: pooled sums of parts are added up between steps, and "
            "have to be those of the step before (lagged_norms=None or True)"
        )
    along = group["chains"].startswith("contiguous") and p.is_contiguous() and part(p).is_contiguous()
    if not (along and p.ndim > 1 and has_whole_rows(p)):
        raise ValueError(
            f"{cut} with chains={group['chains']!r}: correlations are pooled over whole chains, so that "
            "a parameter can be cut along its first dimension only, where its chains lie along "
            "the last: chains='contiguous_lines', at least two dimensions, and contiguous memory"
        )


def kind_of_call(group, i, p):
    return PartsCall if update_of(group, i, p) == "adam" else ShardedCall


class ShardedEntry(Entry):
    """A parameter that is a DTensor; `p` is the part that this process holds."""

    def own_part(self, p):
        return part(p)

    def own_parts(self, own):
        return {name: part(x) for name, x in own.items()}

    def of_parts(self, own):
        return {name: x if name in WHOLE else like(self.whole, x) for name, x in own.items()}

    def rows(self):
        p = self.whole
        shape, offset = compute_local_shape_and_global_offset(p.shape, p.device_mesh, p.placements)
        if not is_cut(p):
            return 0, 0
        if not has_whole_rows(p):
            raise ValueError(
                f"{self.name} has the placements {p.placements}: a file has whole rows of a "
                "parameter, which is cut along its first dimension only. "
                "torch.distributed.checkpoint saves any"
            )
        # A part without rows is at the end.
        return min(offset[0], p.shape[0] - self.p.shape[0]), p.shape[0]

    def grad(self):
        """The gradient of the own part."""
        grad, p = self.whole.grad, self.whole
        if not isinstance(grad, DTensor):
            return grad
        if grad.placements != p.placements:
            grad = grad.redistribute(placements=p.placements)
        return part(grad)

    def is_here(self):
        return self.p.numel() > 0

    def has_pooled_part(self):
        """Whether chains that are elsewhere share their correlations with those that are here."""
        whole = self.whole
        return is_pooled(self.group, self.i, whole) and is_cut(whole) and whole.numel() > 0

    def join_chains(self):
        """Says which chains of the whole parameter these are. A process that has none steps one of
        zeros in their place, so that the sums of all are carried on with the same bits."""
        own = self.own
        own.first_row, own.whole_rows = self.rows()
        if not self.is_here():
            own.shape = (1, *own.shape[1:])
            own.first_row = own.whole_rows - 1


class PartsCall(Call):
    """The plan of parameters that are DTensors and take the plain Adam update, of which a part needs
    nothing of the others."""

    def __init__(self, entries, state):
        self.is_here = np.array([entry.is_here() for entry in entries])
        needs = self.needs_sums(entries)
        self.pooled = [i for i, entry in enumerate(entries) if entry.has_pooled_part()]
        for i in self.pooled:
            entries[i].join_chains()
        self.sums = Sums([e.whole if n else None for e, n in zip(entries, needs)], self.pooled)
        self.own = np.zeros((len(entries), NUMBERS))
        self.zeros = []
        super().__init__(entries, state)

    def needs_sums(self, entries):
        return [entries[0].group["non_finite"] != "unchecked"] * len(entries)

    # State is in DTensors, and the plan has their parts.

    def take_state(self, state):
        views = {}
        for entry in self.entries:
            own = state.get(entry.whole)
            if own:
                self.check_cut(entry, own)
                views[entry.p] = entry.own_parts(own)
        self.state = state
        super().take_state(views)
        self.indices = np.arange(len(self.entries))[self.live]
        self.instead = {i: self.stand_in(i) for i in np.flatnonzero(~self.is_here)}
        for i, pointers in zip(self.indices, self.kept):
            if i in self.instead:
                for n, name in enumerate(self.planes[i]):
                    if name != "pooled" or i not in self.pooled:
                        pointers[n] = self.instead[i][n]
        # Both have versions for autograd.
        self.live_params = [x for entry in self.live_entries for x in (entry.p, entry.whole)]
        live = set(map(id, self.live_entries))
        self.without_state = [e for e in self.entries if id(e) not in live]
        self.keep_state()

    def stand_in(self, i):
        """What a plan has of a parameter that is not here: addresses for its planes, its gradient and
        its elements, where there are none. Where a chain of zeros is stepped, the plane of pooled
        sums alone is real."""
        count, addresses = 0, [NO_ELEMENTS] * (len(self.planes[i]) + 2)
        if i in self.pooled:
            count = math.prod(self.entries[i].own.shape)
            self.zeros.append(torch.zeros(len(addresses), count, dtype=torch.float64))
            addresses = list(map(data_ptr, self.zeros[-1]))
        self.fields["len"][i], self.fields["params"][i] = count, addresses[-1]
        return addresses

    def check_cut(self, entry, own):
        for name, x in own.items():
            if name in WHOLE:
                continue
            p = entry.whole
            if not isinstance(x, DTensor) or x.placements != p.placements or x.device_mesh != p.device_mesh:
                found = x.placements if isinstance(x, DTensor) else "no DTensor"
                raise ValueError(
                    f"{name!r} of {entry.name} has the placements {found}, and the parameter "
                    f"{p.placements}: state is cut as its parameter is"
                )

    def keep_state(self):
        """What the plan's views of state have got goes to the state itself."""
        self.owns = []
        for entry, view in zip(self.live_entries, self.states):
            own = self.state.setdefault(entry.whole, {})
            for name, x in view.items():
                if part(own.get(name)) is not x:
                    own[name] = x if name in WHOLE else like(entry.whole, x)
            self.owns.append(own)
        self.scalars = [own["scalars"].numpy() if "scalars" in own else None for own in self.owns]
        self.look_at_state()

    def state_addresses(self):
        # The first look is before the DTensors of state are there.
        own_of = zip(self.live_planes, getattr(self, "owns", ()))
        listed = [own[n] for planes, own in own_of for n in ("step", *planes, "scalars") if n in own]
        return [data_ptr(part(x)) for x in listed]

    def is_current(self):
        try:
            return (
                all(part(entry.whole) is entry.p for entry in self.entries)
                and list(map(data_ptr, self.params)) == self.addresses
                and self.state_addresses() == self.flat
                and all(entry.whole.grad is None for entry in self.without_state)
            )
        except (RuntimeError, TypeError):
            return False

    def take_betas(self, groups):
        taken = super().take_betas(groups)
        if taken:
            self.keep_state()
        return taken

    # Gradients.

    def gradients(self):
        grads, pointers = [], []
        for i, entry in zip(self.indices, self.live_entries):
            grad = entry.grad()
            if grad is not None:
                grad = self.gradient(entry, grad)
            grads.append(grad)
            there = self.instead[i][-2] if i in self.instead else None
            pointers.append(0 if grad is None else there or grad.data_ptr())
        return grads, pointers

    def not_finite(self):
        """The same answer on all processes."""
        own = super().not_finite()
        self.own[:] = own is not None
        if not self.sums.begin(self.own).finish().any():
            return None
        return own or "the gradient of another process is not finite; the step was skipped"

    def step(self, grad_scale):
        if self.non_finite != "unchecked" and (wrong := self.not_finite()):
            return wrong
        return super().step(grad_scale)


class ShardedCall(PartsCall):
    """The plan of DTensors that take SONew's update, and their steps in stages."""

    late = None

    def __init__(self, entries, state):
        first = entries[0].group
        self.grafts = first["graft"] != "none"
        self.is_lagged = is_lagged(first)
        self.lagged_damping = first["damping"] == "relative_lagged"
        self.largest_first = first["damping"] == "relative"
        # An update that was too long cannot be taken back from numbers of few bits.
        few = [e.p.dtype.itemsize < 4 and not e.own.master for e in entries]
        self.waits = not self.is_lagged or first["nesterov"]
        self.few = np.array(few)
        # They outlive a step, in which no buffer may share their memory.
        self.numbers = np.zeros((len(entries), 2))
        self.stage = c_int32()
        super().__init__(entries, state)

    def needs_sums(self, entries):
        return [True] * len(entries)

    def last_sums(self, takes_part):
        """Those of this step alone of each tensor whose chains are also elsewhere, by index: the
        second set of its plane."""
        found = {}
        for i, view in zip(self.indices, self.states):
            if i in self.pooled and takes_part[i]:
                plane = view["pooled"].view(-1)
                count = pooled_count(self.entries[i].group, self.entries[i].length())
                found[i] = plane[count : 2 * count]
        return found

    def scalars_before(self):
        """The scalars of all tensors; zeros where there are none."""
        found = np.zeros((len(self.entries), _structs.SCALARS))
        for i, own in zip(self.indices, self.scalars):
            if own is not None:
                found[i] = own
        return found

    def write_scalars(self, takes_part, numbers):
        """What a step leaves to the next of whole tensors, and the library knows of parts only."""
        for i, own in zip(self.indices, self.scalars):
            if own is None or not takes_part[i]:
                continue
            direction, reference, largest = numbers[i]
            if self.lagged_damping:
                own[LARGEST_SCALAR] = largest if math.isfinite(largest) else 0.0
            if self.is_lagged and self.grafts and not self.is_here[i]:
                ratio = math.sqrt(reference / direction) if direction > 0 else 0.0
                own[RATIO] = ratio if math.isfinite(ratio) else 0.0

    def step(self, grad_scale):
        self.finish()
        grads, pointers = self.gradients()
        self.grad_fields[self.live] = pointers
        self.number_fields[self.live] = self.counts + 1
        self.step_options.grad_scale = grad_scale
        copies = self.copy_in() if self.copies else ()
        handle = c_void_p()
        arguments = byref(self.step_options), 1, self.buffers, len(self.buffers), byref(handle)
        check(c().sonew_plan_stages_begin(self.plan, *arguments))
        try:
            wrong = self.stages(handle, copies)
        except BaseException:
            # The plan can be used again; what was written stays.
            c().sonew_stages_abort(handle)
            raise
        if wrong:
            return wrong
        takes_part = np.array(pointers, np.uint64) != 0
        self.counts[takes_part] += 1
        for p, copy in copies:
            p.copy_(copy)
        torch.autograd.graph.increment_version(self.live_params)
        return None

    def next(self, handle):
        """Goes on to the next stage. Returns what is wrong if a gradient is not finite."""
        numbers = self.numbers.ctypes.data_as(ctypes.POINTER(c_double))
        status = c().sonew_stages_next(handle, numbers, len(self.numbers), byref(self.stage))
        if status == _structs.NON_FINITE_GRADIENT:
            return c().sonew_last_error().decode()
        check(status)
        return None

    def stages(self, handle, copies):
        """Takes the stages of a step: all of them, or those up to the apply."""
        self.own[:] = 0
        # Whether something is to be reduced when the step is over, if it has no norms.
        is_left = bool(self.pooled)
        takes_part = self.grad_fields != 0
        before = self.scalars_before()
        while True:
            if wrong := self.next(handle):
                return wrong
            stage = self.stage.value
            if stage == GRADIENT_SQUARES:
                self.own[:, :2] = self.numbers
                self.numbers[:] = self.sums.begin(self.own).finish()[:, :2]
            elif stage == LARGEST:
                self.own[:, 2] = self.numbers[:, 0]
                unknown = takes_part & (before[:, LARGEST_SCALAR] == 0)
                if self.largest_first or unknown.any():
                    self.own[:, :2] = 0
                    self.own[:, 2] = self.sums.begin(self.own).finish()[:, 2]
                    self.numbers[:, 0] = self.own[:, 2]
                else:
                    is_left = True
            elif stage == NORMS:
                self.own[:, :2] = self.numbers
                late = Late(self, takes_part, handle)
                known = before[:, RATIO] > 0
                waits = takes_part & (self.few | ~known)
                if self.waits or waits.any() or copies:
                    late.finish()
                else:
                    self.late = late
                return None
            else:
                self.late = Late(self, takes_part, None, is_left)
                return None

    def finish(self):
        """Waits for sums that are under way, and ends the step that they are of."""
        late, self.late = self.late, None
        if late:
            late.finish()

    def discard(self):
        """Ends a step whose outcome is of no use any more."""
        late, self.late = self.late, None
        if late:
            late.discard()


class Late:
    """What is left of a step whose sums are under way, and of which parameters and state are
    written. The library reads gradients no more (but with Nesterov momentum, where the step waits),
    so that the program may free them; the call keeps everything else."""

    def __init__(self, call, takes_part, handle, is_left=True):
        self.call, self.takes_part, self.handle = call, takes_part, handle
        # Those of all processes take their place when the step has ended.
        self.places = call.last_sums(takes_part)
        self.reduction = (
            call.sums.begin(call.own, self.places) if is_left else Reduction(call.own.copy(), {}, [])
        )

    def finish(self):
        call = self.call
        try:
            numbers = self.reduction.finish()
            if self.handle:
                call.numbers[:] = numbers[:, :2]
                call.next(self.handle)
        except BaseException:
            c().sonew_stages_abort(self.handle)
            raise
        call.write_scalars(self.takes_part, numbers)
        for i, place in self.places.items():
            place.copy_(self.reduction.sums[i])

    def discard(self):
        try:
            self.reduction.finish()
        finally:
            c().sonew_stages_abort(self.handle)
