"""`Cadence`: the steps at which a run logs, measures, draws and saves."""

import dataclasses
import time

from ml_collections import ConfigDict

from imae_jax.distributed import processes


def steps_of(epochs: float, config: ConfigDict, num_examples: int) -> int:
    """Returns the number of steps of some epochs, 1 to 2**31; 0 for none."""
    steps = min(epochs * num_examples / config.train.batch_size, 2**31)
    return max(1, round(steps)) if epochs else 0


@dataclasses.dataclass
class Cadence:
    """Decides when a run logs, measures, draws and saves.

    Attributes:
      config: the run's config.
      last_step: the run's last step, at which all four are due.
      measure_every: number of steps between measurements; 0: there are none.
      draw_every: the same for pictures.
      stops: further steps at which a dispatch ends.
      saved_at: time of the last save, in seconds of `time.monotonic`.
    """

    config: ConfigDict
    last_step: int
    measure_every: int = 0
    draw_every: int = 0
    stops: tuple[int, ...] = ()
    saved_at: float = dataclasses.field(default_factory=time.monotonic)

    def next_stop(self, step: int) -> int:
        """Returns the last step of a dispatch, at most the next of log, save and stops."""
        ends = [step + self.config.train.steps_per_dispatch, self.last_step]
        log, save = self.config.log.every_steps, self.config.checkpoint.every_steps
        for every in (log, save, self.measure_every, self.draw_every):
            ends += [step - step % every + every] if every else []
        ends += [stop for stop in self.stops if stop > step]
        return min(ends)

    def is_measure_due(self, step: int) -> bool:
        """True if the step's parameters are to be measured."""
        return self._is_due(step, self.measure_every)

    def is_draw_due(self, step: int) -> bool:
        """True if pictures of the step's parameters are to be drawn."""
        return self._is_due(step, self.draw_every)

    def _is_due(self, step: int, every: int) -> bool:
        return every > 0 and (step == self.last_step or step % every == 0)

    def is_log_due(self, step: int) -> bool:
        """True if the step's metrics are to be logged, with what is measured or drawn."""
        is_due = self._is_due(step, self.config.log.every_steps)
        return is_due or self.is_measure_due(step) or self.is_draw_due(step)

    def is_save_due(self, step: int) -> bool:
        """True if the step's state is to be saved, by the first process's clock."""
        every = self.config.checkpoint
        if every.every_steps and step % every.every_steps == 0:
            return True
        if not every.every_minutes or not self.is_log_due(step):
            return False
        minutes = (time.monotonic() - self.saved_at) / 60
        return processes.broadcast_from_first(minutes >= every.every_minutes)
