"""What an evaluator is given: frozen networks, and held-out images and mixtures.

The mixtures are the same each time: same pairs, alphas and masks.
"""

import dataclasses
import zlib
from collections.abc import Iterator, Mapping

import jax
import numpy as np

from imae_jax.data import augment
from imae_jax.data.load import Dataset
from imae_jax.data.pair_sampler import epoch_pairs
from imae_jax.evaluators.networks import Network
from imae_jax.models.masking import Mask, random_mask
from imae_jax.objectives.mixing import mix, pair_sources


@dataclasses.dataclass(frozen=True)
class Batch:
    """B held-out mixtures, not yet mixed.

    Attributes:
      sources: [B, S, H, W, C] standardised pixels.
      labels: [B, S] int, the sources' classes.
      factors: what else is known of the sources, [B, S] each, by name.
      mask: one `Mask` per mixture, shared by everything that is shown of it.
      valid: [B] bool, False where the batch was only filled up.
    """

    sources: np.ndarray
    labels: np.ndarray
    factors: Mapping[str, np.ndarray]
    mask: Mask
    valid: np.ndarray

    def mixture(self, alpha: float) -> np.ndarray:
        """[B, H, W, C] at weight `alpha` of the subordinate image."""
        alphas = np.full(len(self.sources), alpha, np.float32)
        return np.asarray(mix(self.sources, alphas))

    @property
    def position(self) -> np.ndarray:
        """[B, 1 + K] int, each visible token's position; 0 is the class token's."""
        return np.pad(self.mask.ids_keep + 1, ((0, 0), (1, 0)))

    @property
    def different_classes(self) -> np.ndarray:
        """[B] bool, valid mixtures of two classes."""
        return self.valid & (self.labels[:, 0] != self.labels[:, 1])


def latents_of_images(teacher: Network, batch: Batch) -> np.ndarray:
    """What a MAE makes of each source alone, under the mixture's mask: [B, S, 1 + K, E]."""
    found = [
        teacher.predict(batch.sources[:, s], batch.mask)["latents"]
        for s in range(batch.sources.shape[1])
    ]
    return np.stack(found, axis=1)


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """Makes images and mixtures of a data set's splits, in batches of one shape.

    Attributes:
      dataset: where the images come from.
      patch_size, num_patches: p and L.
      mask_ratio: share of patches removed, as in training; None where none is.
      norm_pix: whether the models predict patches standardised one by one.
    """

    dataset: Dataset
    patch_size: int
    num_patches: int
    mask_ratio: float | None
    norm_pix: bool

    def count(self, split: str) -> int:
        """How many mixtures a split gives: one per image, an odd one left out."""
        return len(self.dataset.splits[split].images) // 2 * 2

    def standardised(self, images: np.ndarray) -> np.ndarray:
        """[..., C] uint8 pixels in the units that networks see."""
        return np.asarray(augment.standardise(images, self.dataset.mean, self.dataset.std))

    def pixels(self, images: np.ndarray) -> np.ndarray:
        """Inverse of `standardised`, clipped to 0..255: [..., C] float."""
        shown = augment.unstandardise(images, self.dataset.mean, self.dataset.std)
        return np.clip(np.asarray(shown), 0, 255)

    def images(
        self, split: str, *, batch_size: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields every image once, [B, H, W, C], and which of the B are real, [B] bool."""
        images = self.dataset.splits[split].images
        for places, valid in _places(len(images), batch_size):
            yield self.standardised(images[places]), valid

    def batches(self, split: str, *, batch_size: int, seed: int) -> Iterator[Batch]:
        """Yields the split's mixtures; every image is once in each role.

        `seed` and the split's name decide pairs and masks; neither depends on the batch
        size.
        """
        examples, count = self.dataset.splits[split], self.count(split)
        indices = epoch_pairs(len(examples.images), seed, epoch=0).reshape(-1)
        key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(split.encode()))
        masks = random_mask(key, count, self.num_patches, self.mask_ratio)
        masks = jax.tree.map(np.asarray, masks)
        for places, valid in _places(count, batch_size):
            own = examples.take(indices[places])
            yield Batch(
                sources=np.asarray(pair_sources(self.standardised(own.images))),
                labels=np.asarray(pair_sources(own.labels)),
                factors={
                    name: np.asarray(pair_sources(values))
                    for name, values in own.factors.items()
                },
                mask=jax.tree.map(lambda x, places=places: x[places], masks),
                valid=valid,
            )


def _places(count: int, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """0..count - 1 in batches, the last filled up from the front, and what is real."""
    for start in range(0, count, batch_size):
        places = np.arange(start, start + batch_size)
        yield places % count, places < count
