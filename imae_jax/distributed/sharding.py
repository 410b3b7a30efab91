"""Device mesh and shardings of batches, parameters and images."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp")
# Smaller arrays are replicated: gathering them is not worth the memory saved.
MIN_SPLIT = 2**16


def make_mesh(devices: Sequence[jax.Device] | None = None, fsdp: int = 1) -> Mesh:
    """Makes the device mesh; the batch is split over all its devices.

    Args:
      devices: default: all. Their number is divisible by `fsdp`.
      fsdp: number of devices that share one copy of the parameters, see
        `fsdp_shardings`; 1: each has its own, -1: all share one.
    """
    devices = jax.devices() if devices is None else devices
    fsdp = len(devices) if fsdp == -1 else fsdp
    shape = (len(devices) // fsdp, fsdp)
    # Neighbours in the mesh are physical neighbours.
    placed = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    return Mesh(placed, AXES)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Sharding with axis 0 split over all devices."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """Sharding with a full copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def fsdp_shardings(tree: Any, mesh: Mesh) -> Any:
    """FSDP sharding of each leaf of parameters, optimizer state or teacher.

    A leaf is split along its first axis that is divisible by the number of devices sharing
    a copy: TPUs pad the last axis to multiples of 128. Small leaves, and those without
    such an axis, are replicated.
    """
    count = mesh.shape["fsdp"]

    def place(leaf: Any) -> NamedSharding:
        axes = [axis for axis, length in enumerate(leaf.shape) if length % count == 0]
        if count == 1 or not axes or leaf.size < MIN_SPLIT:
            return replicated(mesh)
        return NamedSharding(mesh, PartitionSpec(*[None] * axes[0], "fsdp"))

    return jax.tree.map(place, tree)


def all_gather_params(tree: Any, mesh: Mesh) -> Any:
    """Gathers every leaf on every device, inside jit.

    Gradients are reduce-scattered to `fsdp_shardings`.
    """

    @jax.custom_vjp
    def whole(tree: Any) -> Any:
        return jax.lax.with_sharding_constraint(tree, replicated(mesh))

    def backward(_: None, grads: Any) -> tuple[Any]:
        return (jax.lax.with_sharding_constraint(grads, fsdp_shardings(grads, mesh)),)

    whole.defvjp(lambda tree: (whole(tree), None), backward)
    return whole(tree)


def compiler_options(mesh: Mesh) -> dict[str, str]:
    """Compiler options of a training step that differ from the defaults.

    On TPUs, gradients of FSDP parameters are reduce-scattered in combined collectives. By
    default XLA uses a ring inside each matrix product, which sends 9/8 instead of 7/8 of
    them (on 8 chips).
    """
    is_tpu = mesh.devices.flat[0].platform == "tpu"
    if not is_tpu or mesh.shape["fsdp"] == 1:
        return {}
    return {"xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000"}


def split_microbatches(examples: Any, count: int, group_size: int, mesh: Mesh) -> Any:
    """Splits a batch into microbatches, each sharded over all devices, inside jit.

    Every `count`-th group goes to the same microbatch, so nothing moves between devices.

    Args:
      examples: a pytree with leaves [B, ...], B divisible by `group_size` * `count` *
        devices.
      count: number of microbatches.
      group_size: number of adjacent examples that stay together.
      mesh: device mesh.
    Returns:
      A pytree with leaves [count, B / count, ...].
    """
    place = NamedSharding(mesh, PartitionSpec(None, AXES))

    def split(x: jax.Array) -> jax.Array:
        groups = x.reshape(-1, count, group_size, *x.shape[1:])
        parts = jnp.swapaxes(groups, 0, 1).reshape(count, -1, *x.shape[1:])
        return jax.lax.with_sharding_constraint(parts, place)

    return jax.tree.map(split, examples)


def local_rows(sharding: NamedSharding, batch_size: int) -> np.ndarray:
    """Sorted indices of the batch rows on this process's devices, which it must supply."""
    parts = sharding.addressable_devices_indices_map((batch_size,)).values()
    rows = [np.arange(batch_size)[part] for part in parts]
    return np.unique(np.concatenate(rows))


def put(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """Places an array that every process holds on the devices."""
    return jax.make_array_from_callback(array.shape, sharding, lambda part: array[part])


def first_copy(x: jax.Array | np.ndarray) -> jax.Array | np.ndarray:
    """Returns one copy of an array that every device of a single process has whole.

    To be saved: of an array on several devices Orbax saves a slice from each, and compiles
    one for every shape, ten seconds at the first save of a small network.
    """
    if jax.process_count() == 1 and isinstance(x, jax.Array) and x.is_fully_replicated:
        return x.addressable_data(0)
    return x


def gather_from_shards(array: jax.Array, indices: jax.Array, mesh: Mesh) -> jax.Array:
    """Returns `array[indices]`, with array and result split over all devices.

    Each device looks up the rows that it holds, and a reduce-scatter combines them: half
    the traffic of XLA's default, an all-reduce.

    Args:
      array: [N, ...], N divisible by the number of devices.
      indices: [B] int, replicated; B divisible by the number of devices.
      mesh: device mesh.
    Returns:
      [B, ...].
    """

    def local(rows: jax.Array, indices: jax.Array) -> jax.Array:
        places = indices - jax.lax.axis_index(AXES) * len(rows)
        is_here = (0 <= places) & (places < len(rows))
        found = rows[jnp.clip(places, 0, len(rows) - 1)]
        found = jnp.where(jnp.expand_dims(is_here, range(1, found.ndim)), found, 0)
        return jax.lax.psum_scatter(found, AXES, scatter_dimension=0, tiled=True)

    split, copies = PartitionSpec(AXES), PartitionSpec()
    gather = jax.shard_map(local, mesh=mesh, in_specs=(split, copies), out_specs=split)
    return gather(array, indices)
