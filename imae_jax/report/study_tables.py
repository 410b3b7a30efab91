"""Tables, sentences and pictures of a study, with mean and std over seeds."""

import csv
import io
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from imae_jax.evaluators.tables import Table
from imae_jax.report import saved_runs
from imae_jax.report.charts import GREY, ORANGE, STYLE, Chart
from imae_jax.report.figures import as_png
from imae_jax.report.study_statistics import (
    differences,
    half_interval,
    points,
    summary,
)
from imae_jax.storage import atomic_files

STUDY_FILE = "study.json"


def cell(
    values: Sequence[float],
    num_seeds: int,
    form: str = ".3f",
    spread: Callable[[Sequence[float]], float | None] | None = None,
) -> str:
    """Formats a mean and its spread, with the number of seeds if some are missing.

    Args:
      values: one per seed that has it.
      num_seeds: number of seeds of the study.
      form: format of the mean.
      spread: function of the values; the standard deviation by default.
    """
    if not values:
        return "–"
    found = summary(values)
    text = f"{found['mean']:{form}}"
    beside = found["sd"] if spread is None else spread(values)
    if beside is not None:
        text += f" ± {beside:.3f}"
    return text if found["n"] == num_seeds else f"{text} (n={found['n']})"


def caption(study: Mapping) -> str:
    """Caption with data set, seeds, device and training length."""
    seeds = study["seeds"]
    text = f"{study['data']}, {len(seeds)} seed{'s' if len(seeds) > 1 else ''}"
    text += f" ({', '.join(map(str, seeds))}), {study['device']}; {study['training']}."
    if len(seeds) > 1:
        text += " Mean ± standard deviation over seeds."
    if count := len(study["failed"]):
        text += f" {count} cell{'s' if count > 1 else ''} failed."
    return text


def tables(study: Mapping) -> list[Table]:
    """Makes the table of results, and of differences to the first arm."""
    title, columns = f"Study: {study['name']}", list(study["columns"].values())
    rows, apart, seeds = [], [], len(study["seeds"])
    for arm, row in study["rows"].items():
        values = [list(row["values"][name].values()) for name in study["columns"]]
        rows.append((row["label"], [cell(found, seeds) for found in values]))
        found = [differences(study, arm, name) for name in study["columns"]]
        cells = [cell(values, seeds, "+.3f", half_interval) for values in found]
        apart.append((row["label"], cells))
    made = [Table(title, caption(study), columns, rows)]
    if len(rows) > 1:
        note = (
            f"Each arm less “{rows[0][0]}” with the same seed: mean ± half of its 95 % "
            "interval over seeds (Student's t). If it includes 0, the seeds show no "
            "difference. " + finding(study)
        )
        differ = f"{title}: differences"
        made.append(Table(differ, note, columns, apart[1:], is_control=True))
    return made


def finding(study: Mapping) -> str:
    """States what the study shows in its primary column; empty for version 0.1.0's."""
    primary = study.get("primary")
    if primary is None or len(study["rows"]) < 2:
        return ""
    first, *others = study["rows"]
    label, reference = study["columns"][primary], study["rows"][first]["label"]
    said = filter(None, (_difference(study, arm, primary) for arm in others))
    named = "named before the study ran"
    # Older studies did not record it.
    if (begun := study.get("first_primary", primary)) != primary:
        named = f"chosen after the study began with {study['columns'].get(begun, begun)}"
    return f"Primary number, {named}: {label}. Against “{reference}”: {'; '.join(said)}."


def _difference(study: Mapping, arm: str, column: str) -> str:
    """States an arm's difference to the first arm and whether seeds bear it out."""
    values, label = differences(study, arm, column), study["rows"][arm]["label"]
    if not values:
        return ""
    mean, half = statistics.fmean(values), half_interval(values)
    if half is None:
        return f"{label} {mean:+.3f} (one seed: no interval)"
    interval = f"95 % interval {mean - half:+.3f} to {mean + half:+.3f}"
    verdict = "" if abs(mean) > half else ", so no difference is shown"
    return f"{label} {mean:+.3f} ({interval}{verdict})"


def correlation_sentence(study: Mapping) -> str:
    """States the rank correlation, without a word on causes."""
    found = study["correlation"]
    across, up = (study["columns"][name] for name in found["columns"])
    text = (
        f"Rank correlation of {across} and {up} over {found['n']} arms (means over seeds): "
        f"{found['rho']:+.2f}, 95 % interval {found['low']:+.2f} to {found['high']:+.2f} "
        "by a bootstrap over arms"
    )
    is_shown = found["low"] > 0 or found["high"] < 0
    return text + (
        ". It does not say which of them, if either, is the cause."
        if is_shown
        else ": none is shown."
    )


def as_markdown(study: Mapping) -> str:
    """Formats the tables as Markdown."""
    lines = []
    for table in tables(study):
        lines += [f"**{table.title}.** {table.note}", ""]
        lines.append("| arm | " + " | ".join(table.columns) + " |")
        lines.append("|---" * (1 + len(table.columns)) + "|")
        for label, cells in table.rows:
            label = label.replace("|", "\\|")
            lines.append(f"| {label} | " + " | ".join(cells) + " |")
        lines.append("")
    if study.get("correlation"):
        lines += [correlation_sentence(study), ""]
    lines += [f"Failed: {name}: {why}" for name, why in study["failed"].items()]
    return "\n".join(lines).rstrip() + "\n"


