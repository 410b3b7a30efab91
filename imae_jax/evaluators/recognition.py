"""Classification of reconstructions, by a classifier trained on clean images.

Baselines: the same classifier on the mixture itself, and a classifier trained to predict
both classes of mixtures, as a reference. On mixtures of two different classes only.
"""

import logging
from collections.abc import Callable, Iterator, Mapping

import jax
import numpy as np
from ml_collections import ConfigDict

from imae_jax.config.checks import check_batch
from imae_jax.config.rules import above, at_least, count_from
from imae_jax.data.group_sampler import Groups
from imae_jax.errors import UserError
from imae_jax.evaluators.evaluator import Evaluator
from imae_jax.evaluators.full_reconstruction import rebuild
from imae_jax.evaluators.held_out import Batch, HeldOut
from imae_jax.evaluators.networks import Network
from imae_jax.evaluators.tables import Results, Table, branch_rows, branches_of
from imae_jax.models.branches import branch_names
from imae_jax.models.imae import IMAE
from imae_jax.models.patches import unpatchify
from imae_jax.objectives.mixing import fixed_alpha, group_sources, mix
from imae_jax.probing.pixel_classifier import train_classifier

logger = logging.getLogger(__name__)

# Images [B, H, W, C] -> predicted classes [B, 1], or [B, S] for all images of a mixture.
Reader = Callable[[jax.Array | np.ndarray], np.ndarray]


def train_readers(
    held_out: HeldOut, classifier: Mapping, alpha: float, seed: int
) -> tuple[Reader, Reader]:
    """Trains a classifier of clean images, and one of all classes of a mixture.

    Args:
      held_out: provides the train images.
      classifier: options of `pixel_classifier.train_classifier`, with `epochs` in place of
        `steps`.
      alpha: weight of the subordinate image in the mixtures.
      seed: random seed of the classifiers and their batches.
    """
    train = held_out.dataset.splits["train"]
    options = {key: value for key, value in classifier.items() if key != "epochs"}
    options |= dict(
        num_classes=1 + int(train.labels.max()),
        steps=round(classifier["epochs"] * len(train.images) / options["batch_size"]),
        seed=seed,
    )
    groups = Groups(train.labels, seed, size=held_out.num_sources)

    def clean(step: int) -> tuple[np.ndarray, np.ndarray]:
        drawn = groups.batch(step, options["batch_size"])  # whole groups of it
        return held_out.normalized(train.pixels[drawn]), train.labels[drawn, None]

    def mixed(step: int) -> tuple[jax.Array, jax.Array]:
        images, labels = clean(step)
        weights = fixed_alpha(alpha, len(images), groups.size)
        sources, classes = (group_sources(x, groups.size) for x in (images, labels[:, 0]))
        return mix(sources, weights), classes

    return train_classifier(clean, **options), train_classifier(mixed, **options)


def score(
    network: Network,
    readers: tuple[Reader, Reader],
    held_out: HeldOut,
    batch: Batch,
    alpha: float,
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields each metric's name and which predictions are correct, [B] bool."""
    read, read_mixture = readers
    mixture = batch.mixture(alpha)
    patches, _ = rebuild(network, mixture, batch.mask)
    size = held_out.dataset.image_shape[:2]
    whole = unpatchify(patches, held_out.patch_size, size)
    classes = read(mixture)[:, 0]
    both = read_mixture(mixture)
    for s, branch in enumerate(branch_names(whole.shape[1])):
        yield f"{branch}/accuracy", read(whole[:, s])[:, 0] == batch.labels[:, s]
    for s, branch in enumerate(branch_names(batch.num_sources)):
        labels = batch.labels[:, s]
        yield f"baselines/mixture/{branch}/accuracy", classes == labels
        yield f"baselines/mixture_classifier/{branch}/accuracy", both[:, s] == labels
    yield "clean_accuracy", read(batch.sources[:, 0])[:, 0] == batch.labels[:, 0]


def evaluate(
    networks: Mapping[str, Network],
    held_out: HeldOut,
    *,
    split: str,
    alpha: float,
    batch_size: int,
    seed: int,
    classifier: Mapping,
) -> Iterator[tuple[str, float]]:
    """Measures the accuracy of a classifier on each reconstruction.

    Args:
      networks: `student`, an i-MAE.
      held_out: provides the mixtures; classifiers are trained on `train`.
      split: the split to score.
      alpha: weight of the subordinate image, also for the classifier of mixtures.
      batch_size, seed: see `HeldOut.batches`; the seed is also the classifiers'.
      classifier: see `train_readers`.
    Yields:
      `<branch>/accuracy` on the reconstruction, in which every patch was predicted while
      masked; `baselines/{mixture,mixture_classifier}/<branch>/accuracy` on the mixture, by
      the same classifier and by the one trained on mixtures; `clean_accuracy` on the image
      itself; and `count`. Nothing for a model trained with `norm_pix`: it predicts no
      pixels.
    """
    if held_out.norm_pix:
        logger.info(
            "recognition: left out, a model trained with norm_pix predicts no pixels"
        )
        return
    readers = train_readers(held_out, classifier, alpha, seed)
    hits: dict[str, int] = {}
    count = 0
    for batch in held_out.batches(split, batch_size=batch_size, seed=seed):
        counted = batch.different_classes
        count += counted.sum()
        for name, is_right in score(networks["student"], readers, held_out, batch, alpha):
            hits[name] = hits.get(name, 0) + is_right[counted].sum()
    if not count:
        raise UserError(f"recognition: no mixture of two classes in the {split} split")
    for name, number in hits.items():
        yield name, float(number / count)
    yield "count", int(count)


def check(section: ConfigDict, key: str, model: IMAE) -> None:
    """Raises UserError unless the classifier's batches consist of whole pairs."""
    check_batch(section.classifier.batch_size, f"{key}.classifier.batch_size", 1)


def tables(results: Results) -> Iterator[Table]:
    """Yields a table of accuracies on reconstructions and baselines, for each run."""
    for run, numbers in results.items():
        metrics = {
            f"{run}: what it reconstructed": "{branch}/accuracy",
            "the mixture itself": "baselines/mixture/{branch}/accuracy",
            "the mixture, by a classifier trained on mixtures": (
                "baselines/mixture_classifier/{branch}/accuracy"
            ),
            "the clean image": "clean_accuracy",
        }
        yield Table(
            "Class of each image, read from its reconstruction",
            "Accuracy of a classifier that was trained on clean images only (except where "
            "said). Mixtures of two different classes only.",
            branches_of(numbers),
            branch_rows(numbers, "recognition", metrics),
            run=run,
            example="recognition/subordinate/accuracy",
        )


RULES = {
    "classifier.width": count_from(1),
    "classifier.epochs": at_least(1),
    "classifier.batch_size": count_from(2),
    "classifier.blr": above(0),
    "classifier.weight_decay": at_least(0),
}

EVALUATOR = Evaluator(
    evaluate,
    RULES,
    check,
    tables,
    needs_mixtures=True,
    needs_labels=True,
    without_alpha=("clean_accuracy",),
    without_mask_ratio=("clean_accuracy",),
)
