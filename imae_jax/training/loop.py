"""The training loop, `train(config, workdir)`, with logging and checkpoints."""

import dataclasses
import functools
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import optax
from ml_collections import ConfigDict

from imae_jax import optim
from imae_jax.data.input_pipeline import Resident, Streaming
from imae_jax.distributed import preemption
from imae_jax.errors import Terminated, UserError
from imae_jax.objectives.select import group_size
from imae_jax.storage import atomic_files, trackers
from imae_jax.storage.atomic_files import CONFIG_FILE
from imae_jax.storage.checkpoint import Checkpoints
from imae_jax.storage.metrics_log import MetricWriter, Progress, Throughput
from imae_jax.storage.workdir import as_json, exclusive_lock, open_workdir
from imae_jax.training import memory, opening
from imae_jax.training.cadence import Cadence, steps_of
from imae_jax.training.monitor import Monitor, period
from imae_jax.training.restore import initial_state
from imae_jax.training.setup import (
    Setup,
    batch_getter,
    make_feed,
    make_objective,
    run_meta,
    set_up,
)
from imae_jax.training.state import TrainState
from imae_jax.training.step import make_train_step
from imae_jax.training.trace import FOLDER, Trace

if TYPE_CHECKING:
    from imae_jax.training.pictures import Pictures

logger = logging.getLogger(__name__)


def train(
    config: ConfigDict,
    workdir: str | Path,
    *,
    stop_at: int | None = None,
    profile: tuple[int, int] | None = None,
) -> TrainState:
    """Trains a MAE, an i-MAE or a classifier.

    Resumes from the workdir's last checkpoint if there is one.

    Args:
      config: see `configs/`.
      workdir: the run's folder.
      stop_at: step after which to save and return, for a run to be resumed later.
      profile: first and last step, from 1, to trace into the workdir's `profile/`.
    Returns:
      The final state.
    Raises:
      UserError: for bad input, before anything is compiled, and after `optim.max_skipped`
        steps in a row with a loss, gradient or result that is not finite, or if no step
        counted.
      Terminated: after SIGTERM, once the state has been saved.
    """
    workdir = open_workdir(workdir)
    setup = set_up(config, workdir)
    with exclusive_lock(workdir), preemption.catch_sigterm() as termination:
        with Trace(profile, workdir / FOLDER) as trace:
            state = _train(setup, stop_at, trace, termination)
        if termination.look():
            raise Terminated(f"{workdir} is saved at step {int(state.step)}")
    return state


def _train(
    setup: Setup, stop_at: int | None, trace: Trace, termination: preemption.Termination
) -> TrainState:
    config, workdir = setup.config, setup.workdir
    num_examples = len(setup.train_split.images)
    total_steps, warmup_steps = optim.run_steps(config, num_examples)
    schedule = optim.learning_rate(
        config.optim.blr,
        config.train.batch_size,
        warmup_steps,
        total_steps,
        config.optim.min_lr,
    )
    optimizer = setup.kind.optimizer(config, setup.model, schedule)
    kept = config.checkpoint.keep, config.checkpoint.keep_best
    with Checkpoints(workdir, *kept) as checkpoints:
        state = initial_state(setup, optimizer, checkpoints)
        atomic_files.write_json(workdir / CONFIG_FILE, as_json(config))
        last_step = min(total_steps, stop_at or total_steps)
        if int(state.step) >= last_step:
            logger.info(f"{workdir.name}: has its {int(state.step):,} steps, nothing to do")
            return state
        trace.check(int(state.step), last_step)
        logger.info(opening.describe(setup, state, schedule, total_steps, warmup_steps))
        with make_feed(setup) as feed:
            make_step = functools.partial(
                make_train_step,
                make_objective(setup),
                optimizer,
                setup.mesh,
                batch_getter(setup, feed),
                state,
                looped=config.train.steps_per_dispatch > 1,
                max_skipped=config.optim.max_skipped,
            )
            train_step = memory.Fitting(
                lambda parts: make_step(accumulate=parts),
                list(setup.mesh.devices.flat),
                batch_size=config.train.batch_size,
                group_size=group_size(config),
                accumulate=config.train.accumulate,
                may_accumulate=setup.kind.may_accumulate(config),
            )
            measure_every = steps_of(period(config), config, num_examples)
            epochs = config.log.get("pictures_every") or 0.0  # a classifier has none
            draw_every = steps_of(epochs, config, num_examples)
            loop = _Loop(
                setup,
                feed,
                train_step,
                Monitor.of(setup) if measure_every else None,
                _pictures_of(setup) if draw_every else None,
                schedule,
                checkpoints,
                Cadence(config, last_step, measure_every, draw_every, trace.stops),
                trace,
                termination,
            )
            return loop.run(state)


def _pictures_of(setup: Setup) -> "Pictures":
    # Late: it loads matplotlib.
    from imae_jax.training.pictures import Pictures

    return Pictures.of(setup)


