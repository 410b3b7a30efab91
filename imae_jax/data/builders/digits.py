"""TFDS builder of scikit-learn's handwritten digits."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from imae_jax.data.image_io import png

# 1,797 images, in a fixed shuffled order.
SPLITS = {"train": 1297, "validation": 200, "test": 300}


class Digits(tfds.core.GeneratorBasedBuilder):
    """1,797 handwritten digits, 8x8 grey, 10 classes (UCI optdigits, test part).

    The images ship inside scikit-learn, so preparing needs no network. Intensities 0..16
    are stretched to 0..255.
    """

    VERSION = tfds.core.Version("1.0.0")
    FORM = ((8, 8, 1), 10, 1297)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(8, 8, 1), encoding_format="png"),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://scikit-learn.org/stable/datasets/toy_dataset.html",
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        del dl_manager  # nothing to download
        # RandomState, not default_rng: its stream is frozen across NumPy versions.
        order = np.random.RandomState(0).permutation(sum(SPLITS.values()))
        ends = np.cumsum(list(SPLITS.values()))[:-1]
        parts = np.split(order, ends)
        return {
            split: self._generate_examples(indices)
            for split, indices in zip(SPLITS, parts, strict=True)
        }

    def _generate_examples(
        self, indices: np.ndarray
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        # Imported here: needed for preparing only.
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = np.round(digits.images * (255 / 16)).astype(np.uint8)
        for index in indices:
            yield (
                int(index),
                {
                    "image": png(images[index]),
                    "label": int(digits.target[index]),
                },
            )
