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
