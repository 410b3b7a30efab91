"""Folders of runs: opened, owned by one command at a time, and the config of each."""

import contextlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import filelock
import jax
from ml_collections import ConfigDict

from imae_jax.distributed import processes
from imae_jax.errors import UserError
from imae_jax.models import layers
from imae_jax.storage import atomic_files, pytrees
from imae_jax.storage.atomic_files import CONFIG_FILE
from imae_jax.storage.local_paths import local_path

logger = logging.getLogger(__name__)

# A resumed run may change these: they do not touch what is computed. (A teacher that
# moved is recognised by its digest.)
NEUTRAL_KEYS = (
    "checkpoint.",
    "compute.attention",
    "compute.remat",
    "compute.scan",
    "log.",
    "mesh.",
    "evals.",
    "explorer.",
    "data.dir",
    "data.evaluate_on.",
    "data.on_bad_image",  # who met a bad image may go on without it
    "data.prefetch",
    "data.resident_gb",
    "data.sharded",
    "teacher.init",
    "train.accumulate",
    "train.steps_per_dispatch",
)

# Came later than the first runs that were stored; without it, transparent images could not
# be used, so those runs had none.
ADDED_KEYS = ("data.files.background",)


def open_workdir(workdir: str | Path) -> Path:
    """Makes the folder; raises UserError if it cannot be written."""
    workdir = local_path(workdir, "workdir").absolute()
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        atomic_files.write_text(workdir / ".writable", "")
        (workdir / ".writable").unlink(missing_ok=True)  # by whoever is first
    except OSError as error:
        raise UserError(f"workdir {str(workdir)!r} cannot be written: {error}") from None
    return workdir


def read_config(workdir: str | Path) -> ConfigDict:
    """The stored config of a run; raises UserError if there is none."""
    return config_of(atomic_files.read_json(Path(workdir).expanduser() / CONFIG_FILE))


def config_of(found: Mapping) -> ConfigDict:
    """Inverse of `as_json`."""
    return ConfigDict(_lists_as_tuples(found))


def _lists_as_tuples(value):
    """JSON has no tuples, and flags override no lists."""
    if isinstance(value, dict):
        return {key: _lists_as_tuples(item) for key, item in value.items()}
    return tuple(value) if isinstance(value, list) else value


def settle_dtype(configs: Iterable[ConfigDict], folders: Iterable[Path]) -> None:
    """Puts a type in the place of `compute.dtype="auto"`, the same one in all configs.

    That of the runs that have begun in one of the folders, if they have one and the same;
    otherwise what the machine computes faster. Of several processes the first decides.
    """
    sections = [config.compute for config in configs if "compute" in config]
    sections = [section for section in sections if section.dtype == layers.AUTO]
    if not sections:
        return
    begun = [folder for folder in folders if (folder / CONFIG_FILE).exists()]
    stored = {read_config(folder).compute.dtype for folder in begun} - {layers.AUTO}
    platform = jax.default_backend()
    is_stored = len(stored) == 1
    dtype = stored.pop() if is_stored else layers.fastest_type(platform)
    dtype = layers.DTYPES[processes.first_says(dtype == layers.DTYPES[1])]
    here = {"cpu": "processor"}.get(platform, platform.upper())
    why = "as what has begun there" if is_stored else f"which this {here} computes faster"
    logger.info(f"compute.dtype={layers.AUTO}: {dtype}, {why}")
    for section in sections:
        section.dtype = dtype


def check_same_config(config: ConfigDict, workdir: Path) -> None:
    """Raises UserError if the workdir holds a run of another config, naming the keys."""
    if not (workdir / CONFIG_FILE).exists():
        return
    stored = pytrees.flatten(as_json(read_config(workdir)))
    given = pytrees.flatten(as_json(config))
    # What an imported run was trained on is not known; it may be measured on anything.
    is_imported = any(key.startswith("imported.") for key in stored.keys() & given.keys())
    differences = [
        f"{key} is {stored.get(key, 'absent')!r} there, {given.get(key, 'absent')!r} here"
        for key in sorted(stored.keys() | given.keys())
        if stored.get(key) != given.get(key)
        and (key in stored or key not in ADDED_KEYS)
        and not key.startswith(("data.", *NEUTRAL_KEYS) if is_imported else NEUTRAL_KEYS)
    ]
    if differences:
        raise UserError(
            f"workdir {str(workdir)!r} holds a run of another config: "
            + "; ".join(differences)
            + ". Take another workdir, or the same config"
        )


def as_json(config: ConfigDict) -> dict:
    """The config as JSON would give it back: tuples are lists, references resolved."""
    return json.loads(config.to_json())


@contextlib.contextmanager
def owned(workdir: Path) -> Iterator[None]:
    """Inside, no other command writes into the workdir.

    Raises:
      UserError: if one does already.
    """
    if not processes.is_first():  # the first one writes, for all
        yield
        return
    lock = filelock.FileLock(workdir / ".lock", blocking=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise UserError(
            f"workdir {str(workdir)!r} is being written by another process; wait for its "
            "end, or take another workdir"
        ) from None
    except NotImplementedError:
        pass  # a file system that knows no locks
    try:
        yield
    finally:
        lock.release()
