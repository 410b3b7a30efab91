"""`Cadence`: the steps at which a run logs, measures and saves."""

import dataclasses
import time

from ml_collections import ConfigDict

from imae_jax.distributed import processes


@dataclasses.dataclass
class Cadence:
    """Decides when a run logs, measures and saves.

    Attributes:
      config: the run's config.
      last_step: the run's last step, at which all three are due.
      measure_every: number of steps between measurements; 0: there are none.
      stops: further steps at which a dispatch ends.
      saved_at: time of the last save, in seconds of `time.monotonic`.
    """

    config: ConfigDict
    last_step: int
    measure_every: int = 0
    stops: tuple[int, ...] = ()
    saved_at: float = dataclasses.field(default_factory=time.monotonic)

    def next_stop(self, step: int) -> int:
        """Returns the last step of a dispatch, at most the next of log, save and stops."""
        ends = [step + self.config.train.steps_per_dispatch, self.last_step]
        log, save = self.config.log.every_steps, self.config.checkpoint.every_steps
        for every in (log, save, self.measure_every):
            ends += [step - step % every + every] if every else []
        ends += [stop for stop in self.stops if stop > step]
        return min(ends)

    def is_measure_due(self, step: int) -> bool:
        """True if the step's parameters are to be measured."""
        is_due = step == self.last_step or step % (self.measure_every or 1) == 0
        return self.measure_every > 0 and is_due

    def is_log_due(self, step: int) -> bool:
        """True if the step's metrics are to be logged, with those measured if there are."""
        is_due = step == self.last_step or step % self.config.log.every_steps == 0
        return is_due or self.is_measure_due(step)

    def is_save_due(self, step: int) -> bool:
        """True if the step's state is to be saved, by the first process's clock."""
        every = self.config.checkpoint
        if every.every_steps and step % every.every_steps == 0:
            return True
        if not every.every_minutes or not self.is_log_due(step):
            return False
        minutes = (time.monotonic() - self.saved_at) / 60
        return processes.broadcast_from_first(minutes >= every.every_minutes)
