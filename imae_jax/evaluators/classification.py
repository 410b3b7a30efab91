"""Accuracy of a trained classifier on whole, unmasked images."""

from collections.abc import Iterator, Mapping

import numpy as np

from imae_jax.evaluators.evaluator import Evaluator
from imae_jax.evaluators.held_out import HeldOut
from imae_jax.evaluators.networks import Network
from imae_jax.evaluators.tables import Results, Table, labelled_rows
from imae_jax.probing.linear_classifiers import chance


def ranks(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns the rank of the right class; ties are ordered by class index.

    Args:
      logits: [N, classes].
      labels: [N] int.
    Returns:
      [N] int, 0 for a correct prediction.
    """
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    is_tied_before = (logits == own) & (np.arange(logits.shape[1]) < labels[:, None])
    return ((logits > own) | is_tied_before).sum(axis=1)


def scores(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Returns `accuracy`, `top5_accuracy` (if over 5 classes), cross-entropy `loss`."""
    found = ranks(logits, labels)
    named = {"accuracy": float((found == 0).mean())}
    if logits.shape[1] > 5:
        named["top5_accuracy"] = float((found < 5).mean())
    exact = logits.astype(np.float64)
    own = np.take_along_axis(exact, labels[:, None], axis=1)[:, 0]
    return named | {"loss": float((np.logaddexp.reduce(exact, axis=1) - own).mean())}


def evaluate(
    networks: Mapping[str, Network],
    held_out: HeldOut,
    *,
    split: str,
    batch_size: int,
) -> Iterator[tuple[str, float]]:
    """Scores each pool's head on every image of a split, without augmentation.

    Args:
      networks: `student`, the classifier.
      held_out: provides images and labels.
      split: the split to score.
      batch_size: images per batch.
    Yields:
      `<pool>/{accuracy,top5_accuracy,loss}`, see `scores`; `chance`, the accuracy of always
      predicting the majority class of `train`; and `count`, the number of images.
    """
    parts = [
        {
            pool: logits[valid]
            for pool, logits in networks["student"].classify(images).items()
        }
        for images, valid in held_out.images(split, batch_size=batch_size)
    ]
    labels = held_out.dataset.splits[split].labels
    for pool in parts[0]:
        logits = np.concatenate([part[pool] for part in parts])
        for name, value in scores(logits, labels).items():
            yield f"{pool}/{name}", value
    yield "chance", chance(held_out.dataset.splits["train"].labels, labels)
    yield "count", len(labels)


def tables(results: Results) -> Iterator[Table]:
    """Yields a table of accuracies, one row for each run and pool."""
    rows, example = [], ""
    for run, numbers in results.items():
        for pool in ("class_token", "mean"):
            metrics = ("accuracy", "top5_accuracy", "loss")
            keys = [f"classification/{pool}/{metric}" for metric in metrics]
            label = f"{run}, {pool.replace('_', ' ')}"
            pool_rows = labelled_rows(numbers, {label: keys})
            example = example or (keys[0] if pool_rows else "")
            rows += pool_rows
        chance = {f"{run}, the majority class": ["classification/chance"]}
        rows += [(x, [*cells, "–", "–"]) for x, cells in labelled_rows(numbers, chance)]
    yield Table(
        "Class of whole images, by trained classifiers",
        "A linear probe, fine-tuning, or training from scratch, on the class token or the "
        "mean of the patch tokens; no mask, no mixture. Cross-entropy as loss.",
        ("accuracy", "top-5 accuracy", "loss"),
        rows,
        example=example,
    )


EVALUATOR = Evaluator(
    evaluate,
    tables=tables,
    needs_classifier=True,
    without_alpha=("*",),
    without_mask_ratio=("*",),
)
