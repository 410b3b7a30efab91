"""Trackers of a run's numbers and pictures: TensorBoard, wandb, Trackio."""

import contextlib
import dataclasses
import importlib
import importlib.util
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from imae_jax.distributed import processes
from imae_jax.errors import UserError, one_line
from imae_jax.storage import atomic_files

PROJECT = "imae_jax"
# Holds a run's ID, by which a resumed run goes on where it was.
ID_FILE = ".run_id"


class Tracker(Protocol):
    """A place for the numbers and pictures of one run."""

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds the metrics of a step."""

    def draw(self, step: int, name: str, picture: Image.Image) -> None:
        """Adds a picture of a step."""

    def close(self) -> None:
        """Writes what is left."""


class TensorBoard:
    """Events in the workdir's `tensorboard/`.

    Those after `first_step`, of a run that was interrupted, are no longer shown.
    """

    def __init__(self, workdir: Path, first_step: int, config: Mapping[str, Any]):
        self._folder = workdir / "tensorboard"
        with atomic_files.naming(self._folder):
            self._events = _summary_writer()(str(self._folder), purge_step=first_step + 1)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """See `Tracker`."""
        with atomic_files.naming(self._folder):
            for name, value in metrics.items():
                self._events.add_scalar(name, value, step)

    def draw(self, step: int, name: str, picture: Image.Image) -> None:
        """See `Tracker`."""
        pixels = np.asarray(picture.convert("RGB"))
        with atomic_files.naming(self._folder):
            self._events.add_image(name, pixels, step, dataformats="HWC")

    def close(self) -> None:
        """See `Tracker`."""
        with atomic_files.naming(self._folder):
            self._events.close()


def _summary_writer() -> type:
    """Imports tensorboardX without PyTorch, which it would load for tensors, in seconds."""
    is_loaded = "torch" in sys.modules
    if not is_loaded:
        # So that an import of it fails; typeshed knows no None here.
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        from tensorboardX import SummaryWriter
    finally:
        if not is_loaded:
            del sys.modules["torch"]
    return SummaryWriter


class Service:
    """A run of Weights & Biases or of Trackio, which has the same functions."""

    def __init__(self, module: str, **options: Any):
        self._module = importlib.import_module(module)
        try:
            self._module.init(project=PROJECT, resume="allow", **options)
        except Exception as error:  # of any kind: no account, no network, no room
            raise UserError(
                f"log.to: {module} does not begin a run: {one_line(error)}; mend that, or "
                "leave it out"
            ) from None

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self._module.log(dict(metrics), step=step)

    def draw(self, step: int, name: str, picture: Image.Image) -> None:
        """See `Tracker`."""
        self._module.log({name: self._module.Image(picture)}, step=step)

    def close(self) -> None:
        """See `Tracker`."""
        self._module.finish()


def _wandb(workdir: Path, first_step: int, config: Mapping[str, Any]) -> Service:
    options = dict(id=_run_id(workdir), name=workdir.name, dir=str(workdir))
    return Service("wandb", config=dict(config), **options)


def _trackio(workdir: Path, first_step: int, config: Mapping[str, Any]) -> Service:
    # Runs are known by their names, of which others may have the same.
    name = f"{workdir.name}-{_run_id(workdir)}"
    return Service("trackio", config=dict(config), name=name)


# Functions of a workdir, the step that a run goes on from, and its config.
TRACKERS: dict[str, Callable[[Path, int, Mapping[str, Any]], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": _wandb,
    "trackio": _trackio,
}


def check_installed(names: Sequence[str]) -> None:
    """Raises UserError if the package of a tracker is missing."""
    for name in names:
        if name != "tensorboard" and importlib.util.find_spec(name) is None:
            raise UserError(f"log.to={tuple(names)}: pip install {name}, or leave it out")


def _run_id(workdir: Path) -> str:
    path = workdir / ID_FILE
    known = path.read_text("utf-8") if path.exists() else ""
    if not known:
        known = uuid.uuid4().hex[:8]
        atomic_files.write_text(path, known)
    return known


@dataclasses.dataclass(frozen=True)
class Trackers:
    """All trackers of a run; those of other processes than the first are none."""

    trackers: Sequence[Tracker]

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """See `Tracker`."""
        for tracker in self.trackers:
            tracker.write(step, metrics)

    def draw(self, step: int, name: str, picture: Image.Image) -> None:
        """See `Tracker`."""
        for tracker in self.trackers:
            tracker.draw(step, name, picture)


@contextlib.contextmanager
def tracking(
    names: Sequence[str], workdir: Path, first_step: int, config: Mapping[str, Any]
) -> Iterator[Trackers]:
    """Context with the trackers of a run, which only the first process has.

    Args:
      names: keys of `TRACKERS`.
      workdir: the run's folder.
      first_step: step that the run goes on from.
      config: the run's config, which services show.
    """
    with contextlib.ExitStack() as stack:
        trackers = []
        for name in names if processes.is_first() else ():
            trackers.append(TRACKERS[name](workdir, first_step, config))
            stack.callback(trackers[-1].close)
        yield Trackers(trackers)
