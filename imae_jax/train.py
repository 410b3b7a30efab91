"""Set-up, `train(config, workdir)` and `evaluate(config, workdir)`."""

import dataclasses
import math
import time
from importlib import metadata
from pathlib import Path

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from imae_jax import checkpoint, optim, runs, sharding, steps, validate
from imae_jax.checkpoint import CONFIG_FILE, Checkpoints
from imae_jax.data import pairs, sources
from imae_jax.errors import UserError
from imae_jax.evaluators import EVALUATORS
from imae_jax.evaluators.mixtures import HeldOut
from imae_jax.logs import MetricWriter, Progress, Throughput
from imae_jax.model import IMAE, MAE
from imae_jax.report import figures

EVAL_FILE = "eval.json"
SETTINGS_FILE = "eval_settings.json"
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


def train(
    config: ConfigDict, workdir: str | Path, *, stop_at: int | None = None
) -> steps.TrainState:
    """Trains a MAE or an i-MAE, going on where the workdir's last checkpoint stands.

    Args:
      config: see `configs/`.
      workdir: the run's folder.
      stop_at: saves and returns after this step, for a run that is to go on later.
    Returns:
      The final state.
    Raises:
      UserError: for bad input, before anything is compiled, and if the loss stops being
        finite.
    """
    workdir = runs.open_workdir(workdir)
    setup = set_up(config, workdir)
    total_steps, warmup_steps = validate.run_steps(config, len(setup.train_images))
    schedule = optim.learning_rate(
        config.optim.blr, config.train.batch_size, warmup_steps, total_steps
    )
    optimiser = optim.adamw(schedule, config.optim.betas, config.optim.weight_decay)
    with Checkpoints(workdir, config.checkpoint.keep) as checkpoints:
        state = initial_state(setup, optimiser, checkpoints)
        checkpoint.write_json(workdir / CONFIG_FILE, runs.as_json(config))
        train_step = steps.make_train_step(make_loss(setup), optimiser, setup.mesh)
        last_step = min(total_steps, stop_at or total_steps)
        return _loop(setup, state, train_step, schedule, checkpoints, last_step)


def _loop(setup, state, train_step, schedule, checkpoints, last_step):
    """Runs `train_step` up to `last_step`; logs, saves, and returns the state."""
    config, images = setup.config, setup.train_images
    num_examples, batch_size = len(images), config.train.batch_size
    teacher_params = setup.teacher.params if setup.is_distilled else None
    meta = run_meta(setup)
    first_step = int(state.step)
    throughput = Throughput()
    saved_at = time.monotonic()
    with (
        MetricWriter(setup.workdir, first_step) as writer,
        Progress(setup.workdir.name, first_step, last_step) as progress,
    ):
        for step in range(first_step + 1, last_step + 1):
            indices = pairs.batch_indices(num_examples, batch_size, config.seed, step - 1)
            state, metrics = train_step(state, teacher_params, images[indices])
            progress.update(step)

            every = config.checkpoint
            minutes = (time.monotonic() - saved_at) / 60
            is_save = (
                step == last_step
                or (every.every_steps and step % every.every_steps == 0)
                or (every.every_minutes and minutes >= every.every_minutes)
            )
            is_log = step == last_step or step % config.log.every_steps == 0
            if not (is_save or is_log):
                continue
            metrics = {name: float(value) for name, value in metrics.items()}
            check_finite(metrics, step, checkpoints)
            if is_log:
                metrics |= {
                    "lr": float(schedule(step - 1)),
                    "epoch": step * batch_size / num_examples,
                }
                metrics |= throughput.read(step, batch_size)
                writer.write({"step": step, **metrics})
                progress.show(step, metrics)
            if is_save:
                checkpoints.save(step, state.params, state.opt_state, meta)
                saved_at = time.monotonic()
    return state


def check_finite(metrics, step: int, checkpoints: Checkpoints) -> None:
    """Raises UserError if a metric is not finite."""
    for name, value in metrics.items():
        if not math.isfinite(value):
            last = checkpoints.latest_step()
            raise UserError(
                f"{name} is {value} at step {step}; the last good checkpoint is step "
                f"{last or 'none'}. A lower optim.blr or a longer warm-up may help"
            )


def _networks(
    config: ConfigDict, run: runs.TrainedRun, mesh: Mesh
) -> tuple[dict, list[str]]:
    """The predict functions that the evaluators need, and what is missing."""
    networks = {"student": steps.make_predict(run.model, run.params, mesh)}
    missing = []
    if "separability" not in config.evals:
        return networks, missing
    options = config.evals.separability
    path = options.teacher or config.teacher.init
    if not path:
        raise UserError(
            "evals.separability.teacher and teacher.init are empty: separability is "
            "measured against a teacher's latents, give the workdir of a MAE run"
        )
    key = "evals.separability.teacher" if options.teacher else "teacher.init"
    teacher = runs.load_teacher(path, run.model, key, mesh)
    networks["teacher"] = steps.make_predict(teacher.model, teacher.params, mesh)
    random_seed = teacher.config.seed + 1  # not the one the teacher started from
    random = jax.jit(
        lambda: steps.init_params(teacher.model, random_seed),
        out_shardings=sharding.replicated(mesh),
    )()
    networks["random"] = steps.make_predict(teacher.model, random, mesh)
    for name, path in options.baseline_runs.items():
        if path:
            key = f"evals.separability.baseline_runs.{name}"
            baseline = runs.load_run(path, key, mesh)
            runs.check_same_patches(baseline, run.model, key)
            networks[name] = steps.make_predict(baseline.model, baseline.params, mesh)
        else:
            missing.append(name)
    return networks, missing


def evaluate(config: ConfigDict, workdir: str | Path) -> dict[str, float]:
    """Runs every evaluator in `config.evals` on the run's newest checkpoint.

    Writes `eval.json`, `eval_settings.json` and `figures/` into the workdir.

    Returns:
      The numbers of `eval.json`, by name.
    Raises:
      UserError: if the run, its teacher or a baseline run is missing or does not fit.
    """
    workdir = Path(workdir).expanduser().absolute()
    runs.check_same_config(config, workdir)
    dataset = sources.load(config.data.name, config.data.dir)
    mesh = sharding.make_mesh()
    validate.check_evals(config, dataset, mesh.size)
    run = runs.load_run(workdir, "workdir", mesh)
    networks, missing = _networks(config, run, mesh)
    for name in missing:
        print(f"no run for baseline {name!r}: its row is left out")
    held_out = HeldOut(
        dataset=dataset,
        patch_size=run.model.patch_size,
        num_patches=run.model.num_patches,
        mask_ratio=config.mask.ratio,
        norm_pix=config.loss.norm_pix,
    )
    results, settings = {}, {}
    for name, options in config.evals.items():
        used = {
            key: value
            for key, value in options.items()
            if key not in ("teacher", "baseline_runs")
        }
        for metric, value in EVALUATORS[name](networks, held_out, **used):
            results[f"{name}/{metric}"] = value
            settings[f"{name}/{metric}"] = {
                "split": options.split,
                "count": held_out.count(options.split),
                "alpha": options.get("alpha"),
                "mask_ratio": config.mask.ratio,
                "checkpoint": run.step,
            }
    if "reconstruction" in config.evals:
        options = config.evals.reconstruction
        figures.reconstructions(
            networks["student"], held_out, workdir / "figures", **options
        )
    checkpoint.write_json(workdir / SETTINGS_FILE, settings)
    checkpoint.write_json(workdir / EVAL_FILE, results)
    return results
