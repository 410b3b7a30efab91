"""Logs of a training run: metrics.jsonl, throughput, progress bar."""

import contextlib
import json
import logging
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from tqdm import tqdm

from imae_jax.distributed import processes
from imae_jax.storage import atomic_files

logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"
# Metrics that a step's line of progress shows, by their last name.
SHOWN = re.compile(r"(?:loss|during_training)/(\w+)")


def read_metrics(workdir: Path) -> list[dict]:
    """Reads a run's metrics.jsonl; skips incomplete lines, left by a killed run."""
    path = workdir / METRICS_FILE
    lines = path.read_text("utf-8", "replace").splitlines() if path.exists() else []
    metrics = []
    for line in lines:
        try:
            metrics.append(json.loads(line))
        except (ValueError, RecursionError):
            continue
    return metrics


def is_line(line: Any) -> bool:
    """True for numbers by name, among them the step: a line as `MetricWriter` writes it."""
    is_mapping = isinstance(line, dict) and "step" in line
    return is_mapping and all(isinstance(value, int | float) for value in line.values())


class MetricWriter:
    """Appends to metrics.jsonl, from `first_step` on.

    Lines that an interrupted run wrote after its last checkpoint are removed first, and
    those that are damaged.

    Attributes:
      seconds: duration of the run so far, according to the remaining lines.
    """

    def __init__(self, workdir: Path, first_step: int):
        lines = filter(is_line, read_metrics(workdir))
        kept = [line for line in lines if line["step"] <= first_step]
        self.seconds = kept[-1].get("seconds", 0.0) if kept else 0.0
        text = "".join(json.dumps(line) + "\n" for line in kept)
        self._path = workdir / METRICS_FILE
        atomic_files.write_text(self._path, text)
        path = self._path if processes.is_first() else os.devnull
        self._file = open(path, "a", encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        with atomic_files.naming(self._path):
            self._file.close()

    def write(self, metrics: Mapping[str, float]) -> None:
        """Writes one line; `metrics` must hold `step`."""
        with atomic_files.naming(self._path):
            self._file.write(json.dumps(metrics) + "\n")
            self._file.flush()


class Throughput:
    """Throughput since the last log line, without compilation, and total run time."""

    def __init__(self, seconds: float):
        """Starts the clock at `seconds`, the duration of the run before a resume."""
        self._began = time.perf_counter() - seconds
        self._step: int | None = None
        self._time = self._waited = 0.0

    def read(self, step: int, batch_size: int, seconds_waited: float) -> dict[str, float]:
        """Measures the time since the last call; the first call returns `seconds` only.

        Args:
          step: number of steps so far.
          batch_size: B.
          seconds_waited: seconds spent waiting for data so far.
        Returns:
          `seconds`, total; `images_per_second`; `data_wait`, the fraction of the time spent
          waiting for data, in [0, 1].
        """
        now = time.perf_counter()
        found = {"seconds": now - self._began}
        if self._step is not None:
            images = (step - self._step) * batch_size
            found["images_per_second"] = images / (now - self._time)
            found["data_wait"] = (seconds_waited - self._waited) / (now - self._time)
        self._step, self._time, self._waited = step, now, seconds_waited
        return found

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Context whose time is not that of training steps."""
        began = time.perf_counter()
        yield
        self._time += time.perf_counter() - began


class Progress:
    """Progress with the time left: a bar or, without a terminal, a line every 15 s."""

    def __init__(self, title: str, first_step: int, total_steps: int):
        self._title = title
        self._bar = tqdm(
            desc=title,
            initial=first_step,
            total=total_steps,
            unit="step",
            dynamic_ncols=True,
            disable=not (sys.stderr.isatty() and processes.is_first()),
        )
        self._total = total_steps
        self._next_line = 0.0
        # (step, time) of the first step shown, which was compiled
        self._began: tuple[int, float] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._bar.close()

    def update(self, step: int) -> None:
        """Moves the bar to `step`."""
        self._bar.update(step - self._bar.n)

    def say(self, text: str) -> None:
        """Logs a warning above the bar."""
        logger.warning(f"{self._title}: {text}")

    def show(self, step: int, metrics: Mapping[str, float]) -> None:
        """Shows a step's losses, speed and measured numbers beside the bar."""
        shown = {
            found[1]: f"{value:.3f}"
            for name, value in metrics.items()
            if (found := SHOWN.fullmatch(name))
        }
        if "images_per_second" in metrics:
            shown["images/s"] = f"{metrics['images_per_second']:.0f}"
        now = time.monotonic()
        self._began = self._began or (step, now)
        if not self._bar.disable:
            self._bar.set_postfix(shown)
        elif now >= self._next_line or step == self._total:
            self._next_line = now + 15
            if left := self._left(step, now):
                shown["left"] = left
            text = "  ".join(f"{name} {value}" for name, value in shown.items())
            logger.info(f"{self._title}: step {step}/{self._total}  {text}")

    def _left(self, step: int, now: float) -> str:
        """Returns the time left, such as "3 min"; empty if unknown, and at the end."""
        assert self._began is not None, "see `show`"
        first, began = self._began
        if not first < step < self._total:
            return ""
        seconds = (self._total - step) * (now - began) / (step - first)
        return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
