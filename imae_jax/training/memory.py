"""Memory checks: free memory, and whether a compiled step fits.

Checked in advance, since a system that runs out of memory kills the process silently.
"""

import ctypes
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from imae_jax.errors import UserError


class Room(NamedTuple):
    """Free memory, in bytes, and the limit that it is measured against, in words."""

    free: int
    limited_by: str


def room(device: jax.Device) -> Room | None:
    """Returns the free memory of a device; None if unknown.

    For a CPU, the machine's available memory or what the process's cgroups allow, plus
    memory that the process has freed but not returned.
    """
    if device.platform != "cpu":
        stats = device.memory_stats() or {}
        if "bytes_limit" not in stats:
            return None
        free = stats["bytes_limit"] - stats.get("bytes_in_use", 0)
        return Room(free, f"of {device.device_kind}")
    found = [x for x in (_of_machine(), *_of_cgroups()) if x is not None]
    if not found:
        return None
    least = min(found)
    return Room(least.free + _kept(), least.limited_by)


def _of_machine(meminfo: Path = Path("/proc/meminfo")) -> Room | None:
    found = re.search(r"^MemAvailable:\s+(\d+) kB", _text(meminfo), re.MULTILINE)
    return found and Room(1024 * int(found[1]), "of this machine")


def _of_cgroups(
    root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> list[Room]:
    """Returns the free memory of the process's memory cgroup and its ancestors."""
    found = []
    for line in _text(own).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        base = root if not controllers else root / "memory"
        names = ("memory.max", "memory.current")
        if controllers:  # version 1
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        # In a container the path may be the host's, which does not exist.
        below = [base / path.lstrip("/"), *(base / path.lstrip("/")).parents]
        for folder in below[: below.index(base) + 1]:
            limit, used = (_text(folder / name).strip() for name in names)
            if not (limit.isdecimal() and used.isdecimal()):
                continue
            # The kernel reclaims cached files when needed.
            stat = _text(folder / "memory.stat")
            cached = re.search(r"^(?:total_)?inactive_file (\d+)", stat, re.MULTILINE)
            free = int(limit) - int(used) + int(cached[1] if cached else 0)
            found.append(Room(free, "of the limit of its cgroup"))
    return found


def _kept(status: Path = Path("/proc/self/status")) -> int:
    """Returns the bytes that the process has freed but not returned to the system.

    They are reused first, see `runtime.tune_malloc`. 0 if the C library does not tell.
    """
    resident = re.search(r"^RssAnon:\s+(\d+) kB", _text(status), re.MULTILINE)
    mallinfo = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if not resident or mallinfo is None:
        return 0
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    fields = [(name, ctypes.c_size_t) for name in names.split()]
    mallinfo.restype = type("mallinfo2", (ctypes.Structure,), {"_fields_": fields})
    found = mallinfo()
    return max(1024 * int(resident[1]) - found.uordblks - found.hblkhd, 0)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def new_bytes(compiled: jax.stages.Compiled) -> int:
    """Returns the bytes that a compiled step needs per device, besides its arguments."""
    found = compiled.memory_analysis()
    if found is None:
        return 0
    new = found.output_size_in_bytes - found.alias_size_in_bytes
    return new + found.temp_size_in_bytes + found.generated_code_size_in_bytes


def over_limit(error: jax.errors.JaxRuntimeError) -> tuple[int, int] | None:
    """Returns (bytes needed, bytes available) from a TPU compiler's out-of-memory error."""
    used = re.search(r"Used ([\d.]+)([MG]) of ([\d.]+)([MG]) hbm", str(error))
    if used is None:
        return None
    units = {"M": 2**20, "G": 2**30}
    peak, limit = (int(float(used[i]) * units[used[i + 1]]) for i in (1, 3))
    return peak, limit


class Fitting:
    """A training step that is compiled, and checked to fit into memory, at its first call.

    Takes the step's arguments and returns its result.
    """

    def __init__(
        self,
        make_step: Callable[[int], jax.stages.Wrapped],
        devices: list[jax.Device],
        *,
        batch_size: int,
        group_size: int,
        accumulate: int,
        may_accumulate: bool,
    ):
        """Stores the arguments; compiles nothing yet.

        Args:
          make_step: number of microbatches -> the jitted step.
          devices: devices of the mesh.
          batch_size, accumulate: see the config's `train` section.
          group_size: number of images that stay together, see `Objective`.
          may_accumulate: True if more microbatches give the same update.
        """
        self._make_step, self._devices = make_step, devices
        self._batch_size, self._accumulate = batch_size, accumulate
        self._group_size, self._may_accumulate = group_size, may_accumulate
        self._compiled: jax.stages.Compiled | None = None

    def __call__(self, *arguments: Any) -> Any:
        """Runs a step; raises UserError before the first one if it does not fit."""
        if self._compiled is None:
            self._compiled = self._checked(arguments)
        return self._compiled(*arguments)

    def _checked(self, arguments: tuple) -> jax.stages.Compiled:
        own = [x for x in self._devices if x.process_index == jax.process_index()]
        available = room(own[0])
        # CPU devices share memory, in which saving also makes a copy of the state.
        shared = len(own) if own[0].platform == "cpu" else 1
        copy = 0
        if own[0].platform == "cpu":
            leaves = jax.tree.leaves(arguments[0])
            copy = sum(s.data.nbytes for x in leaves for s in x.addressable_shards[:1])

        def needed(accumulate: int) -> tuple[int, jax.stages.Compiled | None]:
            try:
                step = self._make_step(accumulate).lower(*arguments).compile()
            except jax.errors.JaxRuntimeError as error:
                found = over_limit(error)
                if found is None or available is None:
                    raise
                peak, limit = found
                return peak - limit + available.free, None
            return shared * new_bytes(step) + copy, step

        need, step = needed(self._accumulate)
        if available is None or need <= available.free:
            assert step is not None, "one that does not fit needs more than is free"
            return step
        free, limited_by = available
        raise UserError(
            f"train.batch_size={self._batch_size}: a step takes {in_words(need)} more "
            f"memory, and {in_words(free)} {limited_by} are free; "
            + self._remedy(need, free, needed)
        )

    def _remedy(self, need: int, free: int, needed: Callable) -> str:
        """Returns a hint on the microbatch that fits, found by compiling."""
        whole = self._batch_size // (self._group_size * len(self._devices))
        for parts in range(self._accumulate + 1, whole + 1):
            # Temporaries grow at most linearly with the microbatch.
            if whole % parts or need * self._accumulate / parts > free and parts < whole:
                continue
            taken, _ = needed(parts)
            if taken > free:
                continue
            smaller = f"train.batch_size={self._batch_size // parts}"
            if not self._may_accumulate:
                return f"{smaller} fits, with {in_words(taken)}"
            return (
                f"train.accumulate={parts} fits, with {in_words(taken)}, and makes the "
                f"same update; or take {smaller}"
            )
        return (
            "no smaller batch fits either: take a smaller model (model.variant, "
            "model.encoder, model.decoder), smaller images or a larger machine"
        )


def in_words(nbytes: int) -> str:
    """Formats bytes, such as "1.3 GiB" or "47.0 MiB"."""
    size, unit = (2**30, "GiB") if nbytes >= 2**30 else (2**20, "MiB")
    return f"{nbytes / size:,.1f} {unit}"
