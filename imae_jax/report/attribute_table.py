"""The table of what survives of each image in latents of the mixture, factor by factor."""

import re

from imae_jax.objectives.mixing import BRANCHES
from imae_jax.report.tables import ROWS, Numbers, Table, cell

# What stands in a row: (key of ROWS, how the names of its numbers begin, label).
ASKED = [
    ("", "", "{run}: {branch}"),
    ("", "other_branch_", "{run}: {branch}, from the other branch"),
    *((row, "", f"{label}: {{branch}}") for row, label in ROWS.items() if row),
]


def _columns(numbers: Numbers) -> dict[str, str]:
    """The metric of each factor, by name; accuracies first."""
    found = (re.fullmatch("attributes/([^/]*)/count", key) for key in numbers)
    metrics = {
        match[1]: "accuracy" if f"attributes/{match[1]}/chance" in numbers else "r2"
        for match in found
        if match
    }
    return dict(sorted(metrics.items(), key=lambda item: item[1]))


def attributes(numbers: Numbers, run: str) -> Table:
    """Accuracy or R2 of a probe of every factor, on each branch."""
    metrics = _columns(numbers)
    rows = []
    for row, whose, label in ASKED:
        for branch in BRANCHES:
            keys = [
                f"attributes/{row}{branch}/{name}/{whose}{metric}"
                for name, metric in metrics.items()
            ]
            if any(key in numbers for key in keys):
                cells = [cell(numbers.get(key)) for key in keys]
                rows.append((label.format(run=run, branch=branch), cells))
    if rows:
        # Always the mean: R2 0.
        chances = [cell(numbers.get(f"attributes/{name}/chance", 0)) for name in metrics]
        counts = {name: numbers[f"attributes/{name}/count"] for name in metrics}
        rows.append(("always the commonest, or the mean", chances))
        rows.append(("mixtures that count", [f"{count:.0f}" for count in counts.values()]))
        most = max(counts, key=counts.get)
    return Table(
        "What survives of each image in latents of the mixture",
        "How well a linear probe of a branch's latents says what is known of that branch's "
        "image: accuracy of categories, of which only mixtures count whose images differ "
        "in it, and R2 of the others (1 is perfect, 0 is nothing). From the other branch: "
        "what that one says of the same image.",
        ["class" if name == "label" else name for name in metrics],
        rows,
        run=run,
        example=f"attributes/{BRANCHES[0]}/{most}/{metrics[most]}" if rows else "",
    )
