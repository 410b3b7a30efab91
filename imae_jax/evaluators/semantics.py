"""Linear probes of each image's class, on its branch's latents of the mixture.

Like `attributes` for the class alone, on mixtures of two different classes: where both
images have the same class, either branch would do.
"""

from collections.abc import Iterator

from imae_jax.evaluators.evaluator import Evaluator
from imae_jax.evaluators.factor_probes import FactorProbes
from imae_jax.evaluators.tables import (
    Results,
    Table,
    branches_of,
    labelled_rows,
    network_rows,
    short,
)


def tables(results: Results) -> Iterator[Table]:
    """Yields a table of the probe's accuracy on each branch, for each run."""
    for run, numbers in results.items():
        branches = branches_of(numbers)
        keys = [
            f"semantics/{{row}}{branch}/{metric}"
            for metric in ("accuracy", "other_branch_accuracy")
            for branch in branches
        ]
        rows = network_rows(numbers, run, keys)
        chance = {"the majority class": ["semantics/chance"] * len(branches)}
        none = ["–"] * len(branches)
        rows += [(x, [*cells, *none]) for x, cells in labelled_rows(numbers, chance)]
        yield Table(
            "Class of each image, from latents of the mixture",
            "Accuracy of a linear probe that names a branch's image from that branch's "
            "latents, and (other) from the other branch's. Mixtures of two classes only.",
            (*branches, *(f"other, {short(branch)}" for branch in branches)),
            rows,
            run=run,
            example=keys[0].format(row=""),
        )


PROBES = FactorProbes(
    "semantics",
    selected=lambda batch: batch.different_classes,
    pools=("mean", "class_token"),
    only_label=True,
)

EVALUATOR = Evaluator(
    PROBES.evaluate,
    tables=tables,
    needs_mixtures=True,
    needs_teacher=True,
    needs_labels=True,
    chooses_on_validation=True,
    without_alpha=("chance", "teacher_on_image/*"),
    without_mask_ratio=("chance",),
)
