"""Runs on disk: their config, model and parameters; a teacher, a baseline, a start."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from imae_jax import optim, steps
from imae_jax.distributed import sharding
from imae_jax.errors import UserError
from imae_jax.models import layers
from imae_jax.models.classifier import Classifier
from imae_jax.models.factory import build_autoencoder, build_classifier
from imae_jax.models.imae import IMAE
from imae_jax.models.mae import MAE
from imae_jax.storage import pytrees
from imae_jax.storage.checkpoint import Checkpoints
from imae_jax.storage.local_paths import local_path
from imae_jax.storage.workdir import read_config

# What the runs of each `model.name` are called in messages.
KINDS = {"mae": "a MAE", "imae": "an i-MAE", "classifier": "a classifier"}


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """A run's newest checkpoint.

    Attributes:
      workdir, config: where it lies and how it was trained.
      model, params, batch_stats: the network; see `steps.TrainState`. Where an average of
        the parameters is kept (`optim.ema_decay`), that is what counts.
      step: of the checkpoint.
      meta: what was saved beside it, see `setup.run_meta`.
      digest: SHA-256 of the parameters.
    """

    workdir: Path
    config: ConfigDict
    mae: MAE | IMAE | Classifier
    params: Any
    step: int
    meta: Mapping
    digest: str
    batch_stats: Any = dataclasses.field(default_factory=dict)


def build_model(
    config: ConfigDict,
    image_shape: tuple[int, int, int],
    num_classes: int = 0,
    platform: str | None = None,
) -> MAE | IMAE | Classifier:
    """The model of a config that has been checked.

    Args:
      config: of a run.
      image_shape: (H, W, C).
      num_classes: only a classifier needs it.
      platform: where it will be computed, "cpu", "gpu" or "tpu"; None: here.
    """
    form = layers.choose(**config.compute, platform=platform or jax.default_backend())
    fields = dict(config.model) | dict(image_shape=image_shape, compute=form)
    if fields["name"] == "classifier":
        del fields["name"]
        return build_classifier(**fields, num_classes=num_classes)
    branches = {"branches": config.loss.branches} if fields["name"] == "imae" else {}
    return build_autoencoder(**fields, **branches)


def make_optimiser(
    config: ConfigDict, network: MAE | IMAE | Classifier, schedule: optax.Schedule
) -> optax.GradientTransformation:
    """The optimiser of a config that has been checked."""
    section = config.optim
    if isinstance(network, Classifier) and network.is_probe:
        return optim.heads_only(optim.lars(schedule))
    update = optim.adamw(schedule, section.betas, section.weight_decay, section.clip_norm)
    if not isinstance(network, Classifier):
        return update
    return optim.finetuning(
        update,
        depth=network.encoder_size.depth,
        layer_decay=section.layer_decay,
        ema_decay=section.ema_decay,
    )


def load_run(
    workdir: str | Path, key: str, mesh: Mesh, step: int | Literal["best"] | None = None
) -> TrainedRun:
    """Loads a run's checkpoint onto the mesh.

    Args:
      workdir: the run.
      key: the config key that named it, for messages.
      mesh: the devices; parameters are copied to each.
      step: which checkpoint; "best": that of the lowest loss; None: the newest that is not
        damaged.
    Raises:
      UserError: if there is no run, no checkpoint, or its parameters do not fit its config.
    """
    workdir = local_path(workdir, key)
    if not workdir.is_dir():
        raise UserError(f"{key}={str(workdir)!r}: there is no such folder")
    try:
        config = read_config(workdir)
        with Checkpoints(workdir) as checkpoints:

            def read(step: int) -> TrainedRun:
                meta = checkpoints.meta(step)
                num_classes = len(meta["class_names"])
                network = build_model(config, tuple(meta["image_shape"]), num_classes)
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
    """A checkpoint's parameters, or their average where one is kept, and statistics."""
    optimiser = make_optimiser(config, network, lambda step: 0.0)
    like = _abstract(lambda: steps.fresh_state(network, optimiser, seed=0), mesh).arrays
    is_averaged = config.optim.get("ema_decay") is not None
    del like["params" if is_averaged else "opt_state"]
    found = checkpoints.restore(step, **like)
    params = optim.averaged(found["opt_state"]) if is_averaged else found["params"]
    return params, found.get("batch_stats", {})


def _abstract(function: Callable[[], Any], mesh: Mesh):
    """Shapes, types and sharding of what it returns, without computing it."""
    copies = sharding.replicated(mesh)
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=copies),
        jax.eval_shape(function),
    )


