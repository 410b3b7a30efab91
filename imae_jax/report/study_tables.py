"""Tables of a study, with mean and std over seeds, as Markdown, CSV and HTML."""

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from imae_jax.evaluators.tables import Table
from imae_jax.report.charts import GREY, ORANGE, STYLE, Chart
from imae_jax.report.figures import as_png
from imae_jax.storage import atomic_files

STUDY_FILE = "study.json"


def summary(values: Sequence[float]) -> dict[str, float | int | None]:
    """Returns `mean`, `sd` (sample std with n - 1; None for one value) and `n`."""
    return {
        "mean": statistics.fmean(values) if values else None,
        "sd": statistics.stdev(values) if len(values) > 1 else None,
        "n": len(values),
    }


def differences(study: Mapping, arm: str, column: str) -> list[float]:
    """Differences of an arm's values to the first arm's, for the seeds that both have."""
    first = next(iter(study["rows"].values()))["values"][column]
    own = study["rows"][arm]["values"][column]
    return [value - first[seed] for seed, value in own.items() if seed in first]


def cell(values: Sequence[float], num_seeds: int, form: str = ".3f") -> str:
    """Formats mean and std, with the number of seeds if some are missing."""
    found = summary(values)
    if not found["n"]:
        return "–"
    text = f"{found['mean']:{form}}"
    if found["sd"] is not None:
        text += f" ± {found['sd']:.3f}"
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
        apart.append((row["label"], [cell(values, seeds, "+.3f") for values in found]))
    made = [Table(title, caption(study), columns, rows)]
    if len(rows) > 1:
        note = (
            f"Each arm less “{rows[0][0]}” with the same seed: mean ± standard "
            "deviation of these differences. One within its deviation of 0 says nothing."
        )
        differ = f"{title}: differences"
        made.append(Table(differ, note, columns, apart[1:], is_control=True))
    return made


def as_markdown(study: Mapping) -> str:
    """Formats the tables as Markdown."""
    lines = []
    for table in tables(study):
        lines += [f"**{table.title}.** {table.note}", ""]
        lines.append("| | " + " | ".join(table.columns) + " |")
        lines.append("|---" * (1 + len(table.columns)) + "|")
        for label, cells in table.rows:
            label = label.replace("|", "\\|")
            lines.append(f"| {label} | " + " | ".join(cells) + " |")
        lines.append("")
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


def chart(study: Mapping) -> Chart:
    """Makes the chart of a study for the report."""
    note = "Dots are seeds; the line is their mean, as wide as the standard deviation."
    return Chart(f"Study: {study['name']}, by arm", note, draw(study))


def write(study: Mapping, folder: Path) -> None:
    """Writes `study.json`, `table.md`, `table.csv` and `figures/study.png`."""
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    atomic_files.write_text(folder / "table.md", as_markdown(study))
    atomic_files.write_text(folder / "table.csv", as_csv(study))
    atomic_files.write_bytes(folder / "figures" / "study.png", as_png(draw(study)))
    atomic_files.write_json(folder / STUDY_FILE, study)


def read(workdir: Path) -> list[dict]:
    """Reads the studies of a folder and its subfolders."""
    folders = [workdir, *sorted(path for path in workdir.iterdir() if path.is_dir())]
    paths = (folder / STUDY_FILE for folder in folders)
    return [atomic_files.read_json(path) for path in paths if path.exists()]
