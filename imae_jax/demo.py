"""The whole pipeline in one call: every run of a config trained, measured and reported."""

from pathlib import Path

from ml_collections import ConfigDict

from imae_jax import checkpoint, runs, train
from imae_jax.report import html


def demo(config: ConfigDict, workdir: str | Path) -> tuple[dict[str, float], Path]:
    """Trains and evaluates the teacher and the i-MAE runs, then writes the report.

    Killed and called again, it goes on where it was.

    Args:
      config: a section per run, see `configs/demo.py`.
      workdir: gets a folder per run, `eval.json` and `report.html`.
    Returns:
      The numbers of `eval.json`, and the report's path. The i-MAE run's stand under their
      own names, the other runs' below the run's name.
    """
    workdir = runs.open_workdir(workdir)
    teacher_dir = workdir / "teacher"
    students = {"imae_without_distillation": config.imae_without_distillation}
    students["imae"] = config.imae
    for student in students.values():
        student.teacher.init = str(teacher_dir)
    baselines = config.imae.evals.separability.baseline_runs
    baselines.without_distillation = str(workdir / "imae_without_distillation")

    results = {}
    for name, run_config in {"teacher": config.teacher, **students}.items():
        train.train(run_config, workdir / name)
        numbers = train.evaluate(run_config, workdir / name)
        prefix = "" if name == "imae" else f"{name}/"
        results |= {prefix + key: value for key, value in numbers.items()}
    checkpoint.write_json(workdir / train.EVAL_FILE, results)
    return results, html.write_report(workdir)
