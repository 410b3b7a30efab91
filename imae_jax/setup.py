"""What a run is made of: data, devices, model, teacher, loss and starting state."""

import dataclasses
from importlib import metadata
from pathlib import Path

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from imae_jax import runs, sharding, steps, validate, validate_evals
from imae_jax.checkpoint import Checkpoints
from imae_jax.data import sources
from imae_jax.model import IMAE, MAE

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


@dataclasses.dataclass(frozen=True)
class Setup:
    """All that training and evaluation share, built from a checked config."""

    config: ConfigDict
    workdir: Path
    dataset: sources.Dataset
    mesh: Mesh
    model: MAE | IMAE
    teacher: runs.TrainedRun | None

    @property
    def train_images(self):
        """[N, H, W, C] uint8."""
        return self.dataset.splits["train"].images

    @property
    def is_distilled(self) -> bool:
        """Whether the teacher takes part in training."""
        return self.teacher is not None and self.config.loss.distill_weight > 0


def check(config: ConfigDict, workdir: Path) -> tuple[sources.Dataset, Mesh]:
    """Checks all that can be said before the teacher is there; returns data and devices."""
    validate.check_sections(config)
    runs.check_same_config(config, workdir)
    dataset = sources.load(config.data.name, config.data.dir)
    mesh = sharding.make_mesh()
    validate.check(config, dataset, mesh.size)
    model = runs.build_model(config, dataset.image_shape)
    validate_evals.check_evals(config, model, dataset, mesh.size)
    return dataset, mesh


def set_up(config: ConfigDict, workdir: Path) -> Setup:
    """Checks the config, loads data and teacher; nothing is compiled yet."""
    dataset, mesh = check(config, workdir)
    model = runs.build_model(config, dataset.image_shape)
    teacher = None
    if config.model.name == "imae" and config.teacher.init:
        teacher = runs.load_teacher(config.teacher.init, model, "teacher.init", mesh)
    return Setup(config, workdir, dataset, mesh, model, teacher)


def make_loss(setup: Setup):
    """The loss that the config asks for, see `steps.make_loss`."""
    config, model, dataset = setup.config, setup.model, setup.dataset
    common = dict(mask_ratio=config.mask.ratio, norm_pix=config.loss.norm_pix)
    if config.model.name == "mae":
        objective = steps.mae_objective(model, **common)
    else:
        objective = steps.imae_objective(
            model,
            setup.teacher and setup.teacher.model,
            **common,
            **config.mix,
            teacher_input=config.teacher.input,
            distill_weight=config.loss.distill_weight,
        )
    statistics = dict(mean=dataset.mean, std=dataset.std)
    return steps.make_loss(objective, seed=config.seed, **statistics, **config.augment)


def starting_params(setup: Setup):
    """The parameters that `config.init` names, or None for random ones."""
    config = setup.config
    if not config.init:
        return None
    if config.init == "teacher":
        source = setup.teacher
    else:
        source = runs.load_run(config.init, "init", setup.mesh)
    like = runs.abstract_params(setup.model, setup.mesh)
    return runs.warm_start(like, source.params, f"init={str(source.workdir)!r}")


def run_meta(setup: Setup) -> dict:
    """What a checkpoint says about itself."""
    teacher, dataset = setup.teacher, setup.dataset
    return {
        "image_shape": list(dataset.image_shape),
        "mean": dataset.mean.tolist(),
        "std": dataset.std.tolist(),
        "class_names": list(dataset.class_names),
        "teacher": teacher and {"step": teacher.step, "digest": teacher.digest},
        "config": runs.as_json(setup.config),
        "device": f"{len(jax.devices())} x {jax.devices()[0].device_kind}",
        "versions": {name: metadata.version(name) for name in PACKAGES},
    }


def initial_state(setup: Setup, optimiser, checkpoints: Checkpoints) -> steps.TrainState:
    """The state to go on from; the first that exists counts:

    the workdir's newest checkpoint; what `config.init` names; random parameters.
    """
    step = checkpoints.latest_step()
    if step is None:
        params = starting_params(setup)
        state = steps.init_state(setup.model, optimiser, setup.config.seed, setup.mesh)
        return state if params is None else state.replace(params=params)
    if setup.is_distilled:
        runs.check_same_teacher(setup.teacher, checkpoints.meta(step)["teacher"]["digest"])
    state = steps.init_state(setup.model, optimiser, setup.config.seed, setup.mesh)
    arrays = checkpoints.restore(step, params=state.params, opt_state=state.opt_state)
    return state.replace(step=state.step + step, **arrays)
