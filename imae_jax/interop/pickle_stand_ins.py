"""Stand-ins for what training scripts pickle beside weights; nothing of it is run.

A stand-in has the name of a type and none of its code, so that a file with, for example, an
OmegaConf config can be read without OmegaConf and without trusting it.
"""

import contextlib
import pickletools
import re
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np

# Types that hold settings and numbers.
_HARMLESS = re.compile(
    r"argparse\.Namespace|types\.SimpleNamespace"
    r"|numpy\.(_?core\.(multiarray|numeric)\.)?"
    r"(scalar|dtype|ndarray|_reconstruct|_frombuffer|dtypes\.\w+DType)"
    r"|omegaconf\.[\w.]+"
    r"|pathlib\.(_local\.)?\w*Path"
    r"|datetime\.(datetime|date|time|timedelta|timezone)"
    r"|collections\.(defaultdict|deque)"
    r"|typing\.\w+"
    r"|(builtins|__builtin__)\.(bool|bytes|complex|dict|float|int|list|object|range|set"
    r"|slice|str|tuple)"
)


class StandIn:
    """Object of an unknown type; its attributes are those that the file states."""

    def __new__(cls, *args: Any, **options: Any) -> Any:
        """Ignores all arguments."""
        return super().__new__(cls)

    def __init__(self, *args: Any, **options: Any):
        """Ignores all arguments."""

    def __setstate__(self, state: Any) -> None:
        """Takes attributes from a dict, and ignores another state."""
        if isinstance(state, dict):
            self.__dict__.update({str(key): value for key, value in state.items()})


class _Dtype(StandIn):
    """Stands for numpy.dtype."""

    order = "<"

    def __init__(self, name: Any = None, *args: Any):
        self.name = name

    def __setstate__(self, state: Any) -> None:
        """Takes the byte order from NumPy's tuple."""
        if isinstance(state, tuple) and state[1:2] == (">",):
            self.order = ">"


class _Number:
    """Stands for a NumPy number: becomes one of Python's."""

    def __new__(cls, dtype: Any = None, data: Any = None) -> Any:
        name = getattr(dtype, "name", None)
        is_known = isinstance(name, str) and re.fullmatch("[fiub][1248]", name)
        if not is_known or not isinstance(data, bytes):
            return StandIn()
        value = np.frombuffer(data, np.dtype(dtype.order + name))
        return value.item() if value.size == 1 else StandIn()


class _Dict:
    """Stands for collections.defaultdict: becomes a dict."""

    def __new__(cls, *args: Any) -> Any:
        return {}


_KINDS = {"scalar": _Number, "dtype": _Dtype, "defaultdict": _Dict}


def of_file(path: Path) -> list[type]:
    """Makes stand-ins for the harmless types that a file of PyTorch's names."""
    made = []
    for full_name in sorted(_globals(path)):
        if _HARMLESS.fullmatch(full_name):
            module, _, name = full_name.rpartition(".")
            base = _KINDS.get(name, StandIn)
            place = {"__module__": module, "__qualname__": name}
            made.append(type(name, (base,), place))
    return made


def _globals(path: Path) -> set[str]:
    """Lists the dotted names of all types and functions in a file's pickles."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            return set().union(*(_globals_of(archive.open(name), 1) for name in names))
    with open(path, "rb") as file:
        return _globals_of(file, 4)  # the older format has the objects in the fourth


def _globals_of(file: IO[bytes], count: int) -> set[str]:
    found = set()
    # What cannot be parsed is named by PyTorch.
    with contextlib.suppress(Exception):
        for _ in range(count):
            for opcode, argument, _ in pickletools.genops(file):
                if opcode.name == "GLOBAL":
                    found.add(str(argument).replace(" ", "."))
    return found
