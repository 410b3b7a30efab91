"""Run folders: creation, locking and the stored config."""

import contextlib
import fcntl
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from imae_jax.distributed import processes
from imae_jax.errors import UserError
from imae_jax.models import layers
from imae_jax.storage import atomic_files, pytrees
from imae_jax.storage.atomic_files import CONFIG_FILE
from imae_jax.storage.local_paths import local_path

logger = logging.getLogger(__name__)

# Keys that a resumed run may change, since they do not affect the results. (A teacher that
# moved is recognized by its digest.)
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
    "data.files.label_maps",
    "data.on_bad_image",  # a run stopped by a bad image may resume without it
    "data.prefetch",
    "data.resident_gb",
    "data.sharded",
    "teacher.init",
    "train.accumulate",
    "train.steps_per_dispatch",
)

# Keys that older stored configs lack, by a key of the same section that these have, with
# the value that does as those runs did.
ADDED_KEYS: dict[str, dict[str, Any]] = {
    "augment.pad": {"pad_mode": "constant"},
    # Transparent images were refused.
    "data.files.image_size": {"background": None, "label_maps": ""},
    "log.every_steps": {"to": ("tensorboard",), "pictures_every": 0.0},
    "loss.distill_weight": {
        "contrast_weight": 0.0,
        "contrast_temperature": 0.1,
        "uniformity_weight": 0.0,
    },
    "loss.norm_pix": {"predict_fraction": 1.0},
    "mask.ratio": {"kind": "random", "content_weight": 0.0},
    "mix.alpha": {"sources": 2, "clean_fraction": 0.0},
    "model.decoder.width": {"attention": "self"},
}


def open_workdir(workdir: str | Path) -> Path:
    """Makes the folder; raises UserError if it cannot be written."""
    workdir = local_path(workdir, "workdir").absolute()
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        atomic_files.write_text(workdir / ".writable", "")
        (workdir / ".writable").unlink(missing_ok=True)  # maybe by another process
    except OSError as error:
        raise UserError(f"workdir {str(workdir)!r} cannot be written: {error}") from None
    return workdir


def read_config(workdir: str | Path) -> ConfigDict:
    """Reads the config of a run; raises UserError if there is none."""
    path = local_path(workdir, "workdir") / CONFIG_FILE
    found = atomic_files.read_json(path)
    if not isinstance(found, dict):
        raise UserError(f"{path} cannot be read: it holds no config")
    return config_of(found)


def config_of_checkpoint(workdir: Path, meta: Mapping) -> ConfigDict:
    """Returns the config of a run's checkpoint, whose own copy decides.

    A file of the run that differs from it, in keys that affect results, is named in one
    line of the log.

    Args:
      workdir: the run's folder.
      meta: the checkpoint's metadata; those of earlier versions may lack the config.
    Raises:
      UserError: if the run has no config.
    """
    written = read_config(workdir)
    if "config" not in meta:
        return written
    saved = config_of(meta["config"])
    if lines := _differences(saved, written, "in the checkpoint, which counts"):
        logger.warning(f"{workdir / CONFIG_FILE} is not as trained: {lines}")
        return saved
    return written


def config_of(found: Mapping) -> ConfigDict:
    """Inverse of `as_json`; adds the keys that configs of earlier versions lack."""
    config = ConfigDict(_lists_as_tuples(found))
    for known, added in ADDED_KEYS.items():
        *sections, key = known.split(".")
        section = config
        for name in sections:
            section = section.get(name)
            section = section if isinstance(section, ConfigDict) else ConfigDict()
        for name, value in added.items():
            if key in section and name not in section:
                section[name] = value
    return config


def without_added_keys(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves out, of flat keys, those of `ADDED_KEYS` with the value of earlier runs."""
    earlier = {
        f"{known.rpartition('.')[0]}.{name}": value
        for known, added in ADDED_KEYS.items()
        for name, value in added.items()
    }
    return {
        key: value
        for key, value in flat.items()
        if key not in earlier or _lists_as_tuples(value) != earlier[key]
    }


def _lists_as_tuples(value: Any) -> Any:
    """Converts lists to tuples: JSON has no tuples, and flags cannot override lists."""
    if isinstance(value, dict):
        return {key: _lists_as_tuples(item) for key, item in value.items()}
    return tuple(value) if isinstance(value, list) else value


def settle_dtype(configs: Iterable[ConfigDict], folders: Iterable[Path]) -> None:
    """Replaces `compute.dtype="auto"` by the same type in all configs.

    The type is that of the runs stored in the folders, if they agree, otherwise the one
    that is faster on this machine. The first process decides for all.
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
    dtype = layers.DTYPES[processes.broadcast_from_first(dtype == layers.DTYPES[1])]
    here = {"cpu": "processor"}.get(platform, platform.upper())
    why = "as what has begun there" if is_stored else f"which this {here} computes faster"
    logger.info(f"compute.dtype={layers.AUTO}: {dtype}, {why}")
    for section in sections:
        section.dtype = dtype


def check_same_config(
    config: ConfigDict, workdir: Path, stored: ConfigDict | None = None
) -> None:
    """Raises UserError naming the differences if the workdir's run has another config.

    Args:
      config: the config given.
      workdir: the run's folder.
      stored: the run's config; None: that of its file. A run without a checkpoint, refused
        or stopped before its first, has nothing that another config could spoil.
    """
    has_begun = any((workdir / "checkpoints").glob("[0-9]*"))
    if stored is None and has_begun and (workdir / CONFIG_FILE).exists():
        stored = read_config(workdir)
    if stored is not None and (lines := _differences(stored, config, "there")):
        raise UserError(
            f"workdir {str(workdir)!r} holds a run of another config: {lines}. Take "
            "another workdir, or the same config"
        )


def _differences(stored: ConfigDict, given: ConfigDict, where: str) -> str:
    """Lists the keys that differ and affect results; `where` says where `stored` is."""
    stored, given = (pytrees.flatten(as_json(config)) for config in (stored, given))
    # The data of an imported run are unknown, so it may be evaluated on any.
    is_imported = any(key.startswith("imported.") for key in stored.keys() & given.keys())
    return "; ".join(
        f"{key} is {stored.get(key, 'absent')!r} {where}, {given.get(key, 'absent')!r} here"
        for key in sorted(stored.keys() | given.keys())
        if stored.get(key) != given.get(key)
        # No image of a run without a background was transparent.
        and (key != "data.files.background" or stored.get(key) is not None)
        and not key.startswith(("data.", *NEUTRAL_KEYS) if is_imported else NEUTRAL_KEYS)
    )


def as_json(config: ConfigDict) -> dict:
    """Converts a config to JSON types: tuples become lists, references are resolved."""
    return json.loads(config.to_json())


@contextlib.contextmanager
def exclusive_lock(workdir: Path) -> Iterator[None]:
    """Holds an exclusive lock on the workdir.

    Raises:
      UserError: if another command holds it.
    """
    if not processes.is_first():  # only the first process writes
        yield
        return
    with contextlib.ExitStack() as stack:
        try:
            with atomic_files.without("two commands may write into one workdir"):
                file = stack.enter_context(open(workdir / ".lock", "wb"))
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"workdir {str(workdir)!r} is being written by another process; wait for "
                "its end, or take another workdir"
            ) from None
        yield  # closing the file ends the lock
