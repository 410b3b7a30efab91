"""`evaluate(config, workdir)`: every evaluator of a config on a run's newest checkpoint."""

import dataclasses
import math
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from imae_jax.data.eval_splits import parts_of
from imae_jax.distributed import preemption, sharding
from imae_jax.errors import Terminated, UserError
from imae_jax.evaluators import config_checks
from imae_jax.evaluators.held_out import HeldOut
from imae_jax.evaluators.metric_names import count_of
from imae_jax.evaluators.networks import ClassifyingNetwork, Network
from imae_jax.evaluators.registry import all_evaluators
from imae_jax.models.classifier import Classifier
from imae_jax.models.factory import as_mae
from imae_jax.report import explorer, figures
from imae_jax.storage import atomic_files
from imae_jax.storage.atomic_files import EVAL_FILE, SETTINGS_FILE
from imae_jax.storage.local_paths import local_path
from imae_jax.storage.workdir import check_same_config, settle_dtype
from imae_jax.training import trained_run
from imae_jax.training.predict import make_classifying_network, make_network
from imae_jax.training.restore import check_same_data
from imae_jax.training.setup import load_data
from imae_jax.training.state import init_params


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
    settle_dtype([config], [workdir])
    check_same_config(config, workdir)
    dataset = load_data(config)
    mesh = sharding.make_mesh()
    run = trained_run.load_run(workdir, "workdir", mesh)
    config_checks.check_evals(config, run.model, dataset.sizes, mesh.size)
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
    check_same_data(found, run.meta, what)
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
        evaluator = all_evaluators()[name]
        if evaluator.needs_labels and len(dataset.class_names) < 2:
            count = len(dataset.class_names) or "no"
            print(f"{workdir.name}: {name} is left out, the images are of {count} class")
            continue
        if preemption.are_told_to_end():
            raise Terminated(f"{workdir} is not measured yet")
        print(f"{workdir.name}: measuring {name}", flush=True)
        used = evaluator.options(options)
        found = dict(evaluator.evaluate(networks, held_out, **used))
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
                **evaluator.conditions(metric, options, mask_ratio),
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
    atomic_files.write_json(workdir / SETTINGS_FILE, settings)
    atomic_files.write_json(workdir / EVAL_FILE, results)
    return results


def networks_of(
    config: ConfigDict, run: trained_run.TrainedRun, mesh: Mesh
) -> dict[str, Network | ClassifyingNetwork]:
    """The networks that evaluators compare; a baseline without a run is left out.

    Returns:
      `student`, the run itself, which a classifier is alone; `random`, untrained; where an
      evaluator needs one, the `teacher`; and those of `evals.separability.baseline_runs`
      that are given.
    Raises:
      UserError: if a run is missing or does not fit.
    """
    if isinstance(run.model, Classifier):
        variables = run.params, run.batch_stats
        return {"student": make_classifying_network(run.model, *variables, mesh)}
    found = {"student": run}
    options = config.evals.get("separability") or {}
    if need_teacher(config):
        found["teacher"] = load_teacher(config, run, mesh)
    for name, path in (options.get("baseline_runs") or {}).items():
        key = f"evals.separability.baseline_runs.{name}"
        if not path:
            print(f"no run for baseline {name!r} ({key}): its rows are left out")
            continue
        found[name] = trained_run.load_baseline(path, run.model, key, mesh)
    networks = {
        name: make_network(other.model, other.params, mesh) for name, other in found.items()
    }
    # The student's encoder under a MAE's `decoder_embed`; no run began with this seed.
    untrained = as_mae(run.model)
    seed = 1 + max(other.config.seed for other in found.values())
    params = jax.jit(
        lambda: init_params(untrained, seed),
        out_shardings=sharding.replicated(mesh),
    )()
    return networks | {"random": make_network(untrained, params, mesh)}


def need_teacher(config: ConfigDict) -> list[str]:
    """The evaluators of a config that compare with a teacher."""
    return [name for name in sorted(config.evals) if all_evaluators()[name].needs_teacher]


def load_teacher(
    config: ConfigDict, run: trained_run.TrainedRun, mesh: Mesh
) -> trained_run.TrainedRun:
    """The MAE whose latents of each image alone are the evaluators' targets.

    Raises:
      UserError: if none is named, or it does not fit.
    """
    options = config.evals.get("separability") or {}
    key, path = "evals.separability.teacher", options.get("teacher")
    if not path:
        key, path = "teacher.init", config.teacher.init
    if not path:
        wanting = ", ".join(need_teacher(config))
        raise UserError(
            "evals.separability.teacher and teacher.init are empty: "
            f"{wanting} measure against a teacher's latents, give the workdir of a MAE run"
        )
    return trained_run.load_teacher(path, run.model, key, mesh)
