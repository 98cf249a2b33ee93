"""How arrays are sharded over devices: outside of `jax.shard_map`, and inside."""

import jax
from jax.experimental.shard_alike import shard_alike
from jax.sharding import NamedSharding, PartitionSpec

if hasattr(jax.sharding, "reshard"):
    from jax.sharding import reshard
else:
    from jax.experimental.shard import reshard


def explicit(array):
    """The sharding that is part of an array's type, on a mesh with explicit axes;
    None if the array is not sharded, or only the compiler knows how."""
    sharding = jax.typeof(array).sharding
    return sharding if any(axes is not None for axes in sharding.spec) else None


def gathered(array):
    """An array of which every device has the whole, as far as that is part of its
    type; otherwise the compiler gathers it where it has to."""
    sharding = explicit(array)
    if sharding is None:
        return array
    return reshard(array, NamedSharding(sharding.mesh, PartitionSpec(*[None] * array.ndim)))


def placed(array, sharding):
    """A value, placed like this: in a program that is compiled, and outside."""
    if isinstance(array, jax.core.Tracer):
        if any(kind == jax.sharding.AxisType.Explicit for kind in sharding.mesh.axis_types):
            return reshard(array, sharding)
        return jax.lax.with_sharding_constraint(array, sharding)
    return jax.device_put(array, sharding)


def how_cut(value):
    """How an array is cut, for `partition_specs`: a PartitionSpec stays, and an array
    is cut as it lies on its devices. None: it is whole."""
    if value is None or isinstance(value, PartitionSpec):
        return value
    sharding = value if isinstance(value, jax.sharding.Sharding) else explicit_or_own(value)
    if sharding is None or isinstance(sharding, NamedSharding):
        return sharding
    if isinstance(sharding, jax.sharding.SingleDeviceSharding):
        return None
    raise TypeError(
        f"partition_specs has an array with a {type(sharding).__name__}, must be a NamedSharding"
    )


def explicit_or_own(array):
    if isinstance(array, jax.core.Tracer):
        return explicit(array)
    return getattr(array, "sharding", None)


def on_one_mesh(names, cuts):
    """The NamedSharding of each leaf, if arrays are given that are cut for the step; None
    if those of the step are parts, as inside of `jax.shard_map`."""
    meshes = {}
    for name, cut in zip(names, cuts):
        if isinstance(cut, NamedSharding):
            meshes.setdefault(cut.mesh, name)
    if not meshes or is_manual():
        return None
    if len(meshes) > 1:
        some, other = list(meshes.values())[:2]
        raise ValueError(f"partition_specs has {some!r} and {other!r} on different meshes")
    (mesh,) = meshes
    of = lambda cut: cut.spec if isinstance(cut, NamedSharding) else cut or PartitionSpec()
    return [NamedSharding(mesh, of(cut)) for cut in cuts]


def alike(old, new):
    """A result, sharded as its operand was."""
    sharding = explicit(old)
    if sharding is not None:
        return reshard(new, sharding)
    if is_manual() or old.ndim == 0:
        return new
    # On a mesh with automatic axes: the compiler would leave it replicated.
    return shard_alike(old, new)[1]


def is_manual():
    """Whether this is inside of `jax.shard_map`, where arrays are parts."""
    mesh = jax.sharding.get_abstract_mesh()
    return any(kind == jax.sharding.AxisType.Manual for kind in mesh.axis_types)


def axes_of(array):
    """The manual axes that a value varies over, under shard_map."""
    aval = jax.typeof(array)
    axes = getattr(aval, "vma", None)
    if axes is None:
        axes = getattr(getattr(aval, "manual_axis_type", None), "varying", None)
    return frozenset(axes or ())


def union(*arrays):
    return frozenset().union(*map(axes_of, arrays))


def varying(array, axes):
    """Marks a value that is the same on all devices of these axes as varying."""
    axes = tuple(axes - axes_of(array))
    if not axes:
        return array
    if hasattr(jax.lax, "pcast"):
        return jax.lax.pcast(array, axes, to="varying")
    return jax.lax.pvary(array, axes)
