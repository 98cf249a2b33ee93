"""Checkpoints that programs in other languages can also read and write.

`optimizer.state_dict()` and torch.save are for PyTorch alone. These functions use the library's
own safetensors file, so that a run can move between PyTorch, JAX, C, C++ and Julia.
"""

import json
import os
import socket
import uuid
from collections.abc import Sequence
from typing import Optional, Union

import torch

from .._optimizer import Optimizer as Handle
from .._optimizer import Path
from ._call import common_options, own_options, step_count
from ._optimizer import SONew
from ._options import pooled_shape


def save(path: Path, optimizer: SONew) -> None:
    """Saves parameters and state of an optimizer to a file of the library.

    The file is first written under a temporary name, and replaces `path` when it is complete
    and on disk. A tensor has the name of its parameter, for which the optimizer was made with
    `model.named_parameters()`.

    Where parameters are DTensors that are cut along their first dimension, all processes call
    this, each with a path of its own, and a file has the rows that its process holds.
    Otherwise one process calls it.

    Args:
      path: the file, which is replaced if it exists.
      optimizer: the optimizer. All groups must agree in the options that are the same for
        all tensors of a file: graft, statistics, damping, bias_correction,
        graft_bias_correction, lagged_norms, nesterov, pooling, rank, rounding and seed.

    Raises:
      LibraryError: the file cannot be written; the message has the reason.
      ValueError: the groups differ in such an option, parameters have no names, a parameter is
        cut along another dimension, or two processes have the same path.
    """
    optimizer.synchronize()
    entries = listed(optimizer)
    with handle_of(optimizer, entries) as handle:
        put(handle, optimizer, entries)
        if any(entry.own.whole_rows for entry in entries):
            handle.set_text(SAVE, name_of_save(path))
        handle.save(path, [held(e).data_ptr() for e in entries])


# The text by which the files of one save know each other.
SAVE = "sonew.torch.save"


def name_of_save(path):
    """A name that the processes of a save agree on. They must save to different files."""
    import torch.distributed as dist

    place = socket.gethostname(), os.path.abspath(os.fsdecode(path))
    found = [None] * dist.get_world_size()
    dist.all_gather_object(found, (place, uuid.uuid4().hex))
    places = [place for place, _ in found]
    for rank, place in enumerate(places):
        if place in places[:rank]:
            raise ValueError(
                f"ranks {places.index(place)} and {rank} save to the same file, {place[1]}: each "
                "has other rows, and needs a path of its own"
            )
    return found[0][1]


def check_set(paths):
    """Refuses files of different saves."""
    names = [save_of(path) for path in paths]
    for path, name in zip(paths, names):
        if name != names[0]:
            raise ValueError(
                f"{os.fsdecode(paths[0])} and {os.fsdecode(path)} are of different saves: a set of "
                "files is of one"
            )


