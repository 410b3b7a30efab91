"""Trace of some training steps, which XProf and Perfetto open."""

import sys
from pathlib import Path
from typing import Any, Self

import jax

from imae_jax.distributed import processes
from imae_jax.errors import UserError, require

FOLDER = "profile"
STEP = "train"  # name of a step in the trace


class Trace:
    """Context in which some training steps are traced into a folder.

    Attributes:
      steps: (first, last), counted from 1; None: nothing is traced.
      folder: made by the first process.
    """

    def __init__(self, steps: tuple[int, int] | None, folder: Path):
        self.steps, self.folder = steps, folder
        self._is_running = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop()

    @property
    def stops(self) -> tuple[int, ...]:
        """Steps after which tracing begins and ends, at which dispatches have to end."""
        return (self.steps[0] - 1, self.steps[1]) if self.steps else ()

    def check(self, done: int, last_step: int) -> None:
        """Raises UserError unless the run still has to make these steps, and can trace.

        Args:
          done: number of steps made so far.
          last_step: the run's last step.
        """
        if self.steps is not None:
            first, last = self.steps
            allowed = f"steps that this run makes, {done + 1} to {last_step}"
            given = f"{first}:{last}"
            require(done < first and last <= last_step, "profile", given, allowed)
            # JAX loads it where it is installed, and its part in a trace ends the process.
            if "libtpu" in sys.modules and jax.default_backend() != "tpu":
                raise UserError(
                    f"cannot trace steps {given}: the TPU compiler (libtpu) is installed, "
                    "and without a TPU it crashes JAX's profiler: set "
                    f"JAX_PLATFORMS={jax.default_backend()}"
                )

    def before(self, step: int) -> jax.profiler.StepTraceAnnotation:
        """Starts before the first of the steps.

        Args:
          step: the next one to be made.
        Returns:
          Context that marks it in the trace.
        """
        if self.steps and self.steps[0] <= step <= self.steps[1] and not self._is_running:
            self._is_running = processes.is_first()
            if self._is_running:
                jax.profiler.start_trace(str(self.folder), create_perfetto_trace=True)
        return jax.profiler.StepTraceAnnotation(STEP, step_num=step)

    def after(self, step: int, state: Any) -> None:
        """Stops after the last of the steps, once `state`, what it computes, is there."""
        if self._is_running and self.steps and step >= self.steps[1]:
            jax.block_until_ready(state)
            self._stop()

    def _stop(self) -> None:
        if self._is_running:
            self._is_running = False
            jax.profiler.stop_trace()
