"""Numbers of tensors of which each process holds a part, reduced over these processes: in one
collective for all tensors."""

from itertools import product

import numpy as np
import torch
import torch.distributed as dist

# The numbers of a tensor: two sums, and a maximum.
NUMBERS = 3


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

    def begin(self, numbers):
        own = torch.from_numpy(numbers.reshape(1, -1).copy()).to(self.device)
        found = own.new_empty(len(self.places), own.numel())
        return dist.all_gather_into_tensor(found, own, group=self.group, async_op=True), found


class Sums:
    """How the numbers of a list of tensors are reduced. Numbers are gathered, and added in the
    order of the ranks that hold the parts: every process gets the same bits, whatever a
    collective does. Processes that hold another copy of the same part do not take part."""

    def __init__(self, tensors):
        """Of DTensors, and None in the place of those that need no sums."""
        of = [None if x is None else holders(x) for x in tensors]
        distinct = sorted(set(of) - {None}, key=lambda ranks: (-len(ranks), ranks))
        self.gatherings, hosts = [], {}
        for ranks in distinct:
            # Those of a smaller set of ranks travel with those of a larger one that has them all.
            host = next((h for h in hosts if set(ranks) <= set(h)), ranks)
            if host is ranks:
                kind = next(x for x, own in zip(tensors, of) if own == ranks).device_mesh.device_type
                hosts[ranks] = Gathering(ranks, kind)
                self.gatherings.append(hosts[ranks])
            gathering = hosts[host]
            indices = np.array([i for i, own in enumerate(of) if own == ranks])
            gathering.parts[tuple(gathering.places[rank] for rank in ranks)] = indices

    def begin(self, numbers):
        """Begins to reduce numbers, NUMBERS of each tensor."""
        return Reduction(numbers.copy(), [(g, *g.begin(numbers)) for g in self.gatherings])


class Reduction:
    """Sums under way."""

    def __init__(self, numbers, under_way):
        self.numbers, self.under_way = numbers, under_way

    def finish(self):
        """The reduced numbers. Those of tensors that are whole here are as they were."""
        for gathering, work, found in self.under_way:
            work.wait()
            found = found.cpu().numpy().reshape(len(gathering.places), -1, NUMBERS)
            for places, indices in gathering.parts.items():
                own = found[np.array(places)][:, indices]
                total = own[0, :, :2]
                for more in own[1:]:
                    total = total + more[:, :2]
                self.numbers[indices, :2] = total
                self.numbers[indices, 2] = np.fmax.reduce(own[:, :, 2], axis=0)
        self.under_way = []
        return self.numbers
