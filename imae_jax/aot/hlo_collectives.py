"""Parses the collectives of a compiled program from its HLO text."""

import collections
import math
import re
from collections.abc import Mapping
from typing import NamedTuple

KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
ITEM_SIZES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2}
ITEM_SIZES |= {"f32": 4, "s32": 4, "u32": 4, "f64": 8, "s64": 8, "u64": 8}

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) .*\{$")
_INSTRUCTION = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(-start)?\(")
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_CALLED = re.compile(
    r"(?:calls|body|to_apply|true_computation|false_computation)=%?([\w.-]+)"
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


class Collective(NamedTuple):
    """A collective operation between all devices or groups of them.

    Attributes:
      kind: one of `KINDS`.
      nbytes: bytes of the full arrays that are summed or gathered.
      times: number of executions per step.
      origin: operation in our code that it comes from, according to the compiler.
    """

    kind: str
    nbytes: int
    times: int
    origin: str

    @property
    def sent(self) -> float:
        """Bytes sent per device, for many devices: an all-reduce counts twice."""
        return self.times * self.nbytes * (2 if self.kind == "all-reduce" else 1)


def read(text: str) -> list[Collective]:
    """Parses the collectives of a compiled module, `Compiled.as_text()`, in order."""
    lines = _lines_of(text)
    times = _times(lines)
    found, seen = [], set()
    for name, body in lines.items():
        for line in body if times[name] else ():
            match = _INSTRUCTION.search(line)
            if match is None:
                continue
            written, kind, is_start = match.groups()
            # An overlapped collective is listed with each piece of the overlapped work.
            channel = re.search(r"channel_id=(\d+)", line)
            if channel and kind == "all-gather":
                if channel[1] in seen:
                    continue
                seen.add(channel[1])
            nbytes = _nbytes(written, kind, bool(is_start))
            if kind == "reduce-scatter":  # the text has one device's part
                nbytes *= _group_size(line)
            elif kind == "all-reduce" and "reduce-scatter" in name:
                kind = "reduce-scatter"  # fused on TPUs
            origin = re.search(r'op_name="([^"]*)"', line)
            text_of = origin[1].replace("\\", "") if origin else ""
            found.append(Collective(kind, nbytes, times[name], text_of))
    return found


def _lines_of(text: str) -> dict[str, list[str]]:
    """Splits the text into the instructions of each computation; "" is the entry."""
    found: dict[str, list[str]] = {}
    current = None
    for line in text.splitlines():
        match = _COMPUTATION.match(line)
        if match:
            current = found.setdefault("" if match[1] else match[2], [])
        elif current is not None and line.startswith(" "):
            current.append(line)
    return found


def _times(lines: Mapping[str, list[str]]) -> Mapping[str, int]:
    """Number of executions of each computation per step."""
    times: collections.Counter[str] = collections.Counter()

    def visit(name: str, count: int) -> None:
        times[name] += count
        for line in lines[name]:
            trips = _TRIPS.search(line)
            each = count * (int(trips[1]) if trips and " while(" in line else 1)
            for called in _CALLED.findall(line):
                if called in lines:
                    visit(called, each)

    visit("", 1)
    return times


def _nbytes(written: str, kind: str, is_start: bool) -> int:
    arrays = [
        math.prod(map(int, filter(None, sizes.split(",")))) * ITEM_SIZES[item]
        for item, sizes in _ARRAY.findall(written)
        if item in ITEM_SIZES
    ]
    if is_start and kind == "collective-permute":  # two context values at the end
        arrays = arrays[:-2] if len(arrays) > 2 else arrays
    if is_start and kind != "all-reduce":  # inputs, then outputs
        arrays = arrays[len(arrays) // 2 :]
    return sum(arrays)


def _group_size(line: str) -> int:
    """Number of devices in a group of the collective."""
    if match := re.search(r"replica_groups=\[\d+,(\d+)\]", line):
        return int(match[1])
    if match := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return len(match[1].split(","))
    match = re.search(r"replica_groups=mesh\[(.*?)\] \{(.*?)\}", line)
    if match is None:
        raise ValueError(f"the groups of a collective cannot be read: {line.strip()}")
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", match[1]))
    return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", match[2]))
