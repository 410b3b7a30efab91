"""Trained runs on disk: config, model and parameters; teachers and baselines."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from imae_jax import optim
from imae_jax.distributed import sharding
from imae_jax.errors import UserError
from imae_jax.models.classifier import Classifier
from imae_jax.models.imae import IMAE
from imae_jax.models.mae import MAE, Autoencoder
from imae_jax.objectives.base import Objective
from imae_jax.objectives.select import OBJECTIVES
from imae_jax.storage import pytrees
from imae_jax.storage.checkpoint import Checkpoints
from imae_jax.storage.local_paths import local_path
from imae_jax.storage.workdir import config_of_checkpoint
from imae_jax.training.state import fresh_state, init_params, init_variables
from imae_jax.training.stored_model import stored_model


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """A trained run, loaded from one of its checkpoints.

    Attributes:
      workdir, config: the run's folder and config.
      model: the network.
      params: its parameters; their moving average if there is one (`optim.ema_decay`).
      step: step of the checkpoint.
      meta: metadata of the checkpoint, see `setup.run_meta`.
      digest: SHA-256 of the parameters.
      batch_stats: statistics of BatchNorms, see `state.TrainState`.
    """

    workdir: Path
    config: ConfigDict
    model: MAE | IMAE | Classifier
    params: Any
    step: int
    meta: Mapping
    digest: str
    batch_stats: Any = dataclasses.field(default_factory=dict)

    @property
    def kind(self) -> type[Objective]:
        """Class of the run's objective."""
        return OBJECTIVES[self.config.model.name]


def load_run(
    workdir: str | Path, key: str, mesh: Mesh, step: int | Literal["best"] | None = None
) -> TrainedRun:
    """Loads a run's checkpoint onto the mesh.

    Args:
      workdir: the run's folder.
      key: config key that names it, for messages.
      mesh: the devices; parameters are copied to each.
      step: step of the checkpoint; "best" for that of lowest loss; None for the newest that
        is not damaged.
    Raises:
      UserError: if there is no run, no checkpoint, or its parameters do not fit its config.
        That is the checkpoint's own copy, see `workdir.config_of_checkpoint`.
    """
    workdir = local_path(workdir, key)
    if not workdir.is_dir():
        raise UserError(f"{key}={str(workdir)!r}: there is no such folder")
    try:
        with Checkpoints(workdir) as checkpoints:

            def read(step: int) -> TrainedRun:
                meta = checkpoints.meta(step)
                config = config_of_checkpoint(workdir, meta)
                network = stored_model(config, meta)
                fixed = step, config, network, mesh
                params, batch_stats = _load_variables(checkpoints, *fixed)
                digest = pytrees.digest(params)
                known = params, step, meta, digest, batch_stats
                return TrainedRun(workdir, config, network, *known)

            if not checkpoints.steps():
                raise UserError(f"{workdir} holds no finished checkpoint")
            if step is None:
                return checkpoints.newest(read)[1]
            if step == "best":
                step = checkpoints.best_step()
            if not isinstance(step, int) or step not in checkpoints.steps():
                known = ", ".join(map(str, checkpoints.steps()))
                raise UserError(f"step {step!r} is no checkpoint; there are {known}")
            return read(step)
    except UserError as error:
        raise UserError(f"{key}={str(workdir)!r}: {error}") from None


def _load_variables(
    checkpoints: Checkpoints,
    step: int,
    config: ConfigDict,
    network: MAE | IMAE | Classifier,
    mesh: Mesh,
) -> tuple[Any, Any]:
    """Loads a checkpoint's parameters (their average if there is one) and statistics."""
    kind = OBJECTIVES[config.model.name]
    optimizer = kind.optimizer(config, network, lambda step: 0.0)
    like = _abstract(lambda: fresh_state(network, optimizer, seed=0), mesh).arrays
    is_averaged = config.optim.get("ema_decay") is not None
    del like["params" if is_averaged else "opt_state"]
    found = checkpoints.restore(step, **like)
    params = optim.averaged(found["opt_state"]) if is_averaged else found["params"]
    return params, found.get("batch_stats", {})


def _abstract(function: Callable[[], Any], mesh: Mesh) -> Any:
    """Returns shapes, types and sharding of a function's result, without computing it."""
    copies = sharding.replicated(mesh)
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=copies),
        jax.eval_shape(function),
    )


def abstract_variables(network: MAE | IMAE | Classifier) -> dict[str, Any]:
    """Returns shapes and types of a model's arrays, by the names in `checkpoint.ARRAYS`."""
    params, batch_stats = jax.eval_shape(lambda: init_variables(network, seed=0))
    return {"params": params} | ({"batch_stats": batch_stats} if batch_stats else {})


def abstract_params(network: MAE | IMAE | Classifier, mesh: Mesh) -> Any:
    """Returns shapes, types and sharding of a model's parameters."""
    return _abstract(lambda: init_params(network, seed=0), mesh)


def check_same_patches(run: TrainedRun, student: Any, key: str) -> None:
    """Raises UserError unless a run's model has the student's image and patch sizes."""
    for what, theirs, ours in (
        ("image size", run.model.image_size, student.image_size),
        ("channels", run.model.channels, student.channels),
        ("patch size", run.model.patch_size, student.patch_size),
    ):
        _check_equal(run, key, what, theirs, ours)


def _check_equal(
    run: TrainedRun, key: str, what: str, theirs: object, ours: object
) -> None:
    if theirs != ours:
        raise UserError(
            f"{key}={str(run.workdir)!r}: its {what} is {theirs}, the student's is {ours}; "
            "they must be equal"
        )


def load_teacher(workdir: str | Path, student: Any, key: str, mesh: Mesh) -> TrainedRun:
    """Loads a MAE run and checks that it can teach `student`.

    Raises:
      UserError: if it is no MAE, or its decoder width or patches differ from the student's.
    """
    run = load_run(workdir, key, mesh)
    if run.config.model.name != "mae":
        title = run.kind.title
        raise UserError(f"{key}={str(workdir)!r} is {title} run; a teacher is a MAE run")
    check_same_patches(run, student, key)
    widths = run.model.decoder_size.width, student.decoder_size.width
    _check_equal(run, key, "decoder width", *widths)
    return _computed_like(run, student)


def load_baseline(workdir: str | Path, student: Any, key: str, mesh: Mesh) -> TrainedRun:
    """Loads an i-MAE run trained without distillation, as a baseline of `student`.

    Raises:
      UserError: if it is another kind of run, or its patches or number of images in a
        mixture differ from the student's.
    """
    run = load_run(workdir, key, mesh)
    is_distilled = run.kind.is_distilled(run.config)
    if run.config.model.name != "imae" or is_distilled:
        kind = "a distilled i-MAE" if is_distilled else run.kind.title
        raise UserError(
            f"{key}={str(workdir)!r} is {kind} run; it must be an i-MAE run with "
            "loss.distill_weight=0"
        )
    check_same_patches(run, student, key)
    if student.is_fed_mixtures:
        counts = run.model.sources, student.sources
        _check_equal(run, key, "number of images in a mixture", *counts)
    return _computed_like(run, student)


def _computed_like(run: TrainedRun, student: Autoencoder) -> TrainedRun:
    """Returns the run with its model's compute choices replaced by the student's."""
    network = run.model.clone(compute=student.compute)
    return dataclasses.replace(run, model=network)
