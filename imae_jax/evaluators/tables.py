"""Tables of metrics: rows of cells, and a sentence on how to read them.

Everywhere `results` are the numbers of several runs, by the run's name, and `numbers` those
of one of them.
"""

import dataclasses
from collections.abc import Mapping, Sequence

Numbers = Mapping[str, float]
Results = Mapping[str, Numbers]

# Labels of the networks that are compared, by the prefix of their numbers.
NETWORKS = {
    "": "{run}",
    "baselines/without_distillation/": "i-MAE without distillation",
    "baselines/mae_on_mixture/": "MAE, shown the mixture",
    "baselines/mae_on_mixture_tokens/": "MAE, shown the mixture (tokens)",
    "baselines/teacher/": "its teacher",
    "baselines/random/": "random weights",
    "baselines/random_tokens/": "random weights (tokens)",
    "teacher_on_image/": "its teacher, shown the image alone",
}


@dataclasses.dataclass(frozen=True)
class Table:
    """A title, a sentence on how to read it, column heads, and labelled rows of cells.

    Attributes:
      run: the run it is about, whose row comes first; empty if it is about several.
      is_control: whether it only backs up another table.
      example: a key of its numbers, which stands for what all were measured on.
    """

    title: str
    note: str
    columns: Sequence[str]
    rows: list[tuple[str, list[str]]]
    run: str = ""
    is_control: bool = False
    example: str = ""


def cell(value: float | None) -> str:
    """A number as every table shows it."""
    return "–" if value is None else f"{value:.3f}"


def labelled_rows(
    numbers: Numbers, keys: Mapping[str, Sequence[str]]
) -> list[tuple[str, list[str]]]:
    """A row of the numbers at each label's keys; rows without any number are left out."""
    return [
        (label, [cell(numbers.get(key)) for key in row])
        for label, row in keys.items()
        if any(key in numbers for key in row)
    ]


def network_rows(
    numbers: Numbers, run: str, keys: Sequence[str]
) -> list[tuple[str, list[str]]]:
    """A row for each of NETWORKS; `keys` have `{row}` where its prefix goes."""
    labels = {
        label.format(run=run): [key.format(row=row) for key in keys]
        for row, label in NETWORKS.items()
    }
    return labelled_rows(numbers, labels)
