"""The networks that evaluators compare: a run, its teacher, its baselines."""

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from imae_jax import runs, sharding, steps
from imae_jax.classifier import Classifier
from imae_jax.errors import UserError
from imae_jax.evaluators import NEED_TEACHER
from imae_jax.evaluators.inputs import ClassifyingNetwork, Network
from imae_jax.model import as_mae


def networks_of(
    config: ConfigDict, run: runs.TrainedRun, mesh: Mesh
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
        return {"student": steps.make_classifying_network(run.model, *variables, mesh)}
    found = {"student": run}
    options = config.evals.get("separability") or {}
    if NEED_TEACHER.intersection(config.evals):
        found["teacher"] = load_teacher(config, run, mesh)
    for name, path in (options.get("baseline_runs") or {}).items():
        key = f"evals.separability.baseline_runs.{name}"
        if not path:
            print(f"no run for baseline {name!r} ({key}): its rows are left out")
            continue
        found[name] = runs.load_baseline(path, run.model, key, mesh)
    networks = {
        name: steps.make_network(other.model, other.params, mesh)
        for name, other in found.items()
    }
    # The student's encoder under a MAE's `decoder_embed`; no run began with this seed.
    untrained = as_mae(run.model)
    seed = 1 + max(other.config.seed for other in found.values())
    params = jax.jit(
        lambda: steps.init_params(untrained, seed),
        out_shardings=sharding.replicated(mesh),
    )()
    return networks | {"random": steps.make_network(untrained, params, mesh)}


def load_teacher(config: ConfigDict, run: runs.TrainedRun, mesh: Mesh) -> runs.TrainedRun:
    """The MAE whose latents of each image alone are the evaluators' targets.

    Raises:
      UserError: if none is named, or it does not fit.
    """
    options = config.evals.get("separability") or {}
    key, path = "evals.separability.teacher", options.get("teacher")
    if not path:
        key, path = "teacher.init", config.teacher.init
    if not path:
        wanting = ", ".join(sorted(NEED_TEACHER.intersection(config.evals)))
        raise UserError(
            "evals.separability.teacher and teacher.init are empty: "
            f"{wanting} measure against a teacher's latents, give the workdir of a MAE run"
        )
    return runs.load_teacher(path, run.model, key, mesh)
