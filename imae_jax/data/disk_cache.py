"""Disk cache of computed arrays, in `$XDG_CACHE_HOME/imae_jax` (`~/.cache/imae_jax`).

The folder may be deleted at any time. An entry is a folder of one `.npy` file per array and
an index with their checksums; one that is not exactly as written is made again.
"""

import contextlib
import functools
import hashlib
import json
import logging
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from imae_jax.runtime import folder
from imae_jax.storage import atomic_files

logger = logging.getLogger(__name__)

# Version of the cached content: increase it when the computation changes.
FORMAT = 4
INDEX_FILE = "index.json"


def cached(
    key: Sequence, make: Callable[[], Mapping[str, np.ndarray]]
) -> Mapping[str, np.ndarray]:
    """Returns the arrays of `make`, from the cache if `key` is in it.

    Cached arrays are memory-mapped, so processes share them. If the cache cannot be
    written, the arrays are returned uncached.

    Args:
      key: everything that the arrays depend on, JSON-serializable.
      make: returns arrays by name.
    """
    text = json.dumps([FORMAT, key], sort_keys=True)
    place = folder() / hashlib.sha256(text.encode()).hexdigest()[:32]
    if os.path.lexists(place):
        try:
            return _read(place, text)
        except (OSError, ValueError) as error:
            logger.warning("cache %s is damaged (%s): made again", place, error)
            _discard(place)
    arrays = make()
    try:
        _write(arrays, place, text)
        return _read(place, text)
    except (OSError, ValueError) as error:
        logger.warning("nothing cached in %s: %s", place, error)
        return arrays


def _read(place: Path, key: str) -> dict[str, np.ndarray]:
    """Opens an entry's arrays; raises OSError or ValueError unless all is as written."""
    checksum, _, text = (place / INDEX_FILE).read_bytes().partition(b"\n")
    if checksum != _line(text):
        raise ValueError(f"{INDEX_FILE} is not what was written")
    index = json.loads(text)
    if index["key"] != key:
        raise ValueError("it belongs elsewhere")
    arrays = {}
    for name, checksum in index["checksums"].items():
        with open(place / f"{name}.npy", "rb") as file:
            if _checksum(file) != checksum:
                raise ValueError(f"{name}.npy is not what was written")
        arrays[name] = np.load(file.name, mmap_mode="r", allow_pickle=False)
    return arrays


def _write(arrays: Mapping[str, np.ndarray], place: Path, key: str) -> None:
    """Writes an entry as one folder, atomically; one that is there is kept."""
    place.parent.mkdir(parents=True, exist_ok=True)
    atomic_files.remove_abandoned(place.parent, atomic_files.UNFINISHED)
    temporary = Path(tempfile.mkdtemp(dir=place.parent, prefix=atomic_files.UNFINISHED))
    try:
        checksums = {}
        for name, array in arrays.items():
            with open(temporary / f"{name}.npy", "w+b") as file:
                np.save(file, array, allow_pickle=False)
                atomic_files.sync(file)
                file.seek(0)
                checksums[name] = _checksum(file)
        text = json.dumps(dict(key=key, checksums=checksums)).encode()
        with open(temporary / INDEX_FILE, "wb") as file:
            file.write(_line(text) + b"\n" + text)
            atomic_files.sync(file)
        try:
            temporary.rename(place)
        except OSError:
            if not place.is_dir():  # another process was first
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _checksum(file: IO[bytes]) -> int:
    """CRC-32 of an open file: several times as fast as a cryptographic digest."""
    return functools.reduce(
        lambda sum, part: zlib.crc32(part, sum), iter(lambda: file.read(2**20), b""), 0
    )


def _line(text: bytes) -> bytes:
    """First line of an index: the CRC-32 of the rest."""
    return b"%08x" % zlib.crc32(text)


def _discard(place: Path) -> None:
    """Removes an entry, moved away first, so that nobody finds half of it."""
    aside: dict[str, Any] = dict(prefix=".damaged-", ignore_cleanup_errors=True)
    # An error: another process was first, or the cache cannot be written.
    with (
        contextlib.suppress(OSError),
        tempfile.TemporaryDirectory(dir=place.parent, **aside) as temporary,
    ):
        place.rename(Path(temporary) / place.name)
