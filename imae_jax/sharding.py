"""Devices: one mesh, and where each thing lives on it."""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp")


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over `devices`, by default all: the batch is split, parameters are copied."""
    devices = np.asarray(jax.devices() if devices is None else devices)
    return Mesh(devices.reshape(-1, 1), AXES)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Axis 0 split over every device."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """A full copy on every device: parameters, optimiser state, teacher."""
    return NamedSharding(mesh, PartitionSpec())
