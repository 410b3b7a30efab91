"""Demo: trains and evaluates teacher, baseline and i-MAE, and writes the report."""

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from imae_jax import evaluation, pretrained
from imae_jax.config.checks import check_keys
from imae_jax.errors import UserError, naming, require
from imae_jax.report import figures, page
from imae_jax.storage import atomic_files
from imae_jax.storage.atomic_files import EVAL_FILE, SETTINGS_FILE
from imae_jax.storage.local_paths import check_paths
from imae_jax.storage.workdir import open_workdir, settle_dtype
from imae_jax.training import pictures, setup
from imae_jax.training.loop import train

logger = logging.getLogger(__name__)

PHOTOGRAPHS_FILE = "photographs.png"
TASK_FILE = "mixtures.png"
STUDENTS = ("imae_without_distillation", "imae")


def connect(config: ConfigDict, workdir: Path) -> dict[str, ConfigDict]:
    """Returns the runs in training order, with teacher and baseline filled in.

    Raises:
      UserError: if a section is missing, or names a teacher of its own.
    """
    needed = dict.fromkeys(("imae", "imae_without_distillation", "teacher"), "model")
    for name, key in (needed | dict(photographs="weights")).items():
        if name not in config or key not in config[name]:
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


def draw_photographs(config: ConfigDict) -> Figure:
    """Draws photographs, mixed in pairs and separated by trained weights.

    Args:
      config: section `photographs`, see `configs/demo.py`.
    Raises:
      UserError: if a file cannot be read, the weights are not of an i-MAE of two images, or
        a number is out of range.
    """
    paths = config.files
    given = isinstance(paths, tuple) and len(paths) > 1
    require(given, "files", paths, "two or more image files, such as ('a.jpg', 'b.jpg')")
    model = pretrained.load(config.weights)
    subordinate = np.stack([model.open_image(path) for path in paths])
    dominant = np.roll(subordinate, -1, axis=0)
    apart = model.separate(
        subordinate, dominant, alpha=config.alpha, mask_ratio=config.mask_ratio
    )
    columns = {"mixture": 255 * apart.mixture}
    for branch, target in (("subordinate", subordinate), ("dominant", dominant)):
        if (rebuilt := getattr(apart, branch)) is not None:
            columns[f"{branch}\nrebuilt"] = 255 * rebuilt
        columns[f"{branch}\ntarget"] = target
    return figures.draw_grid(columns)


def demo(config: ConfigDict, workdir: str | Path) -> Path:
    """Trains and evaluates the teacher and the i-MAE runs, then writes the report.

    Call it again to resume after an interruption.

    Args:
      config: a section per run and one of the first picture, see `configs/demo.py`.
      workdir: gets `photographs.png`, made by weights that are there already,
        `mixtures.png`, which shows what the i-MAE is given, a folder per run,
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
    if config.photographs.weights:
        with naming("photographs"):
            photographs = figures.as_png(draw_photographs(config.photographs))
        atomic_files.write_bytes(workdir / PHOTOGRAPHS_FILE, photographs)
        weights = Path(config.photographs.weights).name
        logger.info(
            f"photographs, mixed and separated by {weights}: {workdir / PHOTOGRAPHS_FILE}"
        )
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