@dataclasses.dataclass
class SkipGuard:
    """Reports skipped steps, and ends a run that skips too many in a row.

    Attributes:
      max_skipped: most skipped steps in a row.
      told: number of skipped steps reported so far.
    """

    max_skipped: int
    told: int

    def check(
        self, step: int, metrics: dict, checkpoints: Checkpoints, is_end: bool
    ) -> str:
        """Returns a message if steps were skipped since the last call, else "".

        Raises:
          UserError: if the last `max_skipped` steps were skipped, or at the end all.
        """
        skipped, in_a_row = metrics["skipped_steps"], int(metrics["skipped_in_a_row"])
        if in_a_row >= self.max_skipped:
            last = max(checkpoints.steps(), default="none")
            raise UserError(
                f"from step {step - in_a_row + 1} on, {in_a_row} steps in a row had a "
                "loss, gradient or result that is not finite; the last good checkpoint is "
                f"step {last}. A lower optim.blr, a longer warm-up or optim.clip_norm may "
                "help"
            )
        if is_end and skipped >= step:
            raise UserError(
                f"none of {step} steps counted, so nothing is saved: each had a loss, "
                "gradient or result that is not finite. A lower optim.blr or smaller "
                "weights of loss and decay may help"
            )
        if skipped <= self.told:
            return ""
        self.told = skipped
        why = "their loss, gradient or result was not finite"
        return f"{skipped:.0f} of {step} steps were skipped: {why}"


@dataclasses.dataclass
class _Loop:
    """Runs the compiled step until the last one or SIGTERM, with logs and checkpoints."""

    setup: Setup
    feed: Resident | Streaming
    train_step: Callable
    monitor: Monitor | None
    pictures: "Pictures | None"
    schedule: optax.Schedule
    checkpoints: Checkpoints
    cadence: Cadence
    trace: Trace
    termination: preemption.Termination

    def run(self, state: TrainState) -> TrainState:
        """Trains from `state`; returns the last state, which has been saved."""
        setup, config = self.setup, self.setup.config
        teacher_params = (
            setup.teacher.params if setup.teacher and setup.is_distilled else None
        )
        meta = run_meta(setup)
        step = int(state.step)
        cadence = self.cadence
        guard = SkipGuard(config.optim.max_skipped, int(state.skipped))
        with (
            MetricWriter(setup.workdir, step) as writer,
            trackers.tracking(config.log.to, setup.workdir, step, as_json(config)) as track,
            Progress(setup.workdir.name, step, cadence.last_step) as progress,
        ):
            throughput = Throughput(writer.seconds)
            is_start, is_end = True, step == cadence.last_step
            while not is_end:
                num_steps = cadence.next_stop(step) - step
                with self.trace.before(step + 1):
                    inputs = self.feed.inputs(step, num_steps)
                    state, metrics = self.train_step(
                        state, teacher_params, inputs, num_steps
                    )
                step += num_steps
                self.trace.after(step, state.params)
                progress.update(step)
                is_end = step == cadence.last_step or self.termination.look()
                is_log = cadence.is_log_due(step)
                is_save = cadence.is_save_due(step) or is_end
                if not (is_save or is_log or is_start):
                    continue
                metrics = {name: float(value) for name, value in metrics.items()}
                if text := guard.check(step, metrics, self.checkpoints, is_end):
                    progress.say(text)
                if is_log:
                    line = self.log_line(step, metrics)
                    line |= throughput.read(
                        step, config.train.batch_size, self.feed.seconds_waited
                    )
                    line |= self.feed.metrics(step - 1)
                    with throughput.paused():
                        if self.monitor and cadence.is_measure_due(step):
                            line |= self.monitor(state.params)
                        if self.pictures and cadence.is_draw_due(step):
                            track.draw(step, "validation", self.pictures(state.params))
                    writer.write({"step": step, **line})
                    track.write(step, line)
                    progress.show(step, line)
                elif is_start:
                    progress.show(step, metrics)
                is_start = False
                if is_save and metrics["skipped_steps"] < step:  # something was learned
                    known = meta | {"skipped_steps": int(metrics["skipped_steps"])}
                    total = metrics["loss/total"]
                    known |= {"loss": total} if math.isfinite(total) else {}
                    self.checkpoints.save(step, state.arrays, known)
                    cadence.saved_at = time.monotonic()
        return state

    def log_line(self, step: int, metrics: dict[str, float]) -> dict[str, float]:
        """Returns the finite metrics of a step, its learning rate and its epoch."""
        line = {name: value for name, value in metrics.items() if math.isfinite(value)}
        del line["skipped_in_a_row"]
        counted = step - 1 - int(metrics["skipped_steps"])  # skipped steps do not count
        images = step * self.setup.config.train.batch_size
        return line | {
            "lr": float(self.schedule(counted)),
            "epoch": images / len(self.setup.train_split.images),
        }
