"""Reads what a report shows of the runs in a folder: small JSON files, and no arrays."""

import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from imae_jax.errors import UserError, describe
from imae_jax.storage import atomic_files, pytrees
from imae_jax.storage.atomic_files import CONFIG_FILE, EVAL_FILE, LEFT_OUT, SETTINGS_FILE
from imae_jax.storage.checkpoint import newest_meta
from imae_jax.storage.metrics_log import METRICS_FILE, is_line, read_metrics

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class SavedRun:
    """The checked contents of a run's folder.

    Attributes:
      folder: its workdir.
      config: of `config.json`.
      metrics: lines of `metrics.jsonl`, which may be none.
      results: of `eval.json`; None if it has not been evaluated.
      settings: of `eval_settings.json`, by metric.
      left_out: {evaluator: why `eval.json` lacks it}.
      step, meta: of the newest checkpoint that can be read; None and empty without one.
    """

    folder: Path
    config: Mapping[str, Any]
    metrics: list[dict]
    results: Mapping[str, float] | None
    settings: Mapping[str, Mapping]
    left_out: Mapping[str, str]
    step: int | None
    meta: Mapping[str, Any]

    @property
    def outdated(self) -> str:
        """A note if some numbers are of an earlier checkpoint, as after a resume."""
        found = {entry.get("checkpoint") for entry in self.settings.values()}
        steps = sorted(x for x in found if isinstance(x, int) and x != self.step)
        if not steps or self.step is None:
            return ""
        said = " and ".join(f"{x:,}" for x in steps)
        return (
            f"measured after {said} steps, while the run has {self.step:,}: run eval again"
        )


def read_runs(workdir: Path) -> tuple[dict[str, SavedRun], dict[str, str]]:
    """Reads the runs of a folder: of itself and of its subfolders.

    Links that lead out of the folder are not followed.

    Returns:
      The runs by name, and {name of one that cannot be read: the reason}.
    """
    return _each(workdir, CONFIG_FILE, lambda folder: _read(folder, workdir))


def read_studies(workdir: Path, file: str) -> tuple[dict[str, dict], dict[str, str]]:
    """Reads the JSON `file` of each study as `read_runs` reads the runs."""

    def read(folder: Path) -> dict:
        return _mapping(_inside(folder / file, workdir))

    return _each(workdir, file, read)


def _each(workdir: Path, file: str, read: Callable[[Path], Any]) -> tuple[dict, dict]:
    """Reads the folders that have a file; returns (what was read, reasons) by name."""
    found, broken = {}, {}
    for folder in _folders(workdir):
        if not (folder / file).exists():
            continue
        try:
            _inside(folder, workdir)
            found[folder.name] = read(folder)
        # A file of JSON may hold any types.
        except (OSError, UserError, AttributeError, LookupError, TypeError) as error:
            broken[folder.name] = describe(error)
            logger.warning(f"{folder.name} is left out: {broken[folder.name]}")
    return found, broken


def _folders(workdir: Path) -> Iterator[Path]:
    yield workdir
    yield from sorted(path for path in workdir.iterdir() if path.is_dir())


def _inside(path: Path, workdir: Path) -> Path:
    """Returns the path; raises UserError if it is a link that leads out of the workdir."""
    if not path.resolve().is_relative_to(workdir.resolve()):
        raise UserError(f"{path} is a link that leads out of {workdir}")
    return path


def _read(folder: Path, workdir: Path) -> SavedRun:
    for path in (folder / METRICS_FILE, *folder.glob("figures/*")):
        _inside(path, workdir)
    config = _mapping(_inside(folder / CONFIG_FILE, workdir))
    flat = pytrees.flatten(config)
    for key in ("data.name", "model.name"):
        _require(isinstance(flat.get(key), str), folder / CONFIG_FILE, f"it has no {key}")
    results, settings = (
        _mapping(_inside(folder / file, workdir)) if (folder / file).exists() else None
        for file in (EVAL_FILE, SETTINGS_FILE)
    )
    settings = settings or {}
    left_out = settings.pop(LEFT_OUT, {})
    for file, values, kind in (
        (EVAL_FILE, results or {}, int | float),
        (SETTINGS_FILE, settings, dict),
        (SETTINGS_FILE, left_out, str),
    ):
        for key, value in values.items():
            _require(isinstance(value, kind), folder / file, f"{key} is {value!r}")
    metrics = read_metrics(folder)
    for line in metrics:
        is_good = is_line(line) and "epoch" in line
        _require(is_good, folder / METRICS_FILE, f"a line is {line!r}")
    try:
        for path in folder.glob("checkpoints/*/meta/metadata"):
            _inside(path, workdir)
        step, meta = newest_meta(folder) or (None, {})
    except UserError:
        step, meta = None, {}
    return SavedRun(folder, config, metrics, results, settings, left_out, step, meta)


def _mapping(path: Path) -> dict:
    found = atomic_files.read_json(path)
    _require(isinstance(found, dict), path, "it holds no names with values")
    return found


def _require(ok: bool, path: Path, reason: str) -> None:
    if not ok:
        raise UserError(f"{path} cannot be used: {reason}"[:300])
