"""Folders of data sets prepared by TFDS or by a builder of ours: where they lie."""

import contextlib
import hashlib
import io
import logging
import os
from pathlib import Path

import tensorflow_datasets as tfds

from imae_jax import runtime
from imae_jax.data.builders.download import FromArchive
from imae_jax.data.builders.registry import BUILDERS
from imae_jax.errors import UserError, one_line

logger = logging.getLogger(__name__)

INFO_FILE = "dataset_info.json"


def is_writable(folder: Path) -> bool:
    """True if the folder can be written to and is not marked read-only."""
    return bool(folder.stat().st_mode & 0o222) and os.access(folder, os.W_OK)


def prepare(name: str, data_dir: Path) -> Path:
    """Returns the folder of a prepared data set, preparing it first if necessary.

    It is in `data_dir`, or in the cache folder if `data_dir` is read-only.

    Raises:
      UserError: if `data_dir` cannot be made, or the data set cannot be prepared.
    """
    version = str(BUILDERS[name].VERSION)
    base = data_dir
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        own = hashlib.sha256(str(data_dir.resolve()).encode()).hexdigest()[:12]
        elsewhere = runtime.folder() / "prepared" / own
        for base in (data_dir, elsewhere):
            if (base / name / version / INFO_FILE).exists():
                return base / name / version
        base = data_dir if is_writable(data_dir) else elsewhere
        if base != data_dir:
            logger.info(
                f"data.dir={str(data_dir)!r} is read-only: {name} is prepared in {base}"
            )
            base.mkdir(parents=True, exist_ok=True)
        options = dict(data_dir=base, file_format="array_record")
        if issubclass(BUILDERS[name], FromArchive):
            options["archive_dir"] = data_dir
        builder = BUILDERS[name](**options)
        tfds.disable_progress_bar()
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS prints about downloads
            builder.download_and_prepare()
    except (OSError, RuntimeError) as error:  # the latter of array_record, of a full disk
        if not (base / name / version / INFO_FILE).exists():  # nor by another process
            message = f"data.dir={str(data_dir)!r} cannot be used: {one_line(error)[:300]}"
            raise UserError(message) from error
    return base / name / version


def versions(folder: Path) -> dict[tfds.core.Version, Path]:
    """Folders of the prepared versions directly in a folder, by version."""
    return {
        tfds.core.Version(path.parent.name): path.parent
        for path in folder.glob(f"*/{INFO_FILE}")
        if tfds.core.Version.is_valid(path.parent.name)
    }


def find_copy(name: str, data_dir: Path) -> Path | None:
    """Folder of the newest prepared version of a data set in `data_dir`, or None."""
    found = versions(data_dir / name)
    return found[max(found)] if found else None