def as_csv(study: Mapping) -> str:
    """Formats the values as CSV, a line per arm, column and seed."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["arm", "label", "column", "seed", "value"])
    for arm, row in study["rows"].items():
        for column, values in row["values"].items():
            for seed, value in values.items():
                writer.writerow([arm, row["label"], column, seed, repr(value)])
    return file.getvalue()


def draw(study: Mapping) -> Figure:
    """Draws a panel per column: a dot per seed, the mean with an error bar of one std."""
    columns, rows = study["columns"], study["rows"]
    across = min(4, len(columns))
    down = -(-len(columns) // across)
    height = 0.9 + 0.28 * len(rows)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.0 * across + 1.2, height * down), layout="constrained")
        axes = figure.subplots(down, across, squeeze=False, sharey=True)
        for axis in axes.flat[len(columns) :]:
            axis.remove()
        for axis, (name, label) in zip(axes.flat, columns.items(), strict=False):
            for place, row in enumerate(rows.values()):
                values = list(row["values"][name].values())
                axis.plot(values, [place] * len(values), "o", color=GREY, ms=4)
                if values:
                    found = summary(values)
                    axis.errorbar(
                        found["mean"],
                        place,
                        xerr=found["sd"] or 0,
                        fmt="|",
                        color=ORANGE,
                        capsize=3,
                        ms=12,
                    )
            axis.set_title(label, fontsize=9)
            axis.tick_params(labelsize=8)
            axis.locator_params(axis="x", nbins=5)  # keeps long numbers apart
            axis.grid(axis="x", alpha=0.25)
        axes[0, 0].set_yticks(range(len(rows)), [row["label"] for row in rows.values()])
        axes[0, 0].invert_yaxis()
    return figure


def draw_correlation(study: Mapping) -> Figure:
    """Draws one column against another, a numbered point per arm; their names beside it.

    Points so near to each other that their numbers would overlap share a label.
    """
    names = study["correlation"]["columns"]
    found = points(study, names)
    places = np.array(list(found.values()))
    spread = np.ptp(places, axis=0)
    relative = places / np.where(spread > 0, spread, 1)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.0, 4.8), layout="constrained")
        axis = figure.subplots()
        axis.plot(*places.T, "o", color=ORANGE, ms=5)
        unlabelled = list(range(len(places)))
        while unlabelled:
            distances = np.abs(relative[unlabelled] - relative[unlabelled[0]]).max(axis=1)
            group = [n for n, far in zip(unlabelled, distances, strict=True) if far < 0.02]
            unlabelled = [n for n in unlabelled if n not in group]
            label = ", ".join(str(n + 1) for n in group)
            above: dict[str, Any] = dict(textcoords="offset points", ha="center")
            place = places[group].mean(axis=0)
            axis.annotate(label, place, xytext=(0, 6), fontsize=8, **above)
        arms = [study["rows"][arm]["label"] for arm in found]
        key = "\n".join(f"{n}  {label}" for n, label in enumerate(arms, 1))
        beside: dict[str, Any] = dict(
            transform=axis.transAxes, va="top", fontsize=8, linespacing=1.5
        )
        axis.text(1.02, 1.0, key, **beside)
        axis.set(xlabel=study["columns"][names[0]], ylabel=study["columns"][names[1]])
        axis.grid(alpha=0.25)
    return figure


def charts(study: Mapping) -> list[Chart]:
    """Makes the charts of a study for the report."""
    note = "Dots are seeds; the line is their mean, as wide as the standard deviation."
    made = [Chart(f"Study: {study['name']}, by arm", note, draw(study))]
    if study.get("correlation"):
        note = correlation_sentence(study)
        title = f"Study: {study['name']}, correlation"
        made.append(Chart(title, note, draw_correlation(study)))
    return made


def write(study: Mapping, folder: Path) -> None:
    """Writes `study.json`, `table.md`, `table.csv` and pictures in `figures/`."""
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    atomic_files.write_text(folder / "table.md", as_markdown(study))
    atomic_files.write_text(folder / "table.csv", as_csv(study))
    atomic_files.write_bytes(folder / "figures" / "study.png", as_png(draw(study)))
    if study.get("correlation"):
        picture = as_png(draw_correlation(study))
        atomic_files.write_bytes(folder / "figures" / "correlation.png", picture)
    atomic_files.write_json(folder / STUDY_FILE, study)


def read(workdir: Path) -> tuple[list[dict], dict[str, str]]:
    """Reads the studies of a folder and its subfolders, see `saved_runs.read_studies`."""
    found, broken = saved_runs.read_studies(workdir, STUDY_FILE)
    for name, study in list(found.items()):
        if lacking := {"name", "data", "seeds", "columns", "rows", "failed"} - study.keys():
            broken[name] = f"{STUDY_FILE} has no {', '.join(sorted(lacking))}"
            del found[name]
    return list(found.values()), broken
