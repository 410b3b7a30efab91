"""The numbers of eval.json as short tables in plain words, for terminal and report."""

import dataclasses
import textwrap
from collections.abc import Mapping

from imae_jax.mixing import BRANCHES

ROWS = {
    "": "i-MAE",
    "baselines/without_distillation/": "i-MAE without distillation",
    "baselines/mae_on_mixture/": "MAE, shown the mixture",
    "baselines/mae_on_mixture_tokens/": "MAE, shown the mixture (tokens)",
    "baselines/random/": "random weights",
    "baselines/random_tokens/": "random weights (tokens)",
}


@dataclasses.dataclass(frozen=True)
class Table:
    """A title, a sentence on how to read it, column heads, and labelled rows of cells."""

    title: str
    note: str
    columns: tuple[str, ...]
    rows: list[tuple[str, list[str]] | None]


def _row(label: str, results, keys, unit: str = "") -> tuple[str, list[str]] | None:
    if not any(key in results for key in keys):
        return None
    cells = [f"{results[key]:.3f}{unit}" if key in results else "–" for key in keys]
    return label, cells


IN_VARIANCES = (
    "Squared error on the patches the encoder did not see, in units of the data set's "
    "variance. Lower is better."
)


def single_image_table(results: Mapping[str, float]) -> Table:
    """What a MAE rebuilds of one image; in a demo it is the teacher."""
    prefix = "" if "reconstruction/mse" in results else "teacher/"
    name = f"{prefix}reconstruction/mse"
    rows = [
        _row("the mean training image", results, [f"{name}_train_mean"]),
        _row("MAE", results, [name]),
    ]
    return Table("Rebuilding one image", IN_VARIANCES, ("error",), rows)


def mixture_table(results: Mapping[str, float]) -> Table:
    """What the i-MAE runs rebuild of both images of a mixture."""
    mean = [f"reconstruction/{branch}/mse_train_mean" for branch in BRANCHES]
    rows = [_row("the mean training image", results, mean)]
    for prefix, label in (
        ("", "i-MAE"),
        ("imae_without_distillation/", "i-MAE without distillation"),
    ):
        keys = [f"{prefix}reconstruction/{branch}/" for branch in BRANCHES]
        rows.append(_row(label, results, [f"{key}mse" for key in keys]))
        share = f"{label}, share of the mean image's"
        rows.append(_row(share, results, [f"{key}ratio" for key in keys], unit="x"))
    title = "Rebuilding both images from their mixture"
    return Table(title, IN_VARIANCES, BRANCHES, rows)


def separability_table(results: Mapping[str, float]) -> Table:
    """R2 of every row and branch."""
    rows = []
    for prefix, label in ROWS.items():
        keys = [f"separability/{prefix}{branch}/r2" for branch in BRANCHES]
        rows.append(_row(label, results, keys))
    note = (
        "R2 of the best linear map from the mixture's latents to what the teacher makes of "
        "each image alone; what the position alone tells is taken out first. 1 is perfect, "
        "0 is nothing."
    )
    return Table("Linear separability", note, BRANCHES, rows)


def tables(results: Mapping[str, float]) -> list[Table]:
    """The tables for which `results` has numbers, without empty rows."""
    made = (single_image_table, mixture_table, separability_table)
    found = [make(results) for make in made]
    found = [
        dataclasses.replace(table, rows=[row for row in table.rows if row])
        for table in found
    ]
    return [table for table in found if table.rows]


def as_text(results: Mapping[str, float]) -> str:
    """The tables as plain text."""
    lines = []
    for table in tables(results):
        lines += [table.title, textwrap.indent(textwrap.fill(table.note, 78), "  ")]
        width = max(len(label) for label, _ in table.rows) + 2
        lines.append("  " + " " * width + "".join(f"{c:>13}" for c in table.columns))
        for label, cells in table.rows:
            lines.append(f"  {label:<{width}}" + "".join(f"{cell:>13}" for cell in cells))
        lines.append("")
    return "\n".join(lines)
