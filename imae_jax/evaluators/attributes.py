"""Attributes of each image that survive in its branch's latents, factor by factor.

A linear probe of each factor of how an image was drawn, the class being one of them, on all
mixtures. Where nothing else is known it reads the class alone, as `semantics` does.

A rotation is the hardest to read. What can be told of it depends on the shape: it is read
as sine and cosine of n times the angle, and a linear map would have to know the shape, and
so n, first. Its R2 says how far latents hold the angle in a form that does not depend on
the shape, not whether they hold it.
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
    cell,
    labelled_rows,
)
from imae_jax.objectives.mixing import BRANCHES


def _metrics(numbers: Numbers) -> dict[str, str]:
    """The metric of each factor, by name; accuracies first."""
    counts = (re.fullmatch("attributes/([^/]*)/count", key) for key in numbers)
    metrics = {
        match[1]: "accuracy" if f"attributes/{match[1]}/chance" in numbers else "r2"
        for match in counts
        if match
    }
    return dict(sorted(metrics.items(), key=lambda item: item[1]))


def _rows(numbers: Numbers, run: str, metrics: Mapping[str, str]):
    """Each network's rows, a branch each; the run's are also those of the other branch."""
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
        for branch in BRANCHES
    }
    return labelled_rows(numbers, keys)


def tables(results: Results) -> Iterator[Table]:
    """Accuracy or R2 of a probe of every factor, on each branch."""
    for run, numbers in results.items():
        metrics, example = _metrics(numbers), ""
        rows = _rows(numbers, run, metrics)
        if rows:
            # Of a quantity the mean is always said: R2 0.
            chances = [numbers.get(f"attributes/{name}/chance", 0) for name in metrics]
            counts = {name: numbers[f"attributes/{name}/count"] for name in metrics}
            rows.append(("majority class, or the mean", [*map(cell, chances)]))
            rows.append(("mixtures that count", [f"{x:.0f}" for x in counts.values()]))
            most = max(counts, key=counts.get)
            example = f"attributes/{BRANCHES[0]}/{most}/{metrics[most]}"
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
