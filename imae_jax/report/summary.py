"""The numbers of eval.json as short tables in plain words, for terminal and report."""

import dataclasses
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
    rows: list[tuple[str, list[str]]]


def _row(label: str, results, keys, unit: str = "") -> tuple[str, list[str]] | None:
    if not any(key in results for key in keys):
        return None
    cells = [f"{results[key]:.3f}{unit}" if key in results else "–" for key in keys]
    return label, cells


def tables(results: Mapping[str, float]) -> list[Table]:
    """The tables for which `results` has numbers."""
    found = []
    prefixes = ("", "teacher/")
    for prefix in prefixes:
        name = f"{prefix}reconstruction/mse"
        if name in results:
            rows = [
                _row("MAE", results, [name]),
                _row("the mean training image", results, [f"{name}_train_mean"]),
            ]
            found.append(
                Table(
                    "Rebuilding removed patches of one image",
                    "Squared error on the patches the encoder did not see, in units of "
                    "the data set's variance. Lower is better.",
                    ("error",),
                    rows,
                )
            )
    runs = {"": "i-MAE", "imae_without_distillation/": "i-MAE without distillation"}
    rows = []
    for prefix, label in runs.items():
        keys = [f"{prefix}reconstruction/{branch}/" for branch in BRANCHES]
        rows.append(_row(label, results, [f"{key}mse" for key in keys]))
        share = f"{label}, share of that error"
        rows.append(_row(share, results, [f"{key}ratio" for key in keys], unit="x"))
        if not prefix:
            mean = [f"{key}mse_train_mean" for key in keys]
            rows.insert(0, _row("the mean training image", results, mean))
    rows = [row for row in rows if row]
    if rows:
        found.append(
            Table(
                "Rebuilding both images from one mixture",
                "Squared error on the patches the encoder did not see, in units of the data "
                "set's variance. Lower is better.",
                BRANCHES,
                rows,
            )
        )
    rows = []
    for prefix, label in ROWS.items():
        keys = [f"separability/{prefix}{branch}/r2" for branch in BRANCHES]
        rows.append(_row(label, results, keys))
    rows = [row for row in rows if row]
    if rows:
        found.append(
            Table(
                "Linear separability",
                "R2 of the best linear map from the mixture's latents to what the teacher "
                "makes of each image alone; what the position alone tells is taken out "
                "first. 1 is perfect, 0 is nothing.",
                BRANCHES,
                rows,
            )
        )
    return found


def as_text(results: Mapping[str, float]) -> str:
    """The tables as plain text."""
    lines = []
    for table in tables(results):
        lines += [table.title, f"  {table.note}"]
        width = max(len(label) for label, _ in table.rows) + 2
        lines.append("  " + " " * width + "".join(f"{c:>13}" for c in table.columns))
        for label, cells in table.rows:
            lines.append(f"  {label:<{width}}" + "".join(f"{cell:>13}" for cell in cells))
        lines.append("")
    return "\n".join(lines)
