"""A data set as evaluators see it: decoded, in three parts, as large as one likes."""

import dataclasses
import logging
from collections.abc import Mapping

import numpy as np

from imae_jax.data.encoded_images import EncodedImages, decode_all
from imae_jax.data.load import Dataset, Split

logger = logging.getLogger(__name__)

# Of a data set published in two splits, one training image in ten chooses what probes
# have to choose; they are fitted on the others.
CHOOSING_SHARE = 10


def decoded(split: Split, on_bad_image: str, indices: np.ndarray | None = None) -> Split:
    """The examples at `indices`, by default all, with their images as an array.

    Raises:
      BadImageError: see `images.decode_all`.
    """
    if not isinstance(split.images, EncodedImages):
        return split if indices is None else split.take(indices)
    if indices is None:
        indices = np.arange(len(split.images))
    images, good = decode_all(split.images, indices, on_bad_image)
    factors = {name: values[good] for name, values in split.factors.items()}
    return Split(images, split.labels[good], factors)


def part_indices(
    sizes: Mapping[str, int], limits: Mapping[str, int | None]
) -> dict[str, tuple[str, np.ndarray]]:
    """Which images of which published split each part holds.

    Args:
      sizes: images in each published split.
      limits: the most images of `train`, `validation` and `test`; None: all there are.
    Returns:
      For `train`, `validation` and `test`: a published split's name and sorted indices.
      Where only two splits were published, `test` is the one that is not `train`, and
      `validation` is set aside from `train`. All draws are the same each time.
    """
    scored = "test" if "test" in sizes else "validation"
    # RandomState: its stream is frozen across NumPy versions.
    order = {name: np.random.RandomState(0).permutation(n) for name, n in sizes.items()}
    fitted, chosen = order["train"], ("validation", order.get("validation"))
    if len(sizes) == 2:
        count = max(2, sizes["train"] // CHOOSING_SHARE)
        fitted, chosen = fitted[count:], ("train", fitted[:count])
    parts = dict(train=("train", fitted), validation=chosen, test=(scored, order[scored]))
    return {
        part: (split, np.sort(indices[: limits[part]]))
        for part, (split, indices) in parts.items()
    }


def parts_of(
    dataset: Dataset, limits: Mapping[str, int | None], on_bad_image: str
) -> Dataset:
    """The data set in the parts `train`, `validation` and `test`, decoded.

    Probes are fitted on `train`, what they choose is chosen on `validation`, and `test` is
    scored; see `part_indices`.
    """
    splits, published = {}, {}
    for part, (split, indices) in part_indices(dataset.sizes, limits).items():
        whole, published[part] = dataset.splits[split], split
        if isinstance(whole.images, EncodedImages):
            logger.info(f"decoding {len(indices):,} images of {split}")
        splits[part] = decoded(whole, on_bad_image, indices)
    return dataclasses.replace(dataset, splits=splits, published=published)
