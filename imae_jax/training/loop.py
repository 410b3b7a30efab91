"""`train(config, workdir)` and `evaluate(config, workdir)`."""

import functools
import math
import time
from pathlib import Path

from ml_collections import ConfigDict

from imae_jax import optim
from imae_jax.distributed import preemption, processes
from imae_jax.errors import Terminated, UserError
from imae_jax.storage import atomic_files
from imae_jax.storage.atomic_files import CONFIG_FILE
from imae_jax.storage.checkpoint import Checkpoints
from imae_jax.storage.metrics_log import MetricWriter, Progress, Throughput
from imae_jax.storage.workdir import as_json, open_workdir, owned
from imae_jax.training import memory
from imae_jax.training.restore import initial_state
from imae_jax.training.setup import (
    Setup,
    make_feed,
    make_objective,
    run_meta,
    set_up,
    take_of,
)
from imae_jax.training.state import TrainState
from imae_jax.training.step import make_train_step


def train(
    config: ConfigDict, workdir: str | Path, *, stop_at: int | None = None
) -> TrainState:
    """Trains a MAE, an i-MAE or a classifier.

    It goes on where the workdir's last checkpoint stands.

    Args:
      config: see `configs/`.
      workdir: the run's folder.
      stop_at: saves and returns after this step, for a run that is to go on later.
    Returns:
      The final state.
    Raises:
      UserError: for bad input, before anything is compiled, and if the loss stays not
        finite for `optim.max_skipped` steps.
      Terminated: after SIGTERM, once what was reached has been saved.
    """
    workdir = open_workdir(workdir)
    setup = set_up(config, workdir)
    with owned(workdir), preemption.noticing_termination() as termination:
        state = _train(setup, stop_at, termination)
        if termination.look():
            raise Terminated(f"{workdir} is saved at step {int(state.step)}")
    return state


def _train(setup: Setup, stop_at: int | None, termination) -> TrainState:
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
            return state
        with make_feed(setup) as feed:
            make_step = functools.partial(
                make_train_step,
                make_objective(setup),
                optimizer,
                setup.mesh,
                take_of(setup, feed),
                state,
                looped=config.train.steps_per_dispatch > 1,
                max_skipped=config.optim.max_skipped,
            )
            train_step = memory.Fitting(
                lambda parts: make_step(accumulate=parts),
                list(setup.mesh.devices.flat),
                batch_size=config.train.batch_size,
                accumulate=config.train.accumulate,
                may_accumulate=config.model.get("mode") != "linear",
            )
            ends = last_step, termination
            return _loop(setup, state, feed, train_step, schedule, checkpoints, *ends)


def _loop(
    setup: Setup, state, feed, train_step, schedule, checkpoints, last_step, termination
):
    """Runs `train_step` up to `last_step` or SIGTERM; logs, saves, returns the state."""
    config = setup.config
    num_examples, batch_size = len(setup.train_split.images), config.train.batch_size
    teacher_params = setup.teacher.params if setup.is_distilled else None
    meta = run_meta(setup)
    first_step = int(state.step)
    saved_at = time.monotonic()
    with (
        MetricWriter(setup.workdir, first_step) as writer,
        Progress(setup.workdir.name, first_step, last_step) as progress,
    ):
        throughput = Throughput(writer.seconds)
        said = int(state.skipped)
        step, every = first_step, config.checkpoint
        while step < last_step:
            # A dispatch ends where something is to be logged or saved.
            ends = [step + config.train.steps_per_dispatch, last_step]
            for period in (config.log.every_steps, every.every_steps):
                ends += [step - step % period + period] if period else []
            num_steps = min(ends) - step
            inputs = feed.inputs(step, num_steps)
            state, metrics = train_step(state, teacher_params, inputs, num_steps)
            step += num_steps
            progress.update(step)

            is_log = step == last_step or step % config.log.every_steps == 0
            is_end = step == last_step or termination.look()
            is_save = is_end
            if every.every_steps:
                is_save |= step % every.every_steps == 0
            if every.every_minutes and is_log:
                minutes = (time.monotonic() - saved_at) / 60
                is_save |= processes.first_says(minutes >= every.every_minutes)
            if not (is_save or is_log):
                continue
            metrics = {name: float(value) for name, value in metrics.items()}
            skipped = int(metrics["skipped_steps"])
            in_a_row = int(metrics.pop("skipped_in_a_row"))
            if in_a_row >= config.optim.max_skipped:
                stop_skipping(step, in_a_row, checkpoints)
            if skipped > said:
                what = "their loss or gradient was not finite"
                progress.say(f"{skipped} of {step} steps were skipped: {what}")
                said = skipped
            total = metrics["loss/total"]
            if is_log:
                metrics = {k: v for k, v in metrics.items() if math.isfinite(v)}
                metrics |= {
                    "lr": float(schedule(step - 1 - skipped)),  # skipped steps do not count
                    "epoch": step * batch_size / num_examples,
                }
                metrics |= throughput.read(step, batch_size, feed.seconds_waited)
                metrics |= feed.metrics(step - 1)
                writer.write({"step": step, **metrics})
                progress.show(step, metrics)
            if is_save:
                known = meta | {"skipped_steps": skipped}
                known |= {"loss": total} if math.isfinite(total) else {}
                checkpoints.save(step, state.arrays, known)
                saved_at = time.monotonic()
            if is_end:
                break
    return state


def stop_skipping(step: int, in_a_row: int, checkpoints: Checkpoints) -> None:
    """Raises UserError: the last `in_a_row` of `step` steps could not be used."""
    last = max(checkpoints.steps(), default=None)
    raise UserError(
        f"from step {step - in_a_row + 1} on, {in_a_row} steps in a row had a loss or a "
        f"gradient that is not finite; the last good checkpoint is step {last or 'none'}. "
        "A lower optim.blr, a longer warm-up or optim.clip_norm may help"
    )
