"""The report: one self-contained HTML file of whatever a folder of runs holds."""

import base64
from pathlib import Path

from jinja2 import Environment, PackageLoader, select_autoescape

from imae_jax import checkpoint
from imae_jax.checkpoint import CONFIG_FILE, Checkpoints
from imae_jax.errors import UserError
from imae_jax.logs import read_metrics
from imae_jax.report import explorer, figures, summary

REPORT_FILE = "report.html"


def _png(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def find_runs(workdir: Path) -> dict[str, Path]:
    """The runs in a folder: itself, or its sub-folders, by name."""
    folders = [workdir, *sorted(path for path in workdir.iterdir() if path.is_dir())]
    return {path.name: path for path in folders if (path / CONFIG_FILE).exists()}


def find_results(workdir: Path, runs: dict[str, Path]) -> dict[str, float]:
    """The folder's own eval.json; else an i-MAE run's; else any; else nothing."""
    found = [
        checkpoint.read_json(path / "eval.json")
        for path in (workdir, *runs.values())
        if (path / "eval.json").exists()
    ]
    if (workdir / "eval.json").exists():
        return found[0]
    return max(
        found, key=lambda results: "reconstruction/subordinate/mse" in results, default={}
    )


def describe(run: Path) -> dict:
    """What the report says of a run: steps, data, device, versions, every setting."""
    step, meta = None, {}
    if (run / "checkpoints").is_dir():
        with Checkpoints(run) as checkpoints:
            step = checkpoints.latest_step()
            meta = checkpoints.meta(step) if step is not None else {}
    metrics = read_metrics(run)
    return {
        "step": step,
        "epochs": metrics[-1]["epoch"] if metrics else 0,
        "device": meta.get("device", "unknown"),
        "versions": meta.get("versions", {}),
        "settings": checkpoint.flatten(checkpoint.read_json(run / CONFIG_FILE)),
    }


def write_report(workdir: str | Path) -> Path:
    """Writes `report.html` into a folder of runs, or into a run's own.

    Raises:
      UserError: if there is no run.
    """
    workdir = Path(workdir).expanduser().absolute()
    runs = find_runs(workdir) if workdir.is_dir() else {}
    if not runs:
        raise UserError(f"workdir {str(workdir)!r} holds no run to report on")
    results = find_results(workdir, runs)
    pictures = {
        name: _png((path / "figures" / "reconstructions.png").read_bytes())
        for name, path in runs.items()
        if (path / "figures" / "reconstructions.png").exists()
    }
    metrics = {name: read_metrics(path) for name, path in runs.items()}
    environment = Environment(
        loader=PackageLoader("imae_jax.report"), autoescape=select_autoescape()
    )
    page = environment.get_template("report.html").render(
        title=workdir.name,
        tables=summary.tables(results),
        explorers=explorer.read_runs(runs),
        pictures=pictures,
        curves=_png(figures.as_png(figures.draw_curves(metrics))),
        runs={name: describe(path) for name, path in runs.items()},
    )
    checkpoint.write_text(workdir / REPORT_FILE, page)
    return workdir / REPORT_FILE
