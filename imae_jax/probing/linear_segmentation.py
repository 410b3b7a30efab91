"""Linear segmentation: one linear classifier of all patches, scored pixel by pixel.

Scores of patches are upsampled to pixels bilinearly, as those of Segmenter's linear decoder
(Strudel et al. 2021) and DINOv2's linear head (Oquab et al. 2023) are. These are trained
through the upsampling; ours is logistic regression on the patches' majority classes.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from imae_jax.errors import UserError
from imae_jax.probing.arrays import as_count, as_features, as_numbers, as_text, check_rows
from imae_jax.probing.linear_classifiers import Labelled, fit_strengths, whitening
from imae_jax.probing.linear_separability import VALIDATION_SHARE
from imae_jax.probing.segmentation_scores import (
    IGNORED,
    class_ious,
    controls,
    overall,
    patch_classes,
    upsampled_confusion,
)

BATCH = 256  # images that are whitened at a time


class Segmented(NamedTuple):
    """Images as tokens of patches, with their label maps.

    Attributes:
      tokens: [N, L, D] float, patches in raster order.
      label_maps: [N, H, W] uint8, see `segmentation_scores`.
    """

    tokens: np.ndarray
    label_maps: np.ndarray


def fit_and_score(
    train: Segmented,
    validation: Segmented,
    test: Segmented,
    grid: tuple[int, int],
    what: str,
) -> tuple[np.ndarray, float]:
    """Fits logistic regression on train's patches and scores it on test's pixels.

    Args:
      train, validation, test: the strength of the highest mean IoU on validation is taken.
      grid: (rows, columns) of patches, which divide H and W.
      what: name of the probe, for messages.
    Returns:
      Counts of the test split's pixels, see `segmentation_scores.confusion`, and the
      strength.
    Raises:
      UserError: if train's patches are of one class, or no pixel of a split counts.
    """
    for name, split in (("train", train), ("validation", validation), ("test", test)):
        if (split.label_maps == IGNORED).all():
            raise UserError(f"{what}: no pixel of the {name} label maps counts")
    of_patches = patch_classes(train.label_maps, grid)
    counted = of_patches != IGNORED
    classes, labels = np.unique(of_patches[counted], return_inverse=True)
    if len(classes) < 2:
        raise UserError(
            f"{what}: all training patches are of class {classes[0]}, by the majority of "
            "their pixels; telling classes apart needs at least two"
        )
    features = train.tokens[counted]
    whiten = whitening(features)
    fitted = fit_strengths(Labelled(whiten(features), labels), len(classes))

    def score(split: Segmented, l2: float) -> np.ndarray:
        counts = np.zeros((IGNORED, IGNORED), int)
        for start in range(0, len(split.tokens), BATCH):
            tokens, label_maps = (x[start : start + BATCH] for x in split)
            scores = whiten(tokens) @ fitted[l2][0] + fitted[l2][1]
            scores = scores.reshape(len(scores), *grid, -1)
            counts += upsampled_confusion(scores, classes, label_maps)
        return counts

    chosen = max(fitted, key=lambda l2: overall(score(validation, l2))["mean_iou"])
    return score(test, chosen), chosen


def linear_segmentation(
    train_tokens: np.ndarray,
    train_label_maps: np.ndarray,
    test_tokens: np.ndarray,
    test_label_maps: np.ndarray,
    *,
    grid: tuple[int, int] | None = None,
) -> dict[str, float]:
    """Measures how well a linear classifier of patch tokens segments images.

    Logistic regression from a patch's token to the majority class of its pixels, the same
    for all patches; its scores are upsampled to the label map bilinearly. Of four L2
    strengths the one is taken that has the highest mean IoU on the last fifth of the
    training images, which are not fitted. Arrays may be from NumPy, JAX or PyTorch.

    Args:
      train_tokens, test_tokens: [N, L, D], in raster order, without the class token.
      train_label_maps, test_label_maps: [N, H, W] whole numbers, the class of each pixel, 0
        to 254, or 255 for pixels that do not count.
      grid: (rows, columns) of the L patches, which must divide H and W; None: as many rows
        as columns.
    Returns:
      `mean_iou`: intersection over union (Jaccard index) of test pixels, the mean of the
      classes that pixels have or are called; `pixel_accuracy`; both also under
      `majority_class/`, all pixels being called the most frequent class of train's, and
      under `patch_classes/`, all patches being called their own majority class;
      `iou/<class>` of each class; and the chosen `l2`.
    Raises:
      UserError: for arrays that are not of these shapes and values or do not match, for
        fewer than three training images, if no pixel of a part counts, and if all training
        patches are of one class.
    """
    train = _checked("train", train_tokens, train_label_maps)
    test = _checked("test", test_tokens, test_label_maps)
    if test.tokens.shape[1:] != train.tokens.shape[1:]:
        wanted = "N, " + ", ".join(map(str, train.tokens.shape[1:]))
        raise UserError(
            f"test_tokens is {as_text(test.tokens)}; it must be [{wanted}], as train_tokens"
        )
    if len(train.tokens) < 3:
        raise UserError(
            f"train_tokens is {as_text(train.tokens)}; at least 3 images are needed"
        )
    grid = _checked_grid(grid, train, test)
    first = round(len(train.tokens) * (1 - VALIDATION_SHARE))
    fitted = Segmented(*(x[:first] for x in train))
    held = Segmented(*(x[first:] for x in train))
    counts, l2 = fit_and_score(fitted, held, test, grid, "linear segmentation")
    ious = {f"iou/{c}": iou for c, iou in class_ious(counts).items()}
    known = controls(train.label_maps, test.label_maps, grid)
    return {**overall(counts), **known, **ious, "l2": l2}


def _checked(name: str, tokens: Any, label_maps: Any) -> Segmented:
    """Converts what a user gave; raises UserError for wrong shapes, values or counts."""
    tokens = as_features(tokens, f"{name}_tokens", ("N", "L", "D"))
    name = f"{name}_label_maps"
    found = as_numbers(label_maps, name)
    if found.ndim != 3:
        hint = ": the classes, not one-hot" if found.ndim == 4 else ""
        raise UserError(f"{name} is {as_text(found)}; it must be [N, H, W]{hint}")
    check_rows(found, name, tokens, "the tokens")
    bad = found[(found < 0) | (found > IGNORED) | (found != np.floor(found))]
    if len(bad):
        raise UserError(
            f"{name} holds {bad[0]}; a class must be a whole number of 0 to {IGNORED - 1}, "
            f"or {IGNORED} for pixels that do not count"
        )
    return Segmented(tokens, found.astype(np.uint8))


def _checked_grid(
    grid: tuple[int, int] | None, train: Segmented, test: Segmented
) -> tuple[int, int]:
    """Returns (rows, columns); raises UserError if patches or label maps do not fit."""
    count = train.tokens.shape[1]
    if grid is None:
        side = math.isqrt(count)
        if side**2 != count:
            raise UserError(
                f"train_tokens is {as_text(train.tokens)}; {count} patches are no square: "
                "give grid=(rows, columns), and leave out the class token"
            )
        grid = side, side
    try:
        rows, columns = (as_count(x, "grid", 1) for x in grid)
    except (TypeError, ValueError):
        rows, columns = 0, 0
    if rows * columns != count:
        raise UserError(
            f"invalid grid={grid!r}: must be (rows, columns) of the {count} patches"
        )
    for name, split in (("train", train), ("test", test)):
        _, height, width = split.label_maps.shape
        if height % rows or width % columns:
            raise UserError(
                f"{name}_label_maps is {as_text(split.label_maps)}; {rows}x{columns} "
                "patches do not divide its height and width"
            )
    return rows, columns
