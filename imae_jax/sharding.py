"""Devices: one mesh, and where each thing lives on it."""

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp")


def make_mesh() -> Mesh:
    """A mesh over all devices; the batch is split over them, parameters are copied."""
    devices = np.asarray(jax.devices()).reshape(-1, 1)
    return Mesh(devices, AXES)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Axis 0 split over every device."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """A full copy on every device: parameters, optimiser state, teacher."""
    return NamedSharding(mesh, PartitionSpec())