def abstract_variables(network: MAE | IMAE | Classifier) -> dict[str, Any]:
    """What a model's arrays look like, by the names in `checkpoint.ARRAYS`."""
    params, batch_stats = jax.eval_shape(lambda: steps.init_variables(network, seed=0))
    return {"params": params} | ({"batch_stats": batch_stats} if batch_stats else {})


def abstract_params(network: MAE | IMAE | Classifier, mesh: Mesh):
    """What a model's parameters look like."""
    return _abstract(lambda: steps.init_params(network, seed=0), mesh)


def check_same_patches(run: TrainedRun, student: IMAE, key: str) -> None:
    """Raises UserError if a run's model cannot be shown the student's masked images."""
    for what, theirs, ours in (
        ("image size", run.model.image_size, student.image_size),
        ("channels", run.model.channels, student.channels),
        ("patch size", run.model.patch_size, student.patch_size),
    ):
        _check_equal(run, key, what, theirs, ours)


def _check_equal(run: TrainedRun, key: str, what: str, theirs, ours) -> None:
    if theirs != ours:
        raise UserError(
            f"{key}={str(run.workdir)!r}: its {what} is {theirs}, the student's is {ours}; "
            "they must be equal"
        )


def load_teacher(workdir: str | Path, student: IMAE, key: str, mesh: Mesh) -> TrainedRun:
    """Loads a MAE run and checks that it can teach `student`.

    Raises:
      UserError: if it is no MAE, or its decoder width or patches differ from the student's.
    """
    run = load_run(workdir, key, mesh)
    if not isinstance(run.model, MAE):
        kind = KINDS[run.config.model.name]
        raise UserError(f"{key}={str(workdir)!r} is {kind} run; a teacher is a MAE run")
    check_same_patches(run, student, key)
    widths = run.model.decoder_size.width, student.decoder_size.width
    _check_equal(run, key, "decoder width", *widths)
    return _computed_like(run, student)


def load_baseline(workdir: str | Path, student: IMAE, key: str, mesh: Mesh) -> TrainedRun:
    """Loads an i-MAE run that was trained without distillation, to compare `student` with.

    Raises:
      UserError: if it is another kind of run, or its patches differ from the student's.
    """
    run = load_run(workdir, key, mesh)
    if not isinstance(run.model, IMAE) or run.config.loss.distill_weight:
        is_imae = isinstance(run.model, IMAE)
        kind = "a distilled i-MAE" if is_imae else KINDS[run.config.model.name]
        raise UserError(
            f"{key}={str(workdir)!r} is {kind} run; it must be an i-MAE run with "
            "loss.distill_weight=0"
        )
    check_same_patches(run, student, key)
    return _computed_like(run, student)


def _computed_like(run: TrainedRun, student: IMAE) -> TrainedRun:
    """The run with its model in the student's types and forms."""
    network = run.model.clone(compute=student.compute)
    return dataclasses.replace(run, model=network)


def check_same_data(found: Mapping, stored: Mapping, what: Sequence[str]) -> None:
    """Raises UserError if the data set is not the one that a run was trained on.

    Args:
      found, stored: what is known of the one and of the other, see `setup.run_meta`.
      what: must be equal.
    """
    for name in what:
        if found[name] != stored.get(name):
            raise UserError(
                f"the data set has changed since the run began: its {name} was "
                f"{stored.get(name)} and is {found[name]}. Give the data it began with, or "
                "another workdir"
            )


def check_same_teacher(teacher: TrainedRun, digest: str) -> None:
    """Raises UserError if a run to be resumed was distilled from another teacher."""
    if teacher.digest != digest:
        raise UserError(
            f"teacher.init={str(teacher.workdir)!r} has digest {teacher.digest[:12]}, but "
            f"the run began with a teacher of digest {digest[:12]}: give the teacher it "
            "began with, or another workdir"
        )


def warm_start(like, loaded, source: str):
    """The parameters of `loaded` for the model whose parameters look `like` this.

    A MAE's `decoder_embed` becomes each of an i-MAE's heads (released code).

    Raises:
      UserError: if they do not fit, with each difference.
    """
    heads = [name for name in like if name.startswith("disentangle_")]
    if heads and "decoder_embed" in loaded:
        loaded = dict(loaded)
        embed = loaded.pop("decoder_embed")
        loaded |= {head: embed for head in heads}
    pytrees.check_same_tree(like, loaded, source)
    # Copies: the state will be donated, the source may be a teacher that stays.
    return jax.tree.map(lambda x: x.copy(), loaded)
