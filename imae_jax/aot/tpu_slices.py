"""TPU slices that are not here: which chips they have, and what a chip can do."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
from jax.experimental import topologies

from imae_jax.errors import UserError
from imae_jax.runtime import stand_alone


class Chip(NamedTuple):
    """What the maker says of a chip (Google's Cloud TPU documentation).

    Attributes:
      memory: bytes of HBM.
      flops: products and sums of bfloat16 in a second, at most.
      memory_rate, link_rate: bytes in a second, from HBM and to all other chips.
      cores: how the compiler sees its cores; "megacore": two as one.
      directions: in which chips lie in a slice.
      most: chips in a slice.
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
    """A slice's chip, and its devices, that programs can be compiled for but not run on.

    Args:
      topology: such as "v5e:2x4" or "v4:2x2x2": the chip, and how many lie in each
        direction.
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
    # A slice smaller than a host's 2x2 chips is a part of one.
    one_chip = {"chips_per_host_bounds": (1, 1, 1)} if {*sizes} == {"1"} else {}
    try:
        found = topologies.get_topology_desc(
            platform="tpu",
            topology_name=topology,
            chip_config_name=chip.cores,
            **one_chip,
        )
    except (RuntimeError, NotImplementedError, ValueError) as error:
        text = " ".join(str(error).split())
        if "not installed" in text:
            raise UserError(
                "compiling for TPUs needs their compiler: pip install libtpu"
            ) from None
        raise UserError(f"--topology={topology!r} is no slice: {text[:200]}") from None
    return chip, found.devices
