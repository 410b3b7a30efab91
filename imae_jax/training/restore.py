"""The state that training starts or resumes from."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import optax

from imae_jax.data import image_names
from imae_jax.data.dataset import Dataset
from imae_jax.errors import UserError
from imae_jax.storage.checkpoint import Checkpoints
from imae_jax.storage.workdir import check_same_config, config_of
from imae_jax.training import trained_run
from imae_jax.training.setup import Setup, random_settings, run_meta
from imae_jax.training.state import TrainState, init_state
from imae_jax.training.trained_run import TrainedRun


def check_same_data(found: Mapping, stored: Mapping, what: Sequence[str]) -> None:
    """Raises UserError if the data set is not the one that a run was trained on.

    Args:
      found, stored: metadata of the current data set and of the run's, see
        `setup.run_meta`.
      what: entries that must be equal.
    """
    for name in what:
        if found[name] != stored.get(name):
            raise UserError(
                f"the data set has changed since the run began: its {name} was "
                f"{stored.get(name)} and is {found[name]}. Give the data it began with, or "
                "another workdir"
            )


def check_evaluated_data(dataset: Dataset, meta: Mapping) -> None:
    """Raises UserError unless a run can be measured on a data set.

    Args:
      dataset: the data set as it is now.
      meta: metadata of the run's checkpoint.
    """
    found = dict(
        image_shape=list(dataset.image_shape), class_names=list(dataset.class_names)
    )
    # Imported weights have no class names.
    known = [name for name in found if meta[name] or name != "class_names"]
    check_same_data(found, meta, known)
    # Imported weights may be measured on any images.
    is_imported = "imported" in meta.get("config", {})
    if not is_imported and image_names.is_drawn_anew(dataset, meta.get("images", {})):
        raise UserError(
            f"the files in {dataset.path} are not those that the run began with, so other "
            "images are held out, and some of them were trained on: restore the files, or "
            "put the held-out images into a folder test/ and train again"
        )


def _check_same_files(setup: Setup, meta: Mapping) -> None:
    """Raises UserError if a resumed run would be fed or measured on other files."""
    known = meta.get("images", {})  # earlier versions lack it
    if known and (found := setup.image_digests) != known:
        changed = sorted(x for x in found.keys() | known if found.get(x) != known.get(x))
        raise UserError(
            f"the names of the image files of {' and '.join(changed)} in "
            f"{setup.dataset.path} have changed since the run began: give the files it "
            "began with, or another workdir"
        )


def check_same_random_numbers(meta: Mapping) -> None:
    """Raises UserError if JAX is set to draw other random numbers than the run drew.

    Args:
      meta: metadata of the run's checkpoint; those of earlier versions lack the settings.
    """
    now = random_settings()
    for name, value in meta.get("random_settings", {}).items():
        if now.get(name) != value:
            raise UserError(
                f"{name} was {value!r} when the run began and is {now.get(name)!r}, which "
                "gives other random numbers: set it as it was, or take another workdir"
            )


def check_same_teacher(teacher: TrainedRun, digest: str) -> None:
    """Raises UserError if a resumed run was distilled from another teacher."""
    if teacher.digest != digest:
        raise UserError(
            f"teacher.init={str(teacher.workdir)!r} has digest {teacher.digest[:12]}, but "
            f"the run began with a teacher of digest {digest[:12]}: give the teacher it "
            "began with, or another workdir"
        )


def starting_params(setup: Setup) -> Any:
    """Returns the initial parameters named by `config.init`; None for random ones.

    For a classifier, those of its encoder only.
    """
    config = setup.config
    if not config.init:
        return None
    if config.init == "teacher":
        source = setup.teacher
    else:
        source = trained_run.load_run(config.init, "init", setup.mesh)
    assert source is not None, "the config's checks ask for a teacher"
    like = trained_run.abstract_params(setup.model, setup.mesh)
    name = f"init={str(source.workdir)!r}"
    _check_same_heads(source.model, setup.model, name)
    return setup.kind.starting_params(like, source.params, name)


def _check_same_heads(theirs: Any, ours: Any, name: str) -> None:
    """Raises UserError if weights were trained with another number of heads.

    They have the same shapes, and compute something else.
    """
    for part in ("encoder", "decoder"):
        there, here = (getattr(x, f"{part}_size", None) for x in (theirs, ours))
        if there and here and there.heads != here.heads:
            raise UserError(
                f"{name}: its model.{part}.heads is {there.heads}, here it is "
                f"{here.heads}; they must be equal"
            )


def initial_state(
    setup: Setup, optimizer: optax.GradientTransformation, checkpoints: Checkpoints
) -> TrainState:
    """Returns the state to start or resume from.

    This is, in order of preference, the workdir's newest checkpoint, the parameters named
    by `config.init`, or random parameters.
    """
    fresh = setup.model, optimizer, setup.config.seed, setup.mesh
    if not checkpoints.steps():
        return init_state(*fresh, starting_params(setup))

    def read(step: int) -> TrainState:
        meta = checkpoints.meta(step)
        if "config" in meta:  # earlier versions stored it in the run's file only
            check_same_config(setup.config, setup.workdir, config_of(meta["config"]))
        check_same_random_numbers(meta)
        what = ("image_shape", "class_names", "sizes")
        check_same_data(run_meta(setup), meta, what)
        _check_same_files(setup, meta)
        if setup.teacher and setup.is_distilled:
            check_same_teacher(setup.teacher, meta["teacher"]["digest"])
        state = init_state(*fresh)
        arrays = checkpoints.restore(step, **state.arrays)
        skipped = state.skipped + meta["skipped_steps"]
        return dataclasses.replace(state, step=state.step + step, skipped=skipped, **arrays)

    step, state = checkpoints.newest(read)
    checkpoints.set_aside(after=step)
    return state
