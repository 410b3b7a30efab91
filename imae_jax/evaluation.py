"""Evaluation of a run, `evaluate(config, workdir)`: all evaluators of its config."""

import contextlib
import dataclasses
import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from imae_jax.config import checks
from imae_jax.data.dataset import Dataset
from imae_jax.data.eval_splits import parts_of
from imae_jax.distributed import preemption, sharding
from imae_jax.errors import Terminated, UserError, describe
from imae_jax.evaluators import config_checks
from imae_jax.evaluators.held_out import HeldOut
from imae_jax.evaluators.metric_names import count_of
from imae_jax.evaluators.networks import Network
from imae_jax.evaluators.registry import all_evaluators
from imae_jax.models.factory import as_mae
from imae_jax.report import explorer, figures, latent_pictures
from imae_jax.storage import atomic_files, trackers
from imae_jax.storage.atomic_files import EVAL_FILE, LEFT_OUT, SETTINGS_FILE
from imae_jax.storage.local_paths import local_path
from imae_jax.storage.workdir import as_json, check_same_config, settle_dtype
from imae_jax.training import trained_run
from imae_jax.training.predict import make_network
from imae_jax.training.restore import check_evaluated_data
from imae_jax.training.setup import load_data
from imae_jax.training.state import random_params

logger = logging.getLogger(__name__)


class Incomplete(UserError):
    """Raised after an evaluation, if some of the evaluators could not run."""


@dataclasses.dataclass(frozen=True)
class EvaluatedRun:
    """A trained run, with networks and data for its evaluation.

    Attributes:
      config, workdir: the run's config, with the options of this evaluation, and folder.
      step: step of the checkpoint.
      networks: the run and the networks compared with it, see `networks_of`.
      held_out: images and mixtures.
    """

    config: ConfigDict
    workdir: Path
    step: int
    networks: Mapping[str, Network]
    held_out: HeldOut


def evaluate(config: ConfigDict, workdir: str | Path) -> dict[str, float]:
    """Runs every evaluator in `config.evals` on the run's newest checkpoint.

    Writes `eval.json`, `eval_settings.json` and `figures/` into the workdir after the last
    evaluator. One that cannot run is left out; `LEFT_OUT` in the settings has the reason.

    Returns:
      The metrics of `eval.json`, by name.
    Raises:
      UserError: if the run, its teacher or a baseline run is missing or does not fit.
      Incomplete: after the others were written, if an evaluator could not run or returned
        a value that is not finite. An error of another class is raised as it is then.
    """
    run = open_run(config, workdir)
    trackers.check_installed(run.config.log.to)
    results, settings, left_out, failed = _measure_all(run)
    with _collecting(failed, "figures"):
        draw(run)
    reasons = "; ".join(f"{name} ({describe(error)})" for name, error in failed.items())
    if results or not failed:
        left_out |= {name: describe(error) for name, error in failed.items()}
        settings |= {LEFT_OUT: left_out} if left_out else {}
        atomic_files.write_json(run.workdir / SETTINGS_FILE, settings)
        atomic_files.write_json(run.workdir / EVAL_FILE, results)
        shown = as_json(run.config)
        with trackers.tracking(run.config.log.to, run.workdir, run.step, shown) as track:
            track.write(
                run.step, {f"eval/{name}": value for name, value in results.items()}
            )
    for error in failed.values():
        if not isinstance(error, UserError):
            raise error
    if failed and not results:
        raise UserError(f"{run.workdir}: nothing could be measured: {reasons}")
    if failed:
        raise Incomplete(f"{run.workdir / EVAL_FILE} lacks what could not run: {reasons}")
    return results


