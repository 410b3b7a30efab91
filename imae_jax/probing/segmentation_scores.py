"""Scores of segmentations: intersection over union and accuracy of pixels.

Label maps are [N, H, W] uint8, the class of each pixel, 0 to 254, or IGNORED.
"""

import numpy as np

# Value in a label map of pixels that count neither in a fit nor in a score.
IGNORED = 255
# Scores (pixels times classes) that are upsampled at a time.
MOST_SCORES = 2**24


def patch_classes(label_maps: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Returns the majority class of each patch; of equally frequent ones the first.

    Args:
      label_maps: [N, H, W].
      grid: (rows, columns) of patches, which divide H and W.
    Returns:
      [N, L] uint8; IGNORED for a patch of which no pixel counts.
    """
    (count, height, width), (rows, columns) = label_maps.shape, grid
    patches = label_maps.reshape(count, rows, height // rows, columns, width // columns)
    patches = patches.swapaxes(2, 3).reshape(count, rows * columns, -1)
    majority = np.full(patches.shape[:2], IGNORED, np.uint8)
    most = np.zeros(patches.shape[:2], int)
    for value in np.setdiff1d(label_maps, [IGNORED]):
        pixels = (patches == value).sum(axis=-1)
        majority[pixels > most] = value
        most = np.maximum(pixels, most)
    return majority


def interpolation(size: int, length: int) -> np.ndarray:
    """Returns weights [length, size] of bilinear upsampling along an axis.

    Values stand at the centres of patches and pixels; outside of the outermost centres the
    outermost value holds (PyTorch's `align_corners=False`).
    """
    place = np.clip((np.arange(length) + 0.5) * size / length - 0.5, 0, size - 1)
    distance = np.abs(place[:, None] - np.arange(size))
    return np.maximum(1 - distance, 0).astype(np.float32)


def confusion(labels: np.ndarray, called: np.ndarray) -> np.ndarray:
    """Counts pixels by class and by the class that they are called, those IGNORED aside.

    Args:
      labels: [...] uint8, as in a label map.
      called: [...] int, 0 to 254.
    Returns:
      [255, 255] int: pixels of each class, by row, that are called each class, by column.
    """
    counted = labels != IGNORED
    places = labels[counted].astype(int) * IGNORED + called[counted]
    return np.bincount(places, minlength=IGNORED**2).reshape(IGNORED, IGNORED)


def upsampled_confusion(
    scores: np.ndarray, classes: np.ndarray, label_maps: np.ndarray
) -> np.ndarray:
    """Calls each pixel the class of the largest upsampled score, and counts.

    Args:
      scores: [N, rows, columns, C], of patches.
      classes: [C] int, the value in label maps that each score is for.
      label_maps: [N, H, W].
    Returns:
      [255, 255] int, see `confusion`.
    """
    _, height, width = label_maps.shape
    down = interpolation(scores.shape[1], height)
    across = interpolation(scores.shape[2], width)
    counts = np.zeros((IGNORED, IGNORED), int)
    step = max(1, MOST_SCORES // (height * width * len(classes)))
    for start in range(0, len(scores), step):
        part = scores[start : start + step].astype(np.float32)
        part = np.einsum("Hh,nhwc->nHwc", down, part, optimize=True)
        part = np.einsum("Ww,nHwc->nHWc", across, part, optimize=True)
        called = classes.astype(int)[part.argmax(axis=-1)]
        counts += confusion(label_maps[start : start + step], called)
    return counts


def class_ious(counts: np.ndarray) -> dict[int, float]:
    """Returns the intersection over union (Jaccard index) of each class.

    A class that no pixel has and none is called has no union and is left out; one that
    pixels have or are called, but never both, has 0.

    Args:
      counts: [255, 255], see `confusion`.
    """
    both = np.diag(counts)
    union = counts.sum(axis=0) + counts.sum(axis=1) - both
    return {int(c): float(both[c] / union[c]) for c in np.flatnonzero(union)}


def overall(counts: np.ndarray) -> dict[str, float]:
    """Returns `mean_iou`, the mean of `class_ious`, and `pixel_accuracy`."""
    mean = np.mean(list(class_ious(counts).values()))
    accuracy = np.trace(counts) / counts.sum()
    return {"mean_iou": float(mean), "pixel_accuracy": float(accuracy)}


def controls(
    train_label_maps: np.ndarray, test_label_maps: np.ndarray, grid: tuple[int, int]
) -> dict[str, float]:
    """Scores what needs no features.

    Args:
      train_label_maps, test_label_maps: [N, H, W].
      grid: (rows, columns) of patches.
    Returns:
      `overall` of test under `majority_class/`, all pixels being called the most frequent
      class of train's, and under `patch_classes/`, all patches being called their own
      majority class: what is left to lose by calling patches, not pixels.
    """
    frequent = np.bincount(train_label_maps.ravel(), minlength=IGNORED + 1)[:IGNORED]
    constant = np.full(test_label_maps.shape, frequent.argmax())
    of_patches = patch_classes(test_label_maps, grid)
    classes = np.setdiff1d(of_patches, [IGNORED])
    known = (of_patches[..., None] == classes).reshape(len(of_patches), *grid, -1)
    rows = {
        "majority_class": confusion(test_label_maps, constant),
        "patch_classes": upsampled_confusion(known, classes, test_label_maps),
    }
    return {
        f"{row}/{metric}": value
        for row, counts in rows.items()
        for metric, value in overall(counts).items()
    }
