"""Which attributes survive? What a branch's latents say of *its* image, factor by factor.

As `semantics`, but of all that is known of how each image was drawn, the class being one
factor of several. Where nothing else is known it reads the class alone.

A rotation is the hardest to read. What can be told of it depends on the shape: it is read
as sine and cosine of n times the angle, and a linear map would have to know the shape, and
so n, first. Its R2 says how far latents hold the angle in a form that does not depend on
the shape, not whether they hold it.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from imae_jax.evaluators.evaluator import Evaluator
from imae_jax.evaluators.factor_targets import Factor, factors_of
from imae_jax.evaluators.held_out import HeldOut
from imae_jax.evaluators.networks import Network
from imae_jax.evaluators.pooled_latents import collect, prefixes, questions
from imae_jax.evaluators.tables import (
    NETWORKS,
    Numbers,
    Results,
    Table,
    cell,
    labelled_rows,
)
from imae_jax.objectives.mixing import BRANCHES
from imae_jax.probing import ridge
from imae_jax.probing.linear_classifiers import Labelled, Splits, chance, whitened_accuracy
from imae_jax.probing.ridge import Moments


def probe(
    features: Sequence[np.ndarray], factors: Sequence[Factor], s: int, what: str
) -> tuple[str, float]:
    """Fits a linear probe of a factor and scores it.

    Args:
      features: [N, E] of the mixtures of train, validation and test, whitened.
      factors: of the same.
      s: the image whose factor is asked for.
      what: is asked, for a message.
    Returns:
      "accuracy" of logistic regression, or "r2" of ridge regression, pooled over a
      factor's numbers; and the value.
    """
    counted = [z[factor.counted[:, s]] for z, factor in zip(features, factors, strict=True)]
    targets = [factor.of_image(s) for factor in factors]
    if factors[0].is_category:
        return "accuracy", whitened_accuracy(Splits(*map(Labelled, counted, targets)))
    train, validation, test = map(Moments.of, counted, targets)
    return "r2", ridge.fit(train, validation, what=what).score(test)["r2"]


def evaluate(
    networks: Mapping[str, Network],
    held_out: HeldOut,
    *,
    split: str,
    alpha: float,
    alphas: Sequence[float],
    batch_size: int,
    seed: int,
) -> Iterator[tuple[str, float]]:
    """How well linear probes on a branch's latents say what is known of its image.

    Args:
      networks: `student` and `teacher`, and any of separability's baselines.
      held_out: makes the mixtures, and knows their images' factors.
      split: what is scored; probes are fitted on `train`, their strength on `validation`.
      alpha: weight of the subordinate image.
      alphas: weights of the sweep, below `alpha_<weight>/`.
      batch_size, seed: see `HeldOut.batches`.
    Yields:
      Below `<row><branch>/<factor>/`, from the mean of the visible tokens: `accuracy` of a
      category, `r2` of a number (0 for one that is always said to be its mean), and
      `other_branch_accuracy` or `other_branch_r2`, which ask the *other* branch about this
      branch's image. The row `teacher_on_image/` is the teacher, shown each image alone
      under the same mask. Below `<factor>/`: `chance`, the accuracy of the commonest
      category, and `count`, how many mixtures were scored, see `factors.as_factor`.
    """
    names = ("train", "validation", split)
    options = dict(
        counted=lambda batch: batch.valid,
        pools=("mean",),
        alphas=sorted({alpha, *alphas}),
        batch_size=batch_size,
        seed=seed,
    )
    parts = [collect(networks, held_out, name, **options) for name in names]
    symmetry = held_out.dataset.symmetry
    known = [
        factors_of(part.labels, part.factors, symmetry, name)
        for name, part in zip(names, parts, strict=True)
    ]
    for row, pool in parts[0].features:
        asked = (questions(part.features[row, pool]) for part in parts)
        for (s, whose, train), (*_, validation), (*_, test) in zip(*asked, strict=True):
            what = f"attributes, {row}{BRANCHES[s]}"
            labels = (part.labels[:, s] for part in parts)
            examples = map(Labelled, (train, validation, test), labels)
            whitened = [x for x, _ in Splits(*examples).checked(what).whitened()]
            # Zeros for the directions left out: rows of one width share compiled fits.
            width = train.shape[1] - whitened[0].shape[1]
            whitened = [np.pad(x, ((0, 0), (0, width))) for x in whitened]
            for name in known[0]:
                factors = [found[name] for found in known]
                metric, value = probe(whitened, factors, s, f"{what}/{name}")
                for prefix in prefixes(row, alpha, alphas):
                    yield f"{prefix}{BRANCHES[s]}/{name}/{whose}{metric}", value
    for name in known[0]:
        train, _, test = (found[name].of_image(0) for found in known)
        if known[0][name].is_category:
            yield f"{name}/chance", chance(train, test)
        yield f"{name}/count", len(test)


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


EVALUATOR = Evaluator(
    evaluate,
    tables=tables,
    needs_mixtures=True,
    needs_teacher=True,
    needs_labels=True,
    chooses_on_validation=True,
    without_alpha=("*/chance", "*/count", "teacher_on_image/*"),
    without_mask_ratio=("*/chance", "*/count"),
)
