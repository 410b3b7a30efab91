"""Linear probes of each image's attributes, on its branch's latents of the mixture.

Probes every known factor of how an image was drawn, including its class, on all mixtures.
For data with labels only, this is the class alone, as in `semantics`.

Rotations are the hardest. The target is sine and cosine of n times the angle, where n
depends on the shape, which a linear map does not know. So R2 measures how far latents hold
the angle in a form independent of the shape, not whether they hold it at all.
"""

import re
from collections.abc import Iterator, Mapping

from imae_jax.evaluators.evaluator import Evaluator
from imae_jax.evaluators.factor_probes import FactorProbes
from imae_jax.evaluators.tables import (
    NETWORKS,
    Numbers,
    Results,
    Table,
    branches_of,
    cell,
    labelled_rows,
)


def _metrics(numbers: Numbers) -> dict[str, str]:
    """Returns each factor's metric, by name; accuracies first."""
    counts = (re.fullmatch("attributes/([^/]*)/count", key) for key in numbers)
    metrics = {
        match[1]: "accuracy" if f"attributes/{match[1]}/chance" in numbers else "r2"
        for match in counts
        if match
    }
    return dict(sorted(metrics.items(), key=lambda item: item[1]))


def _rows(
    numbers: Numbers, run: str, metrics: Mapping[str, str]
) -> list[tuple[str, list[str]]]:
    """Returns a row per network and branch; for the run, also from the other branch."""
    asked = [
        ("", "", "{run}: {branch}"),
        ("", "other_branch_", "{run}: {branch}, from the other branch"),
        *((row, "", f"{label}: {{branch}}") for row, label in NETWORKS.items() if row),
    ]
    keys = {
        label.format(run=run, branch=branch): [
            f"attributes/{row}{branch}/{name}/{whose}{metric}"
            for name, metric in metrics.items()
        ]
        for row, whose, label in asked
        for branch in branches_of(numbers)
    }
    return labelled_rows(numbers, keys)


def tables(results: Results) -> Iterator[Table]:
    """Yields a table of the accuracy or R2 of every factor, for each branch."""
    for run, numbers in results.items():
        metrics, example = _metrics(numbers), ""
        rows = _rows(numbers, run, metrics)
        if rows:
            # A quantity's baseline is its mean: R2 0.
            chances = [numbers.get(f"attributes/{name}/chance", 0) for name in metrics]
            counts = {name: numbers[f"attributes/{name}/count"] for name in metrics}
            rows.append(("majority class, or the mean", [*map(cell, chances)]))
            rows.append(("mixtures that count", [f"{x:.0f}" for x in counts.values()]))
            most = max(counts, key=counts.__getitem__)
            example = f"attributes/subordinate/{most}/{metrics[most]}"
        yield Table(
            "What survives of each image in latents of the mixture",
            "How well a linear probe of a branch's latents says what is known of that "
            "branch's image: accuracy of categories, of which only mixtures count whose "
            "images differ in it, and R2 of the others (1 is perfect, 0 is nothing). From "
            "the other branch: what that one says of the same image.",
            ["class" if name == "label" else name for name in metrics],
            rows,
            run=run,
            example=example,
        )


PROBES = FactorProbes("attributes", selected=lambda batch: batch.valid, pools=("mean",))

EVALUATOR = Evaluator(
    PROBES.evaluate,
    tables=tables,
    needs_mixtures=True,
    needs_teacher=True,
    needs_labels=True,
    chooses_on_validation=True,
    without_alpha=("*/chance", "*/count", "teacher_on_image/*"),
    without_mask_ratio=("*/chance", "*/count"),
)