def _measure_all(run: EvaluatedRun) -> tuple[dict, dict, dict, dict]:
    """Returns numbers and conditions by name, and by evaluator: reasons, and errors."""
    results, settings = dict[str, float](), dict[str, Mapping]()
    left_out, failed = dict[str, str](), dict[str, Exception]()
    for name in run.config.evals:
        if all_evaluators()[name].is_in_training:
            continue
        if reason := not_applicable(run, name):
            left_out[name] = reason
            logger.info(f"{run.workdir.name}: {name} is left out, {reason}")
            continue
        with _collecting(failed, name):
            numbers, conditions = measure(run, name)
            results |= numbers
            settings |= conditions
    return results, settings, left_out, failed


@contextlib.contextmanager
def _collecting(failed: dict[str, Exception], name: str) -> Iterator[None]:
    """Context that puts what ends it into `failed` under a name."""
    try:
        yield
    except UserError as error:
        failed[name] = error
    except Exception as error:  # a defect of one evaluator must not cost the others
        if jax.process_count() > 1:  # which do not know of it, and would wait
            raise
        failed[name] = error


def not_applicable(run: EvaluatedRun, name: str) -> str:
    """Returns why an evaluator has nothing to measure in such data; empty if it has."""
    dataset, evaluator = run.held_out.dataset, all_evaluators()[name]
    num_classes = len(dataset.class_names)
    if evaluator.needs_labels and num_classes < 2:
        return f"the images are of {num_classes or 'no'} class"
    if evaluator.needs_label_maps and not dataset.pixel_classes:
        return "the images have no label maps"
    return ""


def open_run(config: ConfigDict, workdir: str | Path) -> EvaluatedRun:
    """Loads a run, its data and the networks to compare with, and checks that they fit.

    Raises:
      UserError: see `evaluate`.
    """
    workdir = local_path(workdir, "workdir").absolute()
    config = config.copy_and_resolve_references()
    settle_dtype([config], [workdir])
    check_same_config(config, workdir)
    checks.check_keys(config)
    dataset = load_data(config)
    mesh = sharding.make_mesh()
    trained = trained_run.load_run(workdir, "workdir", mesh)
    check_same_config(config, workdir, trained.config)
    config_checks.check_evals(config, trained.model, dataset.sizes, mesh.size)
    if not trained.model.has_decoder and not trained.model.pools:
        raise UserError(
            f"{workdir} is an encoder alone, which has nothing to measure: give it as init "
            "to a run of configs/transfer.py"
        )
    check_evaluated_data(dataset, trained.meta)
    return EvaluatedRun(
        config=config,
        workdir=workdir,
        step=trained.step,
        networks=networks_of(config, trained, mesh),
        held_out=held_out_of(config, trained, dataset),
    )


def held_out_of(
    config: ConfigDict, trained: trained_run.TrainedRun, dataset: Dataset
) -> HeldOut:
    """Returns held-out data with a run's normalization and patches."""
    dataset = parts_of(dataset, config.data.evaluate_on, config.data.on_bad_image)
    mean, std = (np.array(trained.meta[name], np.float32) for name in ("mean", "std"))
    dataset = dataclasses.replace(dataset, mean=mean, std=std)
    return HeldOut.of(config, trained.model, dataset)


def measure(run: EvaluatedRun, name: str) -> tuple[dict[str, float], dict[str, dict]]:
    """Runs one evaluator.

    Returns:
      Its entries of `eval.json` and of `eval_settings.json`.
    Raises:
      UserError: if it cannot run, or a value is not finite.
      Terminated: after SIGTERM.
    """
    evaluator, held_out = all_evaluators()[name], run.held_out
    if preemption.preemption_requested():
        raise Terminated(f"{run.workdir} is not measured yet")
    logger.info(f"{run.workdir.name}: measuring {name}")
    section = run.config.evals[name]
    options = evaluator.options(section)
    found = evaluator.evaluate(run.networks, held_out, **options)
    # Python numbers for JSON, in place of NumPy's.
    numbers = {metric: np.asarray(value).item() for metric, value in found}
    for metric, value in numbers.items():
        if not math.isfinite(value):
            raise UserError(f"{name}/{metric} is {value}, no number")
    count = held_out.count(section.split)
    split = held_out.dataset.published[section.split]
    settings = {
        f"{name}/{metric}": {
            "split": split,
            "checkpoint": run.step,
            "count": count_of(metric, numbers, count),
            **evaluator.conditions(metric, options, held_out.mask_ratio),
        }
        for metric in numbers
    }
    return {f"{name}/{metric}": value for metric, value in numbers.items()}, settings


