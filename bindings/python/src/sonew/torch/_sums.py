"""Numbers of tensors of which each process holds a part, reduced over these processes: in one
collective for all tensors.

Three numbers of each tensor are gathered. Pooled sums, which are many, are added up by an
all-reduce, whose bytes do not grow with the number of processes; numbers that are reduced at the
same time travel in it."""

from itertools import product

import numpy as np
import torch
import torch.distributed as dist

# The numbers of a tensor: two sums, and a maximum.
NUMBERS = 3
# A float64 as integers that float32 holds exactly.
WORDS = 4


def cut_dims(placements, mesh):
    """The dimensions of a mesh that cut a tensor with these placements."""
    return [d for d, x in enumerate(placements) if not x.is_replicate() and mesh.size(d) > 1]


def holders(x):
    """The ranks that hold the parts of a DTensor beside this process, in the order of the mesh;
    None if each process has the whole."""
    mesh = x.device_mesh
    cut, at = cut_dims(x.placements, mesh), mesh.get_coordinate()
    if not cut:
        return None
    ranges = [range(mesh.size(d)) if d in cut else [at[d]] for d in range(mesh.ndim)]
    return tuple(int(mesh.mesh[place]) for place in product(*ranges))


_groups = {}


def group_of(ranks):
    """The process group of some ranks, made by all of them where there is none yet."""
    world = dist.group.WORLD
    if len(ranks) == dist.get_world_size():
        return world
    key = tuple(sorted(ranks))
    made_in, group = _groups.get(key, (None, None))
    if made_in is not world:
        group = dist.new_group(list(key), use_local_synchronization=True)
        _groups[key] = world, group
    return group


class Gathering:
    """The tensors whose numbers travel together."""

    def __init__(self, ranks, device_type):
        self.group = group_of(ranks)
        self.places = {rank: i for i, rank in enumerate(dist.get_process_group_ranks(self.group))}
        kinds = [device.type for device in self.group._device_types]
        self.device = "cpu" if "cpu" in kinds else device_type
        # The holders of some tensors, by their places in the group, and which tensors these are.
        self.parts = {}
        # The tensors with pooled sums.
        self.pooled = []

    def begin(self, numbers, sums):
        own = [sums[i] for i in self.pooled if i in sums]
        if own:
            return self.begin_with_sums(numbers, own)
        own = torch.from_numpy(numbers.reshape(1, -1).copy()).to(self.device)
        found = own.new_empty(len(self.places), own.numel())
        return dist.all_gather_into_tensor(found, own, group=self.group, async_op=True), found

    def begin_with_sums(self, numbers, own):
        """Numbers are in rows of words, of which each process has one and zeros in all others: they
        are not added up, and come out as they were."""
        wide = torch.float64 if any(x.dtype == torch.float64 for x in own) else torch.float32
        words = numbers.reshape(-1).view(np.uint16)
        rows = torch.zeros(len(self.places), len(words), dtype=wide)
        rows[self.places[dist.get_rank()]] = torch.from_numpy(words.astype(np.float64)).to(wide)
        found = torch.cat([rows.flatten(), *(x.flatten().to(wide) for x in own)]).to(self.device)
        return dist.all_reduce(found, group=self.group, async_op=True), found

    def take(self, found, sums):
        """The numbers of each process, and the reduced sums of each tensor that has some."""
        found = found.cpu()
        own = {i: sums[i] for i in self.pooled if i in sums}
        if not own:
            return found.numpy().reshape(len(self.places), -1, NUMBERS), own
        counts = [x.numel() for x in own.values()]
        words, *totals = found.split([found.numel() - sum(counts), *counts])
        numbers = words.numpy().astype(np.uint16).view(np.float64)
        totals = {i: x.view(own[i].shape) for i, x in zip(own, totals)}
        return numbers.reshape(len(self.places), -1, NUMBERS), totals


class Sums:
    """How the numbers of a list of tensors are reduced. Numbers are gathered, and added in the
    order of the ranks that hold the parts: every process gets the same bits, whatever a
    collective does. Processes that hold another copy of the same part do not take part."""

    def __init__(self, tensors, pooled=()):
        """Of DTensors, and None in the place of those that need no sums. `pooled` are the indices
        of those that have pooled sums, too."""
        of = [None if x is None else holders(x) for x in tensors]
        with_sums = {of[i] for i in pooled}
        distinct = sorted(set(of) - {None}, key=lambda ranks: (-len(ranks), ranks))
        self.gatherings, hosts = [], {}
        for ranks in distinct:
            # Those of a smaller set of ranks travel with those of a larger one that has them all,
            # but for pooled sums, which an all-reduce adds up over all of its ranks.
            larger = (h for h in hosts if set(ranks) <= set(h))
            host = ranks if ranks in with_sums else next(larger, ranks)
            if host is ranks:
                kind = next(x for x, own in zip(tensors, of) if own == ranks).device_mesh.device_type
                hosts[ranks] = Gathering(ranks, kind)
                self.gatherings.append(hosts[ranks])
            gathering = hosts[host]
            indices = np.array([i for i, own in enumerate(of) if own == ranks])
            gathering.parts[tuple(gathering.places[rank] for rank in ranks)] = indices
            gathering.pooled += [i for i in indices if i in pooled]

    def begin(self, numbers, sums=None):
        """Begins to reduce numbers, NUMBERS of each tensor, and pooled sums: a dict from the indices
        of tensors."""
        sums = sums or {}
        return Reduction(numbers.copy(), sums, [(g, *g.begin(numbers, sums)) for g in self.gatherings])


class Reduction:
    """Sums under way."""

    def __init__(self, numbers, sums, under_way):
        self.numbers, self.sums, self.under_way = numbers, sums, under_way

    def finish(self):
        """The reduced numbers; reduced sums are in `sums` then. Those of tensors that are whole here
        are as they were."""
        for gathering, work, found in self.under_way:
            work.wait()
            found, totals = gathering.take(found, self.sums)
            self.sums = {**self.sums, **totals}
            for places, indices in gathering.parts.items():
                own = found[np.array(places)][:, indices]
                total = own[0, :, :2]
                for more in own[1:]:
                    total = total + more[:, :2]
                self.numbers[indices, :2] = total
                self.numbers[indices, 2] = np.fmax.reduce(own[:, :, 2], axis=0)
        self.under_way = []
        return self.numbers
