"""Devices: one mesh, and where each thing lives on it."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp")
# Smaller arrays are copied: to gather them would cost more time than memory is saved.
MIN_SPLIT = 2**16


def make_mesh(devices: Sequence[jax.Device] | None = None, fsdp: int = 1) -> Mesh:
    """A mesh over `devices`, by default all; each has a part of the batch.

    Args:
      devices: their number is divisible by `fsdp`.
      fsdp: how many devices share one copy of what is trained, see `shares`; 1: each has
        its own, -1: all share one.
    """
    devices = jax.devices() if devices is None else devices
    fsdp = len(devices) if fsdp == -1 else fsdp
    shape = (len(devices) // fsdp, fsdp)
    # Neighbours in the mesh are neighbours in the machine.
    placed = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    return Mesh(placed, AXES)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Axis 0 split over every device."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """A full copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def shares(tree, mesh: Mesh):
    """Where parameters, optimiser state and teacher live: a sharding for each leaf.

    Split over the devices that share a copy, along the first axis that they divide: the
    last one is laid out in rows of 128 on a TPU, and a part of a row takes a whole one. A
    small leaf, or one without such an axis, is copied to each.
    """
    count = mesh.shape["fsdp"]

    def place(leaf) -> NamedSharding:
        axes = [axis for axis, length in enumerate(leaf.shape) if length % count == 0]
        if count == 1 or not axes or leaf.size < MIN_SPLIT:
            return replicated(mesh)
        return NamedSharding(mesh, PartitionSpec(*[None] * axes[0], "fsdp"))

    return jax.tree.map(place, tree)


def gather(tree, mesh: Mesh):
    """Inside a jitted step: every leaf whole on every device.

    Gradients come back in `shares`: a device receives the sum of its own part only.
    """

    @jax.custom_vjp
    def whole(tree):
        return jax.lax.with_sharding_constraint(tree, replicated(mesh))

    def backward(_, grads):
        return (jax.lax.with_sharding_constraint(grads, shares(grads, mesh)),)

    whole.defvjp(lambda tree: (whole(tree), None), backward)
    return whole(tree)


def compiler_options(mesh: Mesh) -> dict[str, str]:
    """What a step is compiled with, beyond the defaults.

    TPUs: gradients of shared parameters are summed and cut up in exchanges of many at once.
    By default that is a ring inside each product, which sends 9/8 of them in place of 7/8
    (on 8 chips).
    """
    is_tpu = mesh.devices.flat[0].platform == "tpu"
    if not is_tpu or mesh.shape["fsdp"] == 1:
        return {}
    return {"xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000"}


def in_parts(examples, count: int, mesh: Mesh):
    """Inside a jitted step: a batch in equal parts, each split over every device.

    Every `count`-th pair goes to the same part, so that nothing moves between devices.

    Args:
      examples: a pytree whose leaves are [B, ...], B divisible by 2 `count` devices.
      count: of parts.
      mesh: the devices.
    Returns:
      The leaves as [count, B / count, ...].
    """
    place = NamedSharding(mesh, PartitionSpec(None, AXES))

    def split(x: jax.Array) -> jax.Array:
        pairs = x.reshape(-1, count, 2, *x.shape[1:])
        parts = jnp.swapaxes(pairs, 0, 1).reshape(count, -1, *x.shape[1:])
        return jax.lax.with_sharding_constraint(parts, place)

    return jax.tree.map(split, examples)


def local_rows(sharding: NamedSharding, batch_size: int) -> np.ndarray:
    """Which rows of a batch this process's devices get, in order: what it has to supply."""
    parts = sharding.addressable_devices_indices_map((batch_size,)).values()
    rows = [np.arange(batch_size)[part] for part in parts]
    return np.unique(np.concatenate(rows))


def put(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """Places an array that every process holds; each sends what its own devices get."""
    return jax.make_array_from_callback(array.shape, sharding, lambda part: array[part])


def gather_from_shards(array: jax.Array, indices: jax.Array, mesh: Mesh) -> jax.Array:
    """`array[indices]` with both it and the result split over every device.

    Each device looks up what it holds, and one reduce-scatter brings the rows together:
    half of what XLA's own way (an all-reduce) sends.

    Args:
      array: [N, ...], N divisible by the number of devices.
      indices: [B] int, on every device; B divisible by the number of devices.
      mesh: the devices.
    Returns:
      [B, ...].
    """

    def local(rows, indices):
        places = indices - jax.lax.axis_index(AXES) * len(rows)
        is_here = (0 <= places) & (places < len(rows))
        found = rows[jnp.clip(places, 0, len(rows) - 1)]
        found = jnp.where(jnp.expand_dims(is_here, range(1, found.ndim)), found, 0)
        return jax.lax.psum_scatter(found, AXES, scatter_dimension=0, tiled=True)

    split, copies = PartitionSpec(AXES), PartitionSpec()
    specs = dict(in_specs=(split, copies), out_specs=split)
    return jax.shard_map(local, mesh=mesh, **specs)(array, indices)
