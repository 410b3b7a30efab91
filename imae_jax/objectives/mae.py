"""Training objective of a MAE: reconstruct the masked patches of an image."""

import dataclasses
from typing import Any, Self

import jax
from ml_collections import ConfigDict

from imae_jax.data.dataset import Dataset
from imae_jax.errors import UserError, require
from imae_jax.models.forward import forward
from imae_jax.models.imae import IMAE
from imae_jax.models.mae import MAE
from imae_jax.models.masking import (
    first_masked,
    num_predicted,
    num_visible,
)
from imae_jax.models.patches import grid_size
from imae_jax.models.transformer import check_size, decode_variant
from imae_jax.objectives import losses
from imae_jax.objectives.base import Augmentation, Metrics, Objective, step_keys
from imae_jax.objectives.mask_kinds import Masking


def check_mask_ratio(ratio: float, key: str, num_patches: int) -> None:
    """Raises UserError unless the ratio leaves a patch visible and a patch masked."""
    require(0 <= ratio < 1, key, ratio, "in [0, 1)")
    try:
        visible = num_visible(num_patches, ratio)
    except ValueError as error:
        raise UserError(f"{key}={ratio!r}: {error}") from None
    require(
        visible < num_patches,
        key,
        ratio,
        f"large enough to mask at least one of {num_patches} patches",
    )


def check_content_weight(config: ConfigDict) -> None:
    """Raises UserError unless `mask.content_weight` goes with `mask.kind`.

    Args:
      config: the section `mask`.
    """
    kind, weight = config.kind, config.content_weight
    if kind == "content":
        allowed = (
            "other than 0 with mask.kind='content': above 0 detailed patches are masked "
            "more often, below 0 flat ones"
        )
        require(weight != 0, "mask.content_weight", weight, allowed)
    else:
        allowed = f"0 with mask.kind={kind!r}, which does not look at the image"
        require(weight == 0, "mask.content_weight", weight, allowed)


def check_decoder(config: ConfigDict, image_shape: tuple[int, int, int]) -> None:
    """Raises UserError unless decoder, mask and targets fit images [H, W, C]."""
    check_size(config.model.decoder, "model.decoder")
    patch_size = decode_variant(config.model.variant)[1]
    height, width, channels = image_shape
    rows, columns = grid_size((height, width), patch_size)
    check_mask_ratio(config.mask.ratio, "mask.ratio", rows * columns)
    check_content_weight(config.mask)
    require(
        patch_size**2 * channels > 1 or not config.loss.norm_pix,
        "loss.norm_pix",
        config.loss.norm_pix,
        "False where a patch has one value: it has no variance",
    )


@dataclasses.dataclass(frozen=True, eq=False)
class MAEObjective(Objective):
    """Reconstruction of the masked patches of each image.

    Attributes:
      model: the network to train.
      augmentation: crops and flips, before masking.
      masking: how many patches are masked, and which.
      norm_pix: True to normalize each target patch.
      predict_fraction: fraction of the masked patches that are decoded and enter the loss,
        in (0, 1]; below 1 only with a decoder of cross-attention.
    """

    title = "a MAE"
    needs = frozenset({"mask.ratio"})

    model: MAE | IMAE
    augmentation: Augmentation
    masking: Masking
    norm_pix: bool
    predict_fraction: float

    @property
    def num_predicted(self) -> int | None:
        """Number of masked patches that are decoded; None: all, as in an evaluation."""
        if self.predict_fraction == 1:
            return None
        ratio = self.masking.ratio
        return num_predicted(self.model.num_patches, ratio, self.predict_fraction)

    @classmethod
    def from_config(
        cls, config: ConfigDict, model: MAE, teacher: MAE | None, augmentation: Augmentation
    ) -> Self:
        """See `Objective`."""
        masking = Masking(**config.mask, grid=model.grid)
        loss = config.loss
        return cls(model, augmentation, masking, loss.norm_pix, loss.predict_fraction)

    def draw(self, batch: Any, step: jax.Array, seed: jax.Array) -> Any:
        """See `Objective`."""
        keys = step_keys(seed, step, "augment", "objective")
        images = self.augmentation(keys["augment"], batch)
        return images, self.draw_masks(keys["objective"], images)

    def loss(
        self, params: Any, batch_stats: Any, teacher_params: Any, examples: Any
    ) -> tuple[jax.Array, tuple[Metrics, Any]]:
        """See `Objective`."""
        images, draws = examples
        images = self.augmentation.normalize(images)
        total, metrics = self.loss_of(params, teacher_params, images, draws)
        return total, (metrics, batch_stats)

    def draw_masks(self, key: jax.Array, images: jax.Array) -> Any:
        """Draws masks of images [B, H, W, C] uint8 (subclasses may add other draws)."""
        return self.masking.draw(key, len(images), self.images_for_masks(images))

    def images_for_masks(self, images: jax.Array) -> jax.Array | None:
        """Normalizes images [B, H, W, C] uint8 if masks are drawn by their content."""
        return self.augmentation.normalize(images) if self.masking.needs_images else None

    def loss_of(
        self, params: Any, teacher_params: Any, images: jax.Array, draws: Any
    ) -> tuple[jax.Array, Metrics]:
        """Returns (total, metrics) of normalized images [B, H, W, C] and their draws."""
        count = self.num_predicted
        out = forward(self.model, params, images, draws, count)
        target = losses.target_patches(images, self.model.patch_size, self.norm_pix)
        return losses.mae_losses(out, target, first_masked(draws, count))

    @staticmethod
    def check(config: ConfigDict, dataset: Dataset) -> None:
        """See `Objective`."""
        check_decoder(config, dataset.image_shape)
        fraction, attention = config.loss.predict_fraction, config.model.decoder.attention
        require(
            fraction == 1 or attention == "cross",
            "loss.predict_fraction",
            fraction,
            f"1 with model.decoder.attention={attention!r}: mask tokens attend to each "
            "other, so none can be left out",
        )
