"""Segmentation from a frozen encoder: a linear classifier of patches, scored by pixel.

On whole, unmasked images; see `linear_segmentation` for the protocol.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from imae_jax.config.rules import count_from
from imae_jax.data.image_files import sample
from imae_jax.evaluators.evaluator import Evaluator
from imae_jax.evaluators.held_out import HeldOut
from imae_jax.evaluators.networks import Network, rows_of
from imae_jax.evaluators.probes import BASELINES
from imae_jax.evaluators.tables import NETWORKS, Results, Table, cell, labelled_rows
from imae_jax.models.patches import grid_size, patchify
from imae_jax.probing.linear_segmentation import Segmented, fit_and_score
from imae_jax.probing.segmentation_scores import class_ious, controls, overall

METRICS = ("mean_iou", "pixel_accuracy")
# Rows without a network, by the prefix of their metrics.
CONTROLS = {
    "baselines/raw_pixels/": "pixels of the patch, no network",
    "baselines/mean_colour/": "mean colour of the patch, no network",
    "majority_class/": "the majority class everywhere",
    "patch_classes/": "the true majority class of each patch",
}


def few(held_out: HeldOut, parts: tuple[str, ...], most: int) -> HeldOut:
    """Returns at most so many images of each split, evenly spaced."""
    splits = {name: held_out.dataset.splits[name] for name in parts}
    taken = {
        name: split.take(sample(len(split.labels), most)) for name, split in splits.items()
    }
    return dataclasses.replace(
        held_out, dataset=dataclasses.replace(held_out.dataset, splits=taken)
    )


def features_of(
    networks: Mapping[str, Network], patch_size: int
) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Returns functions from normalized images [B, H, W, C] to [B, L, D], by row."""

    def pixels(images: np.ndarray) -> np.ndarray:
        return np.asarray(patchify(images, patch_size))

    def mean_colour(images: np.ndarray) -> np.ndarray:
        found = pixels(images)
        return found.reshape(*found.shape[:2], -1, images.shape[-1]).mean(axis=2)

    rows: dict[str, Callable] = {
        prefix: lambda images, network=network: network.encode(images)[:, 1:]
        for prefix, network in rows_of(networks, BASELINES).items()
    }
    return rows | {
        "baselines/raw_pixels/": pixels,
        "baselines/mean_colour/": mean_colour,
    }


# The keyword parameters are the keys of the evaluator's section.
def evaluate(
    networks: Mapping[str, Network],
    held_out: HeldOut,
    *,
    split: str,
    batch_size: int,
    max_images: int,
) -> Iterator[tuple[str, float]]:
    """Scores a linear classifier of each network's patch tokens.

    Args:
      networks: `student`, and optionally baselines.
      held_out: provides images and label maps.
      split: the split to score; classifiers are fitted on `train`, their strength is chosen
        on `validation`.
      batch_size: images per batch.
      max_images: largest number of images of each split.
    Yields:
      `mean_iou`, `pixel_accuracy` and the chosen `l2`; baselines under `baselines/<row>/`,
      among them the pixels of each patch (`raw_pixels`) and their mean (`mean_colour`).
      `majority_class/...` and `patch_classes/...`: see `segmentation_scores.controls`.
      `iou/<class>` of each class, of the student. `count`: number of images scored.
    """
    parts = ("train", "validation", split)
    held_out = few(held_out, parts, max_images)
    dataset = held_out.dataset
    grid = grid_size(dataset.image_shape[:2], held_out.patch_size)
    label_maps = [np.asarray(dataset.splits[part].label_maps) for part in parts]
    for row, function in features_of(networks, held_out.patch_size).items():
        train, validation, test = (
            Segmented(np.concatenate([function(x)[valid] for x, valid in batches]), own)
            for part, own in zip(parts, label_maps, strict=True)
            for batches in [held_out.images(part, batch_size=batch_size)]
        )
        what = f"segmentation, {row or 'student'}"
        counts, l2 = fit_and_score(train, validation, test, grid, what)
        for metric, value in overall(counts).items():
            yield f"{row}{metric}", value
        yield f"{row}l2", l2
        if not row:
            for value, iou in class_ious(counts).items():
                yield f"iou/{dataset.pixel_classes[value]}", iou
    yield from controls(label_maps[0], label_maps[-1], grid).items()
    yield "count", len(label_maps[-1])


def tables(results: Results) -> Iterator[Table]:
    """Yields a table of mean IoU and accuracy, and one of classes, for each run."""
    for run, numbers in results.items():
        labels = {row: label.format(run=run) for row, label in NETWORKS.items()} | CONTROLS
        keys = {
            label: [f"segmentation/{row}{metric}" for metric in METRICS]
            for row, label in labels.items()
        }
        yield Table(
            "Class of each pixel, from the frozen encoder",
            "A linear classifier of patch tokens, its scores upsampled to pixels: mean "
            "intersection over union of the classes, and accuracy. No mask, no mixture.",
            ["mean IoU", "pixel accuracy"],
            labelled_rows(numbers, keys),
            run=run,
            example=f"segmentation/{METRICS[0]}",
        )
        start = "segmentation/iou/"
        own = {key: value for key, value in numbers.items() if key.startswith(start)}
        yield Table(
            "Intersection over union of each class",
            "Of the classes that pixels have or are called.",
            [run],
            [(key.removeprefix(start), [cell(value)]) for key, value in own.items()],
            run=run,
            is_control=True,
            example=next(iter(own), ""),
        )


EVALUATOR = Evaluator(
    evaluate,
    {"max_images": count_from(2)},
    tables=tables,
    needs_label_maps=True,
    chooses_on_validation=True,
    without_alpha=("*",),
    without_mask_ratio=("*",),
    definitions={
        "*mean_iou": "mean of intersection over union of the classes that pixels have or "
        "are called; pixels of all images together",
    },
)
