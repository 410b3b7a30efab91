"""Numbers of a network in training: k-NN accuracy, effective rank and gain.

On few images, so that they cost little; `eval` measures the trained run thoroughly.
"""

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np
from ml_collections import ConfigDict

from imae_jax.config.rules import above, at_least, count_from
from imae_jax.data.dataset import Dataset
from imae_jax.data.eval_splits import decoded, part_indices
from imae_jax.errors import UserError, require
from imae_jax.evaluators.evaluator import Evaluator
from imae_jax.evaluators.held_out import HeldOut, latents_of_images
from imae_jax.evaluators.networks import Network
from imae_jax.evaluators.probes import embedded
from imae_jax.evaluators.separability import ALPHA
from imae_jax.evaluators.separability_scores import Latents, measure
from imae_jax.models.imae import IMAE
from imae_jax.models.mae import MAE
from imae_jax.probing.knn import knn_accuracy
from imae_jax.probing.linear_classifiers import Labelled, Splits
from imae_jax.probing.similarity import effective_rank


def few_images(
    dataset: Dataset, split: str, fit_images: int, score_images: int, on_bad_image: str
) -> Dataset:
    """Returns few images of a data set, as its `train`, `validation` and `test` splits.

    Maps are fitted on `train`. Their strengths are chosen on `validation` and they are
    scored on `test`: both are of the same split, and of different images.

    Args:
      dataset: the data set, as published.
      split: part that is scored, see `eval_splits.part_indices`.
      fit_images, score_images: largest number of images in `train`, and in the others.
      on_bad_image: see `eval_splits.decoded`.
    """
    limits = {"train": fit_images, "validation": None, "test": None}
    parts = part_indices(dataset.sizes, limits | {split: 2 * score_images})
    fitted, scored = (
        decoded(dataset.splits[published].without_label_maps(), on_bad_image, indices)
        for published, indices in (parts["train"], parts[split])
    )
    # One by one, since folders list their images class by class.
    order = np.arange(len(scored.images))
    splits = {
        "train": fitted,
        "validation": scored.take(order[1::2]),
        "test": scored.take(order[::2]),
    }
    return dataclasses.replace(dataset, splits=splits)


# The keyword parameters are the keys of the evaluator's section.
def evaluate(
    networks: Mapping[str, Network],
    held_out: HeldOut,
    *,
    batch_size: int,
    seed: int,
    alpha: float,
    neighbours: int,
    temperature: float,
) -> Iterator[tuple[str, float]]:
    """Measures a network on few images.

    Args:
      networks: `student`, and `teacher`, the MAE whose latents of each image alone are the
        targets; without it there is no gain.
      held_out: provides the images of `few_images`.
      batch_size, seed: see `HeldOut.batches`.
      alpha: weight of the subordinate image, in (0, 0.5).
      neighbours, temperature: see `knn.votes`.
    Yields:
      `knn_accuracy` of the mean patch token of whole images, where there are classes;
      `effective_rank` of these tokens, of the images that maps are fitted on and at most
      their number; `gain`, `subordinate/excess` and `dominant/excess`, see `separability`.
    """
    dataset, student = held_out.dataset, networks["student"]
    tokens = embedded(student, held_out, "train", batch_size)["mean"]
    if len(dataset.class_names) > 1:
        scored = embedded(student, held_out, "test", batch_size)["mean"]
        train = Labelled(tokens, dataset.splits["train"].labels)
        test = Labelled(scored, dataset.splits["test"].labels)
        accuracy = knn_accuracy(
            Splits(train, train, test), neighbours=neighbours, temperature=temperature
        )
        yield "knn_accuracy", accuracy
    yield "effective_rank", effective_rank(np.cov(tokens, rowvar=False))
    if "teacher" not in networks:
        return

    def stream(part: str) -> Iterator[Latents]:
        for batch in held_out.batches(part, batch_size=batch_size, seed=seed):
            features = student.predict(batch.mixture(alpha), batch.mask)["latents"]
            if features.ndim == 3:  # a MAE gives both branches the same
                features = np.stack([features] * batch.num_sources, axis=1)
            targets = latents_of_images(networks["teacher"], batch)[batch.valid]
            rows = {(alpha, ""): features[batch.valid]}
            yield Latents(rows, targets, batch.position[batch.valid])

    for _, name, value in measure(stream, 1 + held_out.num_patches):
        if name == "gain" or name.endswith("/excess"):
            yield name, value


def check(section: ConfigDict, key: str, model: MAE | IMAE) -> None:
    """Raises UserError for a missing option, and for more neighbours than images."""
    for option in EVALUATOR.run_keys:
        if option not in section:
            raise UserError(f"{key}.{option} is missing")
    fewest = f"at least the {section.neighbours} neighbours"
    enough = section.fit_images >= section.neighbours
    require(enough, f"{key}.fit_images", section.fit_images, fewest)
    if isinstance(model, IMAE):
        least, scored = model.sources, section.score_images
        allowed = f"at least {least}, as many as are mixed"
        require(scored >= least, f"{key}.score_images", scored, allowed)


RULES = {
    "alpha": ALPHA,
    "every_epochs": at_least(0),
    "fit_images": count_from(4),
    "score_images": count_from(2),
    "neighbours": count_from(1),
    "temperature": above(0),
}

EVALUATOR = Evaluator(
    evaluate,
    RULES,
    check,
    run_keys=("split", "every_epochs", "fit_images", "score_images"),
    is_in_training=True,
    without_alpha=("knn_accuracy", "effective_rank"),
    without_mask_ratio=("knn_accuracy", "effective_rank"),
)
