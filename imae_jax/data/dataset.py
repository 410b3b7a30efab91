"""Containers for a data set and its splits."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from imae_jax.data.encoded_images import EncodedImages
from imae_jax.data.label_maps import EncodedLabelMaps


@dataclasses.dataclass(frozen=True)
class Split:
    """Images of a split with their labels and factors.

    Attributes:
      images: [N, H, W, C] uint8, or N encoded files.
      labels: [N] int64; -1 where there are none.
      factors: {name: [N]}, int for categorical and float for continuous factors.
      label_maps: [N, H, W] uint8 class of each pixel, 255 for none (`label_maps.IGNORED`),
        or N encoded files; None without label maps.
    """

    images: np.ndarray | EncodedImages
    labels: np.ndarray
    factors: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    label_maps: np.ndarray | EncodedLabelMaps | None = None

    @property
    def pixels(self) -> np.ndarray:
        """The images [N, H, W, C] uint8 of a split that is decoded."""
        assert isinstance(self.images, np.ndarray), "the images are files"
        return self.images

    def without_label_maps(self) -> "Split":
        """Returns the split for what looks at images alone, so that no map is read."""
        return dataclasses.replace(self, label_maps=None)

    def take(self, indices: np.ndarray) -> "Split":
        """Returns the examples at `indices`; images and label maps must be arrays."""
        factors = {name: values[indices] for name, values in self.factors.items()}
        assert not isinstance(self.label_maps, EncodedLabelMaps), "the label maps are files"
        label_maps = None if self.label_maps is None else self.label_maps[indices]
        return Split(self.pixels[indices], self.labels[indices], factors, label_maps)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set.

    Attributes:
      splits: `train`, and `validation` or `test` or both, as published.
      mean, std: [C] float32, pixel statistics of the train split on the 0..255 scale.
      class_names: one name per label; empty if there are no labels.
      path: folder of the data set.
      num_skipped: number of unusable images left out.
      published: {split: published split that it was taken from}, set by `eval_splits`.
      ignored: {file extension: number of files that are not images} of a folder.
      symmetry: {angular factor (radians): rotational symmetry order of each class}. Order
        n: the angle is known modulo 2 pi / n; 0: not at all.
      pixel_classes: names of the values of label maps; empty if there are no label maps.
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
    pixel_classes: tuple[str, ...] = ()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Image shape (H, W, C), of every split."""
        return next(iter(self.splits.values())).images.shape[1:]

    @property
    def sizes(self) -> dict[str, int]:
        """Number of images in each split."""
        return {name: len(split.images) for name, split in self.splits.items()}
