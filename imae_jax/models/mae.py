"""`MAE`, the teacher of i-MAE, and the encoder and decoder that both share."""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from imae_jax.models.layers import Compute, dense
from imae_jax.models.masking import random_mask
from imae_jax.models.patches import (
    grid_size,
    patchify,
    restore_order,
    sincos_position_embedding,
    take_patches,
)
from imae_jax.models.transformer import Size, Transformer

DECODER_ATTENTIONS = ("self", "cross")


def _as_float32(outputs: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Casts outputs to float32, for losses and metrics."""
    return {name: value.astype(jnp.float32) for name, value in outputs.items()}


class Encoder(nn.Module):
    """ViT over the visible patches only.

    Attributes:
      width, depth, heads, patch_size, compute: see `Size` and `Autoencoder`.
      drop_path, final_norm: see `Transformer`; used in fine-tuning.
    """

    width: int
    depth: int
    heads: int
    patch_size: int
    compute: Compute
    drop_path: float = 0.0
    final_norm: bool = True

    @nn.compact
    def __call__(self, images: jax.Array, ids_keep: jax.Array | None = None) -> jax.Array:
        batch_size, height, width, _ = images.shape
        patches = patchify(images, self.patch_size)
        grid = grid_size((height, width), self.patch_size)
        positions = jnp.asarray(sincos_position_embedding(self.width, grid))[None]
        if ids_keep is not None:
            # Gathered before embedding: masked patches cost nothing.
            patches = take_patches(patches, ids_keep)
            positions = positions[0][ids_keep]
        x = dense(self.width, self.compute, "patch_embed")(patches) + positions
        class_token = self.param("class_token", nn.initializers.normal(0.02), (self.width,))
        class_token = jnp.broadcast_to(class_token, (batch_size, 1, self.width))
        x = jnp.concatenate([class_token, x], axis=1)
        x = x.astype(self.compute.activations)
        return Transformer(
            self.depth,
            self.heads,
            self.compute,
            self.drop_path,
            self.final_norm,
            name="transformer",
        )(x)


class Decoder(nn.Module):
    """Transformer that predicts patches from the visible latents and mask tokens.

    Attributes:
      width, depth, heads, compute: see `Size` and `Autoencoder`.
      attention: "self": latents and mask tokens attend to each other, and all patches are
        predicted (MAE); "cross": each mask token attends to the latents alone, and only
        masked patches are predicted (CrossMAE, Fu et al. 2024, arXiv 2401.14391).
      grid: (rows, columns) of patches.
      patch_values: P.
    """

    width: int
    depth: int
    heads: int
    attention: str
    grid: tuple[int, int]
    patch_values: int
    compute: Compute

    @nn.compact
    def __call__(
        self, latents: jax.Array, ids_restore: jax.Array, num_predicted: int | None = None
    ) -> jax.Array:
        """Predicts patches [N, L, P] from latents [N, 1 + K, E] and ids [N, L].

        Cross-attention predicts the first `num_predicted` masked patches in the order of
        `masking.Mask`, None: all of them; other patches are 0, the mean pixel. Its latents
        have the encoder's position embedding only (CrossMAE's code).
        """
        mask_token = self.param("mask_token", nn.initializers.normal(0.02), (self.width,))
        positions = jnp.asarray(sincos_position_embedding(self.width, self.grid))[None]
        transformer = Transformer(self.depth, self.heads, self.compute, name="transformer")
        to_patches = dense(self.patch_values, self.compute, "pred")
        if self.attention == "self":
            assert num_predicted is None, "mask tokens attend to each other"
            patches = restore_order(latents[:, 1:], mask_token, ids_restore) + positions
            x = jnp.concatenate([latents[:, :1], patches], axis=1)
            return to_patches(transformer(x.astype(self.compute.activations))[:, 1:])
        visible, num_patches = latents.shape[1] - 1, ids_restore.shape[1]
        count = num_patches - visible if num_predicted is None else num_predicted
        ids = jnp.argsort(ids_restore, axis=-1)[:, visible : visible + count]
        queries = (mask_token + positions[0][ids]).astype(self.compute.activations)
        pred = to_patches(transformer(queries, latents))
        others = (0, 0), (visible, num_patches - visible - count), (0, 0)
        return take_patches(jnp.pad(pred, others), ids_restore)


class Autoencoder(nn.Module):
    """Base class of `MAE` and `IMAE`.

    Attributes:
      encoder_size, decoder_size: sizes of the two Transformers.
      decoder_attention: one of DECODER_ATTENTIONS, see `Decoder`.
      patch_size: p.
      image_size, channels: (H, W) and C.
      compute: dtypes and kernels; outputs are always float32.
      has_decoder: True for a MAE or an i-MAE, False for a classifier.
      is_fed_mixtures: True for an i-MAE.
    """

    has_decoder: ClassVar[bool] = True
    is_fed_mixtures: ClassVar[bool] = False

    encoder_size: Size
    decoder_size: Size
    decoder_attention: str
    patch_size: int
    image_size: tuple[int, int]
    channels: int
    compute: Compute

    def setup(self) -> None:
        self.encoder = Encoder(
            **self.encoder_size._asdict(), patch_size=self.patch_size, compute=self.compute
        )
        self.decoder = Decoder(
            **self.decoder_size._asdict(),
            attention=self.decoder_attention,
            grid=self.grid,
            patch_values=self.patch_size**2 * self.channels,
            compute=self.compute,
        )

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of an image's patches."""
        return grid_size(self.image_size, self.patch_size)

    @property
    def num_patches(self) -> int:
        """Number of patches of an image, L."""
        rows, columns = self.grid
        return rows * columns

    def example_inputs(self, key: jax.Array) -> tuple[jax.Array, ...]:
        """Returns example arguments of a call: one image with a random mask."""
        image = jnp.zeros((1, *self.image_size, self.channels))
        mask = random_mask(key, 1, self.num_patches, 0.5)
        return image, mask.ids_keep, mask.ids_restore

    def encode(self, images: jax.Array, ids_keep: jax.Array | None = None) -> jax.Array:
        """Encodes the patches at `ids_keep`, or all of them in raster order.

        Args:
          images: [B, H, W, C] normalized pixels.
          ids_keep: [B, K] int, or None.
        Returns:
          [B, 1 + K, D] tokens, the class token first.
        """
        return self.encoder(images, ids_keep)


class MAE(Autoencoder):
    """A masked autoencoder (He et al. 2022), the teacher of i-MAE."""

    def setup(self) -> None:
        super().setup()
        self.decoder_embed = dense(self.decoder_size.width, self.compute)

    def __call__(
        self,
        images: jax.Array,
        ids_keep: jax.Array,
        ids_restore: jax.Array,
        num_predicted: int | None = None,
    ) -> dict[str, jax.Array]:
        """Encodes the visible patches and predicts patches.

        Args:
          images: [B, H, W, C] normalized pixels.
          ids_keep, ids_restore: [B, K] and [B, L] int, see `masking.Mask`.
          num_predicted: see `Decoder`.
        Returns:
          A dict of `tokens` [B, 1 + K, D], `latents` [B, 1 + K, E] (the decoder's input and
          the target of distillation) and `pred` [B, L, P].
        """
        tokens = self.encode(images, ids_keep)
        latents = self.decoder_embed(tokens)
        pred = self.decoder(latents, ids_restore, num_predicted)
        return _as_float32(dict(tokens=tokens, latents=latents, pred=pred))