def save_of(path):
    """The save that a file is of, or None. What is no file of the library is left to it."""
    try:
        with open(path, "rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        return header["__metadata__"].get(f"sonew.text.{SAVE}")
    except (OSError, ValueError, KeyError, MemoryError, OverflowError):
        return None


def load(
    path: Union[Path, Sequence[Path]],
    optimizer: SONew,
    *,
    rename: Optional[dict[str, str]] = None,
    overrides: Sequence[str] = (),
    override_options: bool = False,
    common_tensors_only: bool = False,
    convert_state: bool = False,
) -> None:
    """Loads parameters and state from a file that `save`, or a program in another language,
    wrote. Parameters are written in place. Learning rates are those of the optimizer.

    Args:
      path: the file; or all files of a save by several processes, of which this one reads the
        rows that it holds, however many processes there were.
      optimizer: an optimizer for parameters of the same names, shapes and types, with the same
        options.
      rename: a dict from names in the file to names of parameters.
      overrides: options in which the file may differ, by the names that a refusal gives; the
        optimizer keeps its own.
      override_options: the same for all options.
      common_tensors_only: load the tensors that are in both, and keep the others.
      convert_state: convert state of another type.

    Raises:
      LibraryError: the file is missing or damaged, or does not match the optimizer; the message
        has the reason, and nothing has changed.
      ValueError: the files are of different saves.
    """
    paths = [path] if isinstance(path, (str, bytes, os.PathLike)) else list(path)
    check_set(paths)
    optimizer.synchronize()
    entries = listed(optimizer)
    with handle_of(optimizer, entries) as handle:
        put(handle, optimizer, entries)
        copies = [held(e).clone() for e in entries]
        handle.load(
            paths[0],
            [x.data_ptr() for x in copies],
            rename=rename,
            overrides=overrides,
            override_options=override_options,
            common_tensors_only=common_tensors_only,
            convert_state=convert_state,
            more=paths[1:],
        )
        get(handle, optimizer, entries)
        with torch.no_grad():
            for entry, copy in zip(entries, copies):
                entry.p.copy_(copy)
    optimizer._forget()


def listed(optimizer):
    """The parameters of an optimizer, as a plan has them."""
    entries = []
    for g, group in enumerate(optimizer.param_groups):
        optimizer._complete(group)
        group.setdefault("initial_betas", tuple(map(float, group["betas"])))
        names = group.get("param_names")
        if names is None:
            raise ValueError(
                "a file identifies tensors by name: make the optimizer with model.named_parameters()"
            )
        entries += [optimizer._entry(g, i, name) for i, name in enumerate(names)]
    for entry in entries:
        entry.own.first_row, entry.own.whole_rows = entry.rows()
    return entries


def held(entry):
    """The numbers of a parameter on the CPU, in the order of the file."""
    p = entry.p.detach()
    return entry.placed(p.cpu() if p.device.type != "cpu" else p)


def handle_of(optimizer, entries):
    """An optimizer of the C API for these parameters."""
    common = [common_options(group) for group in optimizer.param_groups]
    for g, options in enumerate(common):
        for name, value in options.items():
            if value != common[0][name]:
                raise ValueError(
                    f"{name} is {common[0][name]!r} in group 0 and {value!r} in group {g}: a file "
                    "has one value for all tensors"
                )
    options = common[0] | own_options(optimizer.param_groups[0])
    options["threads"] = 1
    # SONew's own have weight_decay in the settings of each tensor.
    first = optimizer.param_groups[0]
    options["weight_decay"] = float(first["weight_decay"])
    if all(entry.own.options == entries[0].own.options for entry in entries):
        for entry in entries:
            entry.own.options = {}
    return Handle([entry.own for entry in entries], **options)


def put(handle, optimizer, entries):
    """Copies the state into the handle."""
    planes, kept = [], []
    for i, entry in enumerate(entries):
        own = entry.own_parts(optimizer.state.get(entry.whole) or {})
        for name, zeros in handle.planes(i).items():
            plane = own.get(name.replace("band.", "band_"))
            if plane is None and name == "master":
                plane = entry.p.detach().float()
            if plane is None:
                kept.append(zeros.copy())
                planes.append(kept[-1].ctypes.data)
                continue
            plane = plane.detach().cpu()
            plane = plane.contiguous() if name == "pooled" else entry.placed(plane)
            kept.append(plane)
            planes.append(plane.data_ptr())
    states = [optimizer.state.get(entry.whole) or {} for entry in entries]
    counts = [int(own.get("step", 0)) for own in states]
    handle.set_state(max(counts), planes)
    for i, (entry, own, count) in enumerate(zip(entries, states, counts)):
        changes = {"step_count": count, "weight_decay": float(entry.group["weight_decay"])}
        if "scalars" in own:
            changes["scalars"] = own["scalars"].tolist()
        handle.set_settings(i, **changes)


def get(handle, optimizer, entries):
    """Copies the state of the handle into tensors."""
    for i, entry in enumerate(entries):
        settings = handle.settings(i)
        if settings.step_count == 0 and not optimizer.state.get(entry.whole):
            continue
        own = {"step": step_count(settings.step_count)}
        for name, array in handle.planes(i).items():
            kind = torch.float32 if name in ("master", "pooled") else getattr(torch, entry.own.state_dtype)
            if name == "pooled" and torch.float64 in (kind, entry.p.dtype):
                kind = torch.float64
            flat = torch.from_numpy(array.copy().reshape(-1))
            flat = flat.view(kind) if flat.dtype != kind else flat
            if name == "pooled":
                own[name] = flat.reshape(pooled_shape(entry.group, entry.length())).to(entry.p.device)
                continue
            plane = entry.zeros(None, kind)
            (plane if entry.is_copied else plane.permute(entry.order)).copy_(
                flat.reshape(entry.p.shape if entry.is_copied else entry.own.shape)
            )
            own[name.replace("band.", "band_")] = plane
        if any(settings.scalars):
            own["scalars"] = torch.tensor(list(settings.scalars), dtype=torch.float64, device="cpu")
        optimizer.state[entry.whole] = entry.of_parts(own)
