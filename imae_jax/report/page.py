"""The report on a folder of runs: one self-contained HTML file."""

import base64
import itertools
import shutil
from collections.abc import Mapping
from pathlib import Path

from jinja2 import Environment, PackageLoader, select_autoescape

from imae_jax.errors import UserError
from imae_jax.evaluators.tables import branches_of
from imae_jax.models.branches import PAIR
from imae_jax.report import (
    charts,
    explorer,
    headlines,
    latent_pictures,
    panels,
    questions,
    study_tables,
    summary,
    training_curves,
)
from imae_jax.report.saved_runs import SavedRun, read_runs
from imae_jax.storage import atomic_files, pytrees
from imae_jax.storage.local_paths import local_path

REPORT_FILE = "report.html"

# Columns and lines of plain text where there is no terminal to fit it into.
WITHOUT_TERMINAL = (200, 50)

# Number of runs that are shown with curves and pictures; tables show all.
PICTURED_RUNS = 12

# Pictures in a run's figures/, and their captions.
PICTURES = {
    "reconstructions.png": (
        "Held-out images. Grey squares are masked patches. Raw is the decoder's output "
        "of one pass; it was not trained on the patches that the encoder saw, and a "
        "decoder of cross-attention leaves them at the mean colour. Rebuilt: "
        "every patch as predicted in passes in which it was masked. No pixel of "
        "either is copied from a target."
    ),
    latent_pictures.FILE: (
        "Latents as colours: their first three principal components, each position's mean "
        "subtracted. Beside a branch's latents of the mixture are the teacher's of that "
        "image alone in the same colours: the more alike, the more of the image the "
        "branch holds. Attention: of the last block's class token, on the whole image."
    ),
    explorer.SWEEP_FILE: (
        "One pair of held-out images over alpha, the subordinate image's weight, and the "
        "fraction of masked patches. Every patch as predicted when it was masked."
    ),
}


def read_as_text(workdir: str | Path) -> str:
    """Formats the tables of the runs in a folder as plain text, for the terminal."""
    runs, _ = read_runs(local_path(workdir, "workdir").absolute())
    width, _ = shutil.get_terminal_size(WITHOUT_TERMINAL)
    notes = [f"{name}: {run.outdated}\n" for name, run in runs.items() if run.outdated]
    return "".join(notes) + summary.as_text(*results_of(runs), width)


def results_of(runs: Mapping[str, SavedRun]) -> tuple[dict, dict]:
    """Returns the metrics and the settings of the runs that have been evaluated."""
    found = {name: run for name, run in runs.items() if run.results is not None}
    results = {name: run.results for name, run in found.items()}
    return results, {name: run.settings for name, run in found.items()}


def find_pictures(run: Path) -> list[tuple[str, str]]:
    """Returns (data URI, caption) of each of `PICTURES` that a run has."""
    found = []
    for name, shows in PICTURES.items():
        path = run / "figures" / name
        if path.exists():
            data = base64.b64encode(path.read_bytes()).decode()
            found.append((f"data:image/png;base64,{data}", shows))
    return found


def measured_at(settings: Mapping[str, Mapping]) -> str:
    """Alphas and mask ratios of a run's headlines; empty if unknown."""
    found = [
        settings[key]
        for key in (
            "reconstruction/subordinate/mse",
            "separability/subordinate/r2",
            "semantics/subordinate/accuracy",
            "recognition/subordinate/accuracy",
        )
        if key in settings
    ]
    numbers = {
        key.replace("_", " "): " and ".join(
            f"{x:g}" for x in sorted({s[key] for s in found})
        )
        for key in ("alpha", "mask_ratio")
    }
    return ", ".join(f"{key} {value}" for key, value in numbers.items() if value)


def describe(run: SavedRun) -> dict:
    """Collects a run's data set, steps, time, device, versions and settings."""
    last = run.metrics[-1] if run.metrics else {}
    return {
        "data": run.config["data"]["name"],
        "step": run.step,
        "epochs": last.get("epoch", 0),
        "minutes": last.get("seconds", 0) / 60,
        "device": run.meta.get("device", "unknown"),
        "versions": run.meta.get("versions", {}),
        "settings": pytrees.flatten(run.config),
        "left_out": run.left_out,
        "outdated": run.outdated,
    }


def write_report(workdir: str | Path) -> Path:
    """Writes `report.html` into a folder of runs or studies, or of a single run.

    Runs and studies that cannot be read are named in it, with the reason.

    Raises:
      UserError: if there is no run or study that can be read.
    """
    workdir = local_path(workdir, "workdir").absolute()
    if not workdir.is_dir():
        raise UserError(f"workdir {str(workdir)!r} holds no run to report on")
    runs, broken_runs = read_runs(workdir)
    found_studies, broken_studies = study_tables.read(workdir)
    broken = broken_runs | broken_studies
    if not (runs or found_studies):
        reasons = "".join(f"; {name}: {reason}" for name, reason in broken.items())
        raise UserError(f"workdir {str(workdir)!r} holds no run to report on{reasons}")
    results, settings = results_of(runs)
    described = {name: describe(run) for name, run in runs.items()}
    # Those with pictures and curves, so that a page of hundreds is made in seconds.
    pictured = dict(itertools.islice(runs.items(), PICTURED_RUNS))
    folders = {name: run.folder for name, run in pictured.items()}
    metrics = {name: run.metrics for name, run in pictured.items()}
    environment = Environment(
        loader=PackageLoader("imae_jax.report"),
        autoescape=select_autoescape(),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found_panels = panels.read_runs(folders)
    page = environment.get_template("report.html").render(
        title=workdir.name,
        lead=choose_lead(results, described, found_panels),
        measured={name: measured_at(found) for name, found in settings.items()},
        explorers=found_panels,
        sections=questions.sections(results, settings, pictured),
        studies=[
            (study_tables.tables(study), study_tables.charts(study))
            for study in found_studies
        ],
        curves=runs and [charts.training(metrics), *training_curves.measured(metrics)],
        num_pictured=len(pictured),
        pictures={
            name: found
            for name, folder in folders.items()
            if (found := find_pictures(folder))
        },
        runs=described,
        broken=broken,
        most_sources=max((len(branches_of(x)) for x in results.values()), default=PAIR),
        has_mixtures=any(
            run["settings"]["model.name"] == "imae" for run in described.values()
        ),
    )
    atomic_files.write_text(workdir / REPORT_FILE, page)
    return workdir / REPORT_FILE


def choose_lead(
    results: Mapping[str, Mapping[str, float]],
    described: Mapping[str, Mapping],
    found_panels: Mapping[str, Mapping | None],
) -> dict:
    """Chooses the run that the page begins with: one with a panel, if there is one.

    Returns:
      Its `run`, `line`, see `headlines.lead`, `beside`, the gains of others, `sources`, the
      number of images in a mixture, and `strip`, see `panels.draw_strip`; empty if no run's
      separability was measured.
    """
    kinds = {"imae": "i-MAE", "mae": "MAE"}
    for name in sorted(results, key=lambda name: not found_panels.get(name)):
        kind = kinds.get(described[name]["settings"]["model.name"])
        if kind and (line := headlines.lead(results[name], kind)):
            strip = (found_panels.get(name) or {}).get("strip", ())
            beside = headlines.other_gains(results[name])
            count = len(branches_of(results[name]))
            found = {"run": name, "line": line, "beside": beside, "strip": strip}
            return found | {"sources": count}
    return {}
