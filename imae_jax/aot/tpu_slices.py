"""TPU slices to compile for, and the properties of their chips."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
from jax.experimental import topologies

from imae_jax.errors import UserError, one_line
from imae_jax.runtime import stand_alone


class Chip(NamedTuple):
    """Properties of a chip (Google's Cloud TPU documentation).

    Attributes:
      memory: bytes of HBM.
      flops: peak FLOP/s in bfloat16.
      memory_rate: bytes per second from HBM.
      link_rate: bytes per second to all other chips.
      cores: the compiler's name of the core configuration; "megacore": two cores as one.
      directions: number of dimensions of a slice.
      most: largest number of chips in a slice.
    """

    memory: float
    flops: float
    memory_rate: float
    link_rate: float
    cores: str
    directions: int
    most: int


CHIPS = {
    "v4": Chip(32 * 2**30, 275e12, 1228e9, 300e9, "megacore", 3, 4096),
    "v5e": Chip(16 * 2**30, 197e12, 819e9, 200e9, "default", 2, 256),
    "v5p": Chip(95 * 2**30, 459e12, 2765e9, 600e9, "megacore", 3, 8960),
    "v6e": Chip(32 * 2**30, 918e12, 1640e9, 448e9, "default", 2, 256),
}


def devices_of(topology: str) -> tuple[Chip, Sequence[jax.Device]]:
    """Returns a slice's chip and its devices, for compilation only.

    Args:
      topology: chip and shape of the slice, such as "v5e:2x4" or "v4:2x2x2".
    Raises:
      UserError: if there is no such slice, or the TPU compiler is missing.
    """
    name, _, shape = topology.partition(":")
    sizes = shape.split("x")
    if name not in CHIPS or not all(size.isdecimal() and int(size) for size in sizes):
        raise UserError(
            f"--topology={topology!r} is not known: give cuda, or one of "
            f"{', '.join(CHIPS)} with its shape, such as v5e:2x4 or v4:2x2x2"
        )
    chip, count = CHIPS[name], math.prod(map(int, sizes))
    if len(sizes) != chip.directions or count > chip.most:
        raise UserError(
            f"--topology={topology!r} is no slice: chips of {name} lie in "
            f"{chip.directions} directions, at most {chip.most:,} of them"
        )
    stand_alone()
    # A slice of one chip is part of a host with 2x2.
    one_chip = {"chips_per_host_bounds": (1, 1, 1)} if {*sizes} == {"1"} else {}
    try:
        found = topologies.get_topology_desc(
            platform="tpu",
            topology_name=topology,
            chip_config_name=chip.cores,
            **one_chip,
        )
    except (RuntimeError, NotImplementedError, ValueError) as error:
        text = one_line(error)
        if "not installed" in text:
            raise UserError(
                "compiling for TPUs needs their compiler: pip install libtpu"
            ) from None
        raise UserError(f"--topology={topology!r} is no slice: {text[:200]}") from None
    return chip, found.devices
