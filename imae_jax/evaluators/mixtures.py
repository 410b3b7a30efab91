"""The fixed mixtures every evaluator looks at: same pairs, alpha and masks each time."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import jax
import numpy as np

from imae_jax import augment
from imae_jax.data.pairs import epoch_pairs
from imae_jax.data.sources import Dataset
from imae_jax.mixing import Mixtures, mix, pair_sources
from imae_jax.patches import Mask, random_mask

# (images [B, H, W, C], mask) -> the model's named outputs as NumPy arrays.
Predict = Callable[[jax.Array, Mask], Mapping[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """Makes mixtures of a data set's splits.

    Attributes:
      dataset: where the images come from.
      patch_size, num_patches: p and L.
      mask_ratio: share of patches removed, as in training.
      norm_pix: whether the models predict patches standardised one by one.
    """

    dataset: Dataset
    patch_size: int
    num_patches: int
    mask_ratio: float
    norm_pix: bool

    def count(self, split: str) -> int:
        """How many mixtures a split gives: one per image, an odd one left out."""
        return len(self.dataset.splits[split].images) // 2 * 2

    def mixtures(
        self, split: str, *, alpha: float, batch_size: int, seed: int
    ) -> Iterator[tuple[Mixtures, np.ndarray]]:
        """Yields batches of mixtures, and which of the B are real: [B] bool.

        Every image is once the subordinate and once the dominant one. `seed` decides pairs
        and masks; neither depends on the batch size. The last batch is filled up, so that
        all have the same shape.
        """
        images = self.dataset.splits[split].images
        count = self.count(split)
        indices = epoch_pairs(len(images), seed, epoch=0).reshape(-1)
        key = jax.random.key(seed)
        masks = random_mask(key, count, self.num_patches, self.mask_ratio)
        for start in range(0, count, batch_size):
            places = np.arange(start, start + batch_size)
            valid = places < count
            places = places % count
            batch = augment.standardise(
                images[indices[places]], self.dataset.mean, self.dataset.std
            )
            sources = pair_sources(batch)
            alphas = np.full(batch_size, alpha, np.float32)
            mask = jax.tree.map(lambda x, places=places: x[places], masks)
            yield Mixtures(mix(sources, alphas), sources, alphas, mask), valid
