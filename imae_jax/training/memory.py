"""Memory: how much of it is free, and whether a compiled step fits into it.

Asked for before it is taken: a system that runs out kills the process without a word.
"""

import ctypes
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax

from imae_jax.errors import UserError


class Room(NamedTuple):
    """Memory that a process can still take, in bytes, and whose limit that is."""

    free: int
    limited_by: str


def room(device: jax.Device) -> Room | None:
    """The memory that is free on a device; None where nothing says so.

    Of a CPU that is the machine's memory, or what the limits of the process's cgroups
    leave of it, and what the process itself has freed and kept.
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
    """The room in each memory cgroup that the process is in, its own and those above."""
    found = []
    for line in _text(own).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        base = root if not controllers else root / "memory"
        names = ("memory.max", "memory.current")
        if controllers:  # version 1
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        # In a container the path may be that of the host, which is not there.
        below = [base / path.lstrip("/"), *(base / path.lstrip("/")).parents]
        for folder in below[: below.index(base) + 1]:
            limit, used = (_text(folder / name).strip() for name in names)
            if not (limit.isdecimal() and used.isdecimal()):
                continue
            # Cached files are given up for the asking.
            stat = _text(folder / "memory.stat")
            cached = re.search(r"^(?:total_)?inactive_file (\d+)", stat, re.MULTILINE)
            free = int(limit) - int(used) + int(cached[1] if cached else 0)
            found.append(Room(free, "of the limit of its cgroup"))
    return found


def _kept(status: Path = Path("/proc/self/status")) -> int:
    """Bytes that the process has freed but not given back, which it takes again first.

    See `startup.keep_memory`. 0 where the C library does not tell.
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
    """Bytes that a compiled step takes on each device beside its arguments."""
    found = compiled.memory_analysis()
    if found is None:
        return 0
    new = found.output_size_in_bytes - found.alias_size_in_bytes
    return new + found.temp_size_in_bytes + found.generated_code_size_in_bytes


def over_limit(error: jax.errors.JaxRuntimeError) -> tuple[int, int] | None:
    """(bytes needed, bytes there are), where a TPU's compiler refuses a step for them."""
    used = re.search(r"Used ([\d.]+)([MG]) of ([\d.]+)([MG]) hbm", str(error))
    if used is None:
        return None
    units = {"M": 2**20, "G": 2**30}
    peak, limit = (int(float(used[i]) * units[used[i + 1]]) for i in (1, 3))
    return peak, limit


class Fitting:
    """A jitted training step that is compiled, and held against memory, at its first call.

    Its result is the step's.
    """

    def __init__(
        self,
        make_step: Callable[[int], Callable],
        devices: list[jax.Device],
        *,
        batch_size: int,
        accumulate: int,
        may_accumulate: bool,
    ):
        """Compiles nothing yet.

        Args:
          make_step: `train.accumulate` -> the jitted step.
          devices: of the mesh.
          batch_size, accumulate: of `train`.
          may_accumulate: whether more of it computes the same update.
        """
        self._make_step, self._devices = make_step, devices
        self._batch_size, self._accumulate = batch_size, accumulate
        self._may_accumulate = may_accumulate
        self._compiled = None

    def __call__(self, *arguments):
        """A step; raises UserError before the first that would not fit."""
        if self._compiled is None:
            self._compiled = self._checked(arguments)
        return self._compiled(*arguments)

    def _checked(self, arguments) -> jax.stages.Compiled:
        own = [x for x in self._devices if x.process_index == jax.process_index()]
        available = room(own[0])
        # Those of a CPU share its memory, from which a save takes a copy of the state, too.
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
            return step
        free, limited_by = available
        raise UserError(
            f"train.batch_size={self._batch_size}: a step takes {in_words(need)} more "
            f"memory, and {in_words(free)} {limited_by} are free; "
            + self._remedy(need, free, needed)
        )

    def _remedy(self, need: int, free: int, needed) -> str:
        """Says with which microbatch a step fits, found by compiling."""
        whole = self._batch_size // (2 * len(self._devices))
        for parts in range(self._accumulate + 1, whole + 1):
            # Temporaries grow with the microbatch, at the most.
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
    """Bytes as people read them: "1.3 GiB", "47.0 MiB"."""
    size, unit = (2**30, "GiB") if nbytes >= 2**30 else (2**20, "MiB")
    return f"{nbytes / size:,.1f} {unit}"