def draw(run: EvaluatedRun) -> None:
    """Draws reconstructions, latents and the report's panel into `figures/`."""
    config, folder = run.config, run.workdir / "figures"
    given = run.networks["student"], run.held_out, folder
    if "reconstruction" in config.evals:
        shown = config.evals.reconstruction
        figures.reconstructions(*given, **shown)
        latent_pictures.write(run.networks, run.held_out, folder, **shown)
    if "explorer" in config:
        logger.info(f"{run.workdir.name}: drawing the report's panel")
        if not explorer.write(*given, **config.explorer):
            logger.info(
                "no panel: with loss.norm_pix predictions have no units to show them in"
            )


def networks_of(
    config: ConfigDict, run: trained_run.TrainedRun, mesh: Mesh
) -> dict[str, Network]:
    """Collects the networks that evaluators compare.

    Returns:
      By name: `student`, the run itself; unless that is a classifier, `random`, the
      `teacher` if an evaluator needs one, and those of `evals.separability.baseline_runs`
      that are given.
    Raises:
      UserError: if a run is missing or does not fit.
    """
    if not run.model.has_decoder:
        own = make_network(run.model, run.params, mesh, run.batch_stats)
        return {"student": own}
    found = {"student": run}
    options = config.evals.get("separability") or {}
    if need_teacher(config):
        found["teacher"] = load_teacher(config, run, mesh)
    for name, path in (options.get("baseline_runs") or {}).items():
        key = f"evals.separability.baseline_runs.{name}"
        if not path:
            logger.info(f"no run for baseline {name!r} ({key}): its rows are left out")
            continue
        found[name] = trained_run.load_baseline(path, run.model, key, mesh)
    # By run: a MAE may be its own teacher.
    made = {id(x): make_network(x.model, x.params, mesh) for x in found.values()}
    networks = {name: made[id(x)] for name, x in found.items()}
    # The student's encoder with a MAE's `decoder_embed`; no run used this seed.
    untrained = as_mae(run.model)
    seed = 1 + max(other.config.seed for other in found.values())
    params = random_params(untrained, seed, mesh)
    return networks | {"random": make_network(untrained, params, mesh)}


def need_teacher(config: ConfigDict) -> list[str]:
    """Returns the names of a config's evaluators that compare with a teacher."""
    return [name for name in sorted(config.evals) if all_evaluators()[name].needs_teacher]


def load_teacher(
    config: ConfigDict, run: trained_run.TrainedRun, mesh: Mesh
) -> trained_run.TrainedRun:
    """Loads the MAE whose latents of each image alone are the evaluators' targets.

    Raises:
      UserError: if no teacher is named, or it does not fit.
    """
    options = config.evals.get("separability") or {}
    key, path = "evals.separability.teacher", options.get("teacher")
    if not path and not run.model.is_fed_mixtures:
        return run  # a MAE is compared with itself, shown each image alone
    if not path:
        key, path = "teacher.init", config.teacher.init
    if not path:
        wanting = ", ".join(need_teacher(config))
        raise UserError(
            "evals.separability.teacher and teacher.init are empty: "
            f"{wanting} measure against a teacher's latents, give the workdir of a MAE run"
        )
    found = trained_run.load_teacher(path, run.model, key, mesh)
    began = (run.meta.get("teacher") or {}).get("digest", found.digest)
    if key == "teacher.init" and began != found.digest:
        logger.warning(f"{key}={path} is not the teacher that the run began with")
    return found
