"""Tables of metrics for the report.

Throughout, `results` are the metrics of several runs, by run name, and `numbers` are those
of one run.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from imae_jax.models.branches import NUM_SOURCES, branch_names

Numbers = Mapping[str, float]
Results = Mapping[str, Numbers]

# Labels of the compared networks, by the prefix of their metrics.
NETWORKS = {
    "": "{run}",
    "own_tokens/": "{run} (tokens)",
    "baselines/without_distillation/": "i-MAE without distillation",
    "baselines/mae_on_mixture/": "MAE, shown the mixture",
    "baselines/mae_on_mixture_tokens/": "MAE, shown the mixture (tokens)",
    "baselines/teacher/": "its teacher",
    "baselines/random/": "random weights",
    "baselines/random_tokens/": "random weights (tokens)",
    "baselines/raw_pixels/": "raw pixels",
    "teacher_on_image/": "its teacher, shown the image alone",
}


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of formatted metrics.

    Attributes:
      title: heading.
      note: how to read it.
      columns: column heads.
      rows: (label, cells) of each row.
      run: the run it describes, whose row comes first; empty for several runs.
      is_control: True if it only supports another table.
      example: key of one of its metrics, whose settings stand for the whole table.
    """

    title: str
    note: str
    columns: Sequence[str]
    rows: list[tuple[str, list[str]]]
    run: str = ""
    is_control: bool = False
    example: str = ""


# Branches of the largest mixture that are neither the weakest image's nor the strongest's.
MIDDLE = branch_names(max(NUM_SOURCES))[1:-1]


def branches_of(numbers: Numbers) -> tuple[str, ...]:
    """Returns the names of the branches that a run's metrics are of, two or more."""
    # A class or a factor may have such a name, too, but stands last.
    parts = {part for key in numbers for part in key.split("/")[:-1]}
    return branch_names(2 + len(parts & set(MIDDLE)))


def short(branch: str) -> str:
    """Returns a branch's name for the head of a column, such as "sub." or "mid. 1"."""
    return f"{branch[:3]}. {branch.partition('_')[2]}".rstrip()


def cell(value: float | None) -> str:
    """Formats a number with three decimals; a dash for None."""
    return "–" if value is None else f"{value:.3f}"


def labelled_rows(
    numbers: Numbers, keys: Mapping[str, Sequence[str]]
) -> list[tuple[str, list[str]]]:
    """Returns one row per label, from its keys; rows without any number are left out."""
    return [
        (label, [cell(numbers.get(key)) for key in row])
        for label, row in keys.items()
        if any(key in numbers for key in row)
    ]


def branch_rows(
    numbers: Numbers, evaluator: str, metrics: Mapping[str, str]
) -> list[tuple[str, list[str]]]:
    """Returns one row per label, a cell per branch; `{branch}` in `metrics` is its name."""
    branches = branches_of(numbers)
    keys = {
        label: [f"{evaluator}/{metric.format(branch=branch)}" for branch in branches]
        for label, metric in metrics.items()
    }
    return labelled_rows(numbers, keys)


def network_rows(
    numbers: Numbers, run: str, keys: Sequence[str]
) -> list[tuple[str, list[str]]]:
    """Returns one row per network of NETWORKS; `{row}` in `keys` becomes its prefix."""
    labels = {
        label.format(run=run): [key.format(row=row) for key in keys]
        for row, label in NETWORKS.items()
    }
    return labelled_rows(numbers, labels)
