"""Train, validation and test splits for evaluation, decoded and limited in size."""

import dataclasses
import logging
from collections.abc import Mapping

import numpy as np

from imae_jax.data.encoded_images import EncodedImages, decode_all
from imae_jax.data.label_maps import EncodedLabelMaps
from imae_jax.data.load import Dataset, Split
from imae_jax.errors import UserError

logger = logging.getLogger(__name__)

# With only two published splits, one training image in ten forms the validation split.
CHOOSING_SHARE = 10
MIN_PART = 2  # images are evaluated in pairs


def decoded(split: Split, on_bad_image: str, indices: np.ndarray | None = None) -> Split:
    """Returns the examples at `indices` (default: all) as arrays.

    Raises:
      BadImageError: see `encoded_images.decode_all`; an image whose label map cannot be
        used cannot be used.
    """
    if not isinstance(split.images, EncodedImages):
        return split if indices is None else split.take(indices)
    if indices is None:
        indices = np.arange(len(split.images))
    label_maps = None
    if isinstance(split.label_maps, EncodedLabelMaps):
        label_maps, indices = decode_all(split.label_maps, indices, on_bad_image)
    images, good = decode_all(split.images, indices, on_bad_image)
    if label_maps is not None:
        label_maps = label_maps[np.isin(indices, good)]
    factors = {name: values[good] for name, values in split.factors.items()}
    return Split(images, split.labels[good], factors, label_maps)


def part_indices(
    sizes: Mapping[str, int], limits: Mapping[str, int | None]
) -> dict[str, tuple[str, np.ndarray]]:
    """Chooses the images of each evaluation split from the published splits.

    Deterministic. With only two published splits, `test` is the one that is not `train`,
    and `validation` is set aside from `train`.

    Args:
      sizes: number of images in each published split.
      limits: largest size of `train`, `validation` and `test`; None: no limit.
    Returns:
      {`train`, `validation`, `test`: (name of a published split, sorted indices)}.
    """
    scored = "test" if "test" in sizes else "validation"
    # RandomState: its stream is frozen across NumPy versions.
    order = {name: np.random.RandomState(0).permutation(n) for name, n in sizes.items()}
    fitted = order["train"]
    if len(sizes) == 2:
        count = max(2, sizes["train"] // CHOOSING_SHARE)
        fitted, chosen = fitted[count:], ("train", fitted[:count])
    else:
        chosen = "validation", order["validation"]
    parts = dict(train=("train", fitted), validation=chosen, test=(scored, order[scored]))
    return {
        part: (split, np.sort(indices[: limits[part]]))
        for part, (split, indices) in parts.items()
    }


def parts_of(
    dataset: Dataset, limits: Mapping[str, int | None], on_bad_image: str
) -> Dataset:
    """Returns the decoded data set, split into `train`, `validation` and `test`.

    Probes are fitted on `train`, their hyperparameters are chosen on `validation`, and
    `test` is scored; see `part_indices`.

    Raises:
      BadImageError: see `decoded`.
      UserError: if a part has fewer than `MIN_PART` images once unusable ones are left out.
    """
    splits, published = {}, {}
    for part, (split, indices) in part_indices(dataset.sizes, limits).items():
        whole, published[part] = dataset.splits[split], split
        if isinstance(whole.images, EncodedImages):
            logger.info(f"decoding {len(indices):,} images of {split}")
        splits[part] = decoded(whole, on_bad_image, indices)
        left = len(splits[part].images)
        # A part that was as small before is a matter of the evaluators' checks.
        if left < min(MIN_PART, len(indices)):
            raise UserError(
                f"evaluation needs at least {MIN_PART} images to be its {part} part, but "
                f"only {left} of {len(indices)} of {split} can be used and the others were "
                f"skipped (data.on_bad_image={on_bad_image}): mend them, or add images"
            )
    return dataclasses.replace(dataset, splits=splits, published=published)
