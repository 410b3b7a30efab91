"""Images in splits, and what is known of them."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from imae_jax.data.encoded_images import EncodedImages


@dataclasses.dataclass(frozen=True)
class Split:
    """Images and what is known of them.

    Attributes:
      images: [N, H, W, C] uint8, or as many encoded files.
      labels: [N] int64; -1 where there are none.
      factors: other known numbers, [N] each, by name: int of categories, float of
        quantities.
    """

    images: np.ndarray | EncodedImages
    labels: np.ndarray
    factors: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def take(self, indices: np.ndarray) -> "Split":
        """The examples at `indices`; the images must be an array."""
        factors = {name: values[indices] for name, values in self.factors.items()}
        return Split(self.images[indices], self.labels[indices], factors)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set.

    Attributes:
      splits: `train`, and `validation` or `test` or both, as they were published.
      mean, std: [C] float32, of the train split's pixels in 0..255.
      class_names: one name per label; empty where there are no labels.
      path: where it lies.
      num_skipped: images that could not be used and are left out.
      published: of a data set in `parts`, the published split that each comes from.
      ignored: how many files of which endings in a folder are no images.
      symmetry: which factors are angles, in radians, and how often a full turn brings each
        class back onto itself: n times tells the angle modulo 2 pi / n, 0 not at all.
    """

    splits: Mapping[str, Split]
    mean: np.ndarray
    std: np.ndarray
    class_names: tuple[str, ...]
    path: Path | None = None
    num_skipped: int = 0
    published: Mapping[str, str] = dataclasses.field(default_factory=dict)
    ignored: Mapping[str, int] = dataclasses.field(default_factory=dict)
    symmetry: Mapping[str, Sequence[int]] = dataclasses.field(default_factory=dict)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return self.splits["train"].images.shape[1:]

    @property
    def sizes(self) -> dict[str, int]:
        """Images in each split."""
        return {name: len(split.images) for name, split in self.splits.items()}
