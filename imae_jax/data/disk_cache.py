"""Disk cache of computed arrays, in `$XDG_CACHE_HOME/imae_jax` (`~/.cache/imae_jax`).

The folder may be deleted at any time.
"""

import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from imae_jax.runtime import folder

logger = logging.getLogger(__name__)

# Version of the cached content: increase it when the computation changes.
FORMAT = 3
NAMES_FILE = "names.json"


def cached(
    key: Mapping, make: Callable[[], Mapping[str, np.ndarray]]
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
    try:
        return _read(place)
    except (OSError, ValueError):  # not there, or damaged
        arrays = make()
    try:
        _write(arrays, place)
        return _read(place)
    except OSError as error:
        logger.warning("nothing cached in %s: %s", place, error)
        return arrays


def _read(place: Path) -> dict[str, np.ndarray]:
    names = json.loads((place / NAMES_FILE).read_text())
    return {
        name: np.load(place / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        for name in names
    }


def _write(arrays: Mapping[str, np.ndarray], place: Path) -> None:
    """Writes the arrays as one folder, atomically."""
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=place.parent, prefix=".writing-"))
    try:
        for name, array in arrays.items():
            np.save(temporary / f"{name}.npy", array, allow_pickle=False)
        (temporary / NAMES_FILE).write_text(json.dumps(list(arrays)))
        shutil.rmtree(place, ignore_errors=True)
        try:
            temporary.rename(place)
        except OSError:
            if not place.is_dir():  # another process was first
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
