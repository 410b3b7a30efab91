"""Held-out images and mixtures for evaluators.

Mixtures are reproducible: every evaluation uses the same pairs, alphas and masks.
"""

import dataclasses
import zlib
from collections.abc import Iterator, Mapping
from typing import Self

import jax
import numpy as np
from ml_collections import ConfigDict

from imae_jax.data import augment
from imae_jax.data.group_sampler import epoch_groups
from imae_jax.data.load import Dataset
from imae_jax.evaluators.factor_targets import all_differ
from imae_jax.evaluators.networks import Network
from imae_jax.models.branches import PAIR
from imae_jax.models.classifier import Classifier
from imae_jax.models.imae import IMAE
from imae_jax.models.mae import MAE
from imae_jax.models.masking import Mask, random_mask
from imae_jax.models.patches import Array, patchify
from imae_jax.objectives.mixing import fixed_alpha, mix, rotate
from imae_jax.objectives.select import group_size


@dataclasses.dataclass(frozen=True)
class Batch:
    """A batch of held-out images to be mixed, with their masks.

    Attributes:
      sources: [B, S, H, W, C] normalized pixels, by rising weight.
      labels: [B, S] int, classes of the sources.
      factors: other known factors of the sources, [B, S] each, by name.
      mask: one mask per mixture, used for the mixture and all its sources.
      valid: [B] bool, False for padding.
    """

    sources: np.ndarray
    labels: np.ndarray
    factors: Mapping[str, np.ndarray]
    mask: Mask
    valid: np.ndarray

    @property
    def num_sources(self) -> int:
        """Number of images in a mixture, S."""
        return self.sources.shape[1]

    def mixture(self, alpha: float) -> np.ndarray:
        """Mixtures [B, H, W, C] with the weights of `mixing.weights_at`."""
        weights = fixed_alpha(alpha, len(self.sources), self.num_sources)
        return np.asarray(mix(self.sources, weights))

    @property
    def position(self) -> np.ndarray:
        """[B, 1 + K] int, positions of the visible tokens; 0 is the class token."""
        return np.pad(self.mask.ids_keep + 1, ((0, 0), (1, 0)))

    @property
    def different_classes(self) -> np.ndarray:
        """[B] bool, True for valid mixtures of images that all differ in class."""
        return self.valid & all_differ(self.labels)


def latents_of_images(
    teacher: Network, batch: Batch, output: str = "latents"
) -> np.ndarray:
    """Returns a MAE's output for each source alone, under its mixture's mask.

    Args:
      teacher: the MAE.
      batch: the sources.
      output: `latents`, [B, S, 1 + K, E], or `tokens`, [B, S, 1 + K, D].
    """
    found = [
        teacher.predict(batch.sources[:, s], batch.mask)[output]
        for s in range(batch.num_sources)
    ]
    return np.stack(found, axis=1)


def visible_pixels(mixture: np.ndarray, batch: Batch, patch_size: int) -> np.ndarray:
    """Returns the visible patches of mixtures [B, H, W, C] as features [B, 1 + K, P].

    In the class token's place stands their mean.
    """
    patches = np.asarray(patchify(mixture, patch_size))
    visible = np.take_along_axis(
        patches, np.asarray(batch.mask.ids_keep)[..., None], axis=1
    )
    return np.concatenate([visible.mean(axis=1, keepdims=True), visible], axis=1)


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """Images and mixtures of a data set's splits, in batches of constant shape.

    Attributes:
      dataset: source of the images.
      patch_size, num_patches: p and L.
      mask_ratio: fraction of masked patches, as in training; None without masks.
      norm_pix: True if the models predict per-patch normalized pixels.
      num_sources: number of images in a mixture, S.
    """

    dataset: Dataset
    patch_size: int
    num_patches: int
    mask_ratio: float | None
    norm_pix: bool
    num_sources: int = PAIR

    @classmethod
    def of(
        cls, config: ConfigDict, model: MAE | IMAE | Classifier, dataset: Dataset
    ) -> Self:
        """Returns the images of a decoded data set for a run's network."""
        return cls(
            dataset=dataset,
            patch_size=model.patch_size,
            num_patches=model.num_patches,
            # A classifier's config has no `mask`, and no `loss`.
            mask_ratio=config.mask.ratio if "mask" in config else None,
            norm_pix="loss" in config and config.loss.norm_pix,
            num_sources=group_size(config),
        )

    def count(self, split: str) -> int:
        """Number of mixtures of a split: one per image, rounded down to whole groups."""
        return len(self.dataset.splits[split].images) // self.num_sources * self.num_sources

    def normalized(self, images: np.ndarray) -> np.ndarray:
        """Normalizes [..., C] uint8 pixels, as networks expect them."""
        return np.asarray(augment.normalize(images, self.dataset.mean, self.dataset.std))

    def pixels(self, images: Array) -> np.ndarray:
        """Inverse of `normalized`: [..., C] float, clipped to 0..255."""
        shown = augment.unnormalize(images, self.dataset.mean, self.dataset.std)
        return np.clip(np.asarray(shown), 0, 255)

    def images(
        self, split: str, *, batch_size: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields every image once: normalized [B, H, W, C], and valid [B] bool."""
        images = self.dataset.splits[split].pixels
        for places, valid in _places(len(images), batch_size):
            yield self.normalized(images[places]), valid

    def batches(self, split: str, *, batch_size: int, seed: int) -> Iterator[Batch]:
        """Yields the split's mixtures; every image has each role once.

        Groups and masks depend on `seed` and the split's name only, not on the batch size.
        """
        examples, count = self.dataset.splits[split], self.count(split)
        size = self.num_sources
        groups = epoch_groups(len(examples.images), seed, epoch=0, size=size)
        turned = [rotate(groups.reshape(-1), size, s) for s in range(size)]
        indices = np.stack(turned, axis=1)  # of each mixture's images
        key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(split.encode()))
        assert self.mask_ratio is not None, "a classifier's evaluators need no mixtures"
        masks = random_mask(key, count, self.num_patches, self.mask_ratio)
        masks = jax.tree.map(np.asarray, masks)
        for places, valid in _places(count, batch_size):
            found = examples.take(indices[places].reshape(-1))

            def by_source(values: np.ndarray) -> np.ndarray:
                values = values.astype(jax.dtypes.canonicalize_dtype(values.dtype))
                return values.reshape(-1, size, *values.shape[1:])

            yield Batch(
                sources=by_source(self.normalized(found.pixels)),
                labels=by_source(found.labels),
                factors={name: by_source(x) for name, x in found.factors.items()},
                mask=jax.tree.map(lambda x, places=places: x[places], masks),
                valid=valid,
            )


def _places(count: int, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields indices 0..count - 1 in batches, the last padded from the front, and valid."""
    for start in range(0, count, batch_size):
        places = np.arange(start, start + batch_size)
        yield places % count, places < count
