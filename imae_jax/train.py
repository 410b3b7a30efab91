"""`train(config, workdir)` and `evaluate(config, workdir)`."""

import dataclasses
import functools
import math
import time
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from imae_jax import (
    files,
    memory,
    optim,
    processes,
    runs,
    sharding,
    steps,
    validate,
    validate_evals,
    workdirs,
)
from imae_jax.checkpoint import Checkpoints
from imae_jax.classifier import Classifier
from imae_jax.compared import networks_of
from imae_jax.data.parts import parts_of
from imae_jax.errors import Terminated, UserError
from imae_jax.evaluators import EVALUATORS, NEED_LABELS
from imae_jax.evaluators.inputs import HeldOut
from imae_jax.evaluators.names import conditions, count_of
from imae_jax.files import CONFIG_FILE, EVAL_FILE, SETTINGS_FILE
from imae_jax.logs import MetricWriter, Progress, Throughput
from imae_jax.paths import local_path
from imae_jax.report import explorer, figures
from imae_jax.setup import (
    Setup,
    initial_state,
    load_data,
    make_feed,
    make_loss,
    run_meta,
    set_up,
    take_of,
)


def train(
    config: ConfigDict, workdir: str | Path, *, stop_at: int | None = None
) -> steps.TrainState:
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
    workdir = workdirs.open_workdir(workdir)
    setup = set_up(config, workdir)
    with workdirs.owned(workdir), processes.noticing_termination() as termination:
        state = _train(setup, stop_at, termination)
        if termination.look():
            raise Terminated(f"{workdir} is saved at step {int(state.step)}")
    return state


def _train(setup: Setup, stop_at: int | None, termination) -> steps.TrainState:
    config, workdir = setup.config, setup.workdir
    num_examples = len(setup.train_split.images)
    total_steps, warmup_steps = validate.run_steps(config, num_examples)
    schedule = optim.learning_rate(
        config.optim.blr,
        config.train.batch_size,
        warmup_steps,
        total_steps,
        config.optim.min_lr,
    )
    optimiser = runs.make_optimiser(config, setup.model, schedule)
    kept = config.checkpoint.keep, config.checkpoint.keep_best
    with Checkpoints(workdir, *kept) as checkpoints:
        state = initial_state(setup, optimiser, checkpoints)
        files.write_json(workdir / CONFIG_FILE, workdirs.as_json(config))
        last_step = min(total_steps, stop_at or total_steps)
        if int(state.step) >= last_step:
            return state
        with make_feed(setup) as feed:
            make_step = functools.partial(
                steps.make_train_step,
                make_loss(setup),
                optimiser,
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


def evaluate(config: ConfigDict, workdir: str | Path) -> dict[str, float]:
    """Runs every evaluator in `config.evals` on the run's newest checkpoint.

    Writes `eval.json`, `eval_settings.json` and `figures/` into the workdir.

    Returns:
      The numbers of `eval.json`, by name.
    Raises:
      UserError: if the run, its teacher or a baseline run is missing or does not fit.
    """
    workdir = local_path(workdir, "workdir").absolute()
    config = config.copy_and_resolve_references()
    workdirs.settle_dtype([config], [workdir])
    workdirs.check_same_config(config, workdir)
    dataset = load_data(config)
    mesh = sharding.make_mesh()
    run = runs.load_run(workdir, "workdir", mesh)
    validate_evals.check_evals(config, run.model, dataset.sizes, mesh.size)
    networks = networks_of(config, run, mesh)
    found = dict(
        image_shape=list(dataset.image_shape), class_names=list(dataset.class_names)
    )
    # Weights from elsewhere name no classes.
    what = [name for name in found if run.meta[name] or name != "class_names"]
    if isinstance(run.model, Classifier) and not run.model.pools:
        raise UserError(
            f"{workdir} is an encoder alone, which has nothing to measure: give it as init "
            "to a run of configs/transfer.py"
        )
    runs.check_same_data(found, run.meta, what)
    dataset = parts_of(dataset, config.data.evaluate_on, config.data.on_bad_image)
    # Pixels in the units that the run was trained in.
    mean, std = (np.array(run.meta[name], np.float32) for name in ("mean", "std"))
    dataset = dataclasses.replace(dataset, mean=mean, std=std)
    # A classifier has neither mask nor decoder.
    mask_ratio = config.mask.ratio if "mask" in config else None
    held_out = HeldOut(
        dataset=dataset,
        patch_size=run.model.patch_size,
        num_patches=run.model.num_patches,
        mask_ratio=mask_ratio,
        norm_pix="loss" in config and config.loss.norm_pix,
    )
    results, settings = {}, {}
    for name, options in config.evals.items():
        if name in NEED_LABELS and len(dataset.class_names) < 2:
            count = len(dataset.class_names) or "no"
            print(f"{workdir.name}: {name} is left out, the images are of {count} class")
            continue
        if processes.are_told_to_end():
            raise Terminated(f"{workdir} is not measured yet")
        print(f"{workdir.name}: measuring {name}", flush=True)
        used = validate_evals.options_of(options)
        found = dict(EVALUATORS[name](networks, held_out, **used))
        count = held_out.count(options.split)
        measured_on = dict(split=dataset.published[options.split], checkpoint=run.step)
        for metric, value in found.items():
            if not math.isfinite(value):
                raise UserError(f"{name}/{metric} is {value}; nothing was written")
            key = f"{name}/{metric}"
            results[key] = value
            settings[key] = {
                **measured_on,
                "count": count_of(metric, found, count),
                **conditions(key, options, mask_ratio),
            }
    if "reconstruction" in config.evals:
        options = config.evals.reconstruction
        figures.reconstructions(
            networks["student"], held_out, workdir / "figures", **options
        )
    if "explorer" in config:
        print(f"{workdir.name}: drawing the report's panel", flush=True)
        folder = workdir / "figures"
        if not explorer.write(networks["student"], held_out, folder, **config.explorer):
            print("no panel: with loss.norm_pix predictions have no units to show them in")
    files.write_json(workdir / SETTINGS_FILE, settings)
    files.write_json(workdir / EVAL_FILE, results)
    return results
