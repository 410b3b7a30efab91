"""Demo: trains and evaluates teacher, baseline and i-MAE, and writes the report."""

import logging
from collections.abc import Mapping
from pathlib import Path

from ml_collections import ConfigDict

from imae_jax import evaluation
from imae_jax.config.checks import check_keys
from imae_jax.errors import UserError, naming
from imae_jax.report import figures, page
from imae_jax.storage import atomic_files
from imae_jax.storage.atomic_files import EVAL_FILE, SETTINGS_FILE
from imae_jax.storage.local_paths import check_paths
from imae_jax.storage.workdir import open_workdir, settle_dtype
from imae_jax.training import pictures, setup
from imae_jax.training.loop import train

logger = logging.getLogger(__name__)

TASK_FILE = "mixtures.png"
STUDENTS = ("imae_without_distillation", "imae")


def connect(config: ConfigDict, workdir: Path) -> dict[str, ConfigDict]:
    """Returns the runs in training order, with teacher and baseline filled in.

    Raises:
      UserError: if a section is missing, or names a teacher of its own.
    """
    for name in ("imae", "imae_without_distillation", "teacher"):
        if name not in config or "model" not in config[name]:
            raise UserError(f"--config describes no demo: it has no section {name!r}")
    for name in ("reconstruction", "separability"):
        if "evals" not in config.imae or name not in config.imae.evals:
            raise UserError(
                f"--config describes no demo: it has no section 'imae.evals.{name}'"
            )
    for name in STUDENTS:
        teacher = config[name].teacher
        if teacher.init:
            raise UserError(
                f"{name}: teacher.init={teacher.init!r}: the demo trains its own teacher"
            )
        teacher.init = str(workdir / "teacher")
    baselines = config.imae.evals.separability.baseline_runs
    baselines.without_distillation = str(workdir / "imae_without_distillation")
    return {name: config[name] for name in ("teacher", *STUDENTS)}


def demo(config: ConfigDict, workdir: str | Path) -> Path:
    """Trains and evaluates the teacher and the i-MAE runs, then writes the report.

    Call it again to resume after an interruption.

    Args:
      config: a section per run, see `configs/demo.py`.
      workdir: gets `mixtures.png`, which shows what the i-MAE is given, a folder per run,
        `report.html`, and `eval.json` and `eval_settings.json` with all metrics; those of
        runs other than the i-MAE are prefixed with the run's name.
    Returns:
      The report's path.
    Raises:
      UserError: for bad input, before the first run is trained.
    """
    check_paths(config)
    workdir = open_workdir(workdir)
    configs = connect(config, workdir)
    settle_dtype(configs.values(), [workdir / name for name in configs])
    # All keys first: to check the rest, scenes are drawn.
    for name, run_config in configs.items():
        with naming(name):
            check_keys(run_config)
    for name, run_config in configs.items():
        with naming(name):
            dataset, _ = setup.check(run_config, workdir / name)
    task = figures.as_png(pictures.draw_task(configs["imae"], dataset))
    atomic_files.write_bytes(workdir / TASK_FILE, task)
    logger.info(
        f"two images, mixed and masked, are to be told apart: {workdir / TASK_FILE}"
    )
    results: dict[str, float] = {}
    settings: dict[str, Mapping] = {}
    for name, run_config in configs.items():
        train(run_config, workdir / name)
        numbers = evaluation.evaluate(run_config, workdir / name)
        used = atomic_files.read_json(workdir / name / SETTINGS_FILE)
        prefix = "" if name == "imae" else f"{name}/"
        results |= {prefix + key: value for key, value in numbers.items()}
        settings |= {prefix + key: value for key, value in used.items()}
    atomic_files.write_json(workdir / SETTINGS_FILE, settings)
    atomic_files.write_json(workdir / EVAL_FILE, results)
    return page.write_report(workdir)
