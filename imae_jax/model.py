"""`MAE`, the teacher, and `IMAE`: the same encoder and decoder, and two heads between."""

import dataclasses
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from imae_jax.compute import Compute, dense
from imae_jax.patches import (
    Mask,
    grid_size,
    patchify,
    restore_order,
    sincos_position_embedding,
    take_patches,
)
from imae_jax.transformer import Block, Size, Transformer, decode_variant


def _as_float32(outputs: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """For losses and metrics."""
    return {name: value.astype(jnp.float32) for name, value in outputs.items()}


class Encoder(nn.Module):
    """ViT over the visible patches only.

    Attributes:
      width, depth, heads, patch_size, compute: see `Autoencoder`.
      drop_path, final_norm: see `Transformer`; fine-tuning has choices there.
    """

    width: int
    depth: int
    heads: int
    patch_size: int
    compute: Compute
    drop_path: float = 0.0
    final_norm: bool = True

    @nn.compact
    def __call__(self, images, ids_keep=None):
        batch_size, height, width, _ = images.shape
        patches = patchify(images, self.patch_size)
        grid = grid_size((height, width), self.patch_size)
        positions = jnp.asarray(sincos_position_embedding(self.width, grid))[None]
        if ids_keep is not None:
            # Gathered before they are embedded: removed patches cost nothing.
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
    """Rebuilds every patch from the visible latents and mask tokens."""

    width: int
    depth: int
    heads: int
    grid: tuple[int, int]
    patch_values: int
    compute: Compute

    @nn.compact
    def __call__(self, latents, ids_restore):
        mask_token = self.param("mask_token", nn.initializers.normal(0.02), (self.width,))
        positions = jnp.asarray(sincos_position_embedding(self.width, self.grid))[None]
        patches = restore_order(latents[:, 1:], mask_token, ids_restore) + positions
        x = jnp.concatenate([latents[:, :1], patches], axis=1)
        x = x.astype(self.compute.activations)
        x = Transformer(self.depth, self.heads, self.compute, name="transformer")(x)
        return dense(self.patch_values, self.compute, "pred")(x[:, 1:])


class Autoencoder(nn.Module):
    """What `MAE` and `IMAE` share.

    Attributes:
      encoder_size, decoder_size: of the two Transformers.
      patch_size: p.
      image_size, channels: (H, W) and C.
      compute: types and forms; outputs are float32 always.
    """

    encoder_size: Size
    decoder_size: Size
    patch_size: int
    image_size: tuple[int, int]
    channels: int
    compute: Compute

    def setup(self):
        self.encoder = Encoder(
            **self.encoder_size._asdict(), patch_size=self.patch_size, compute=self.compute
        )
        self.decoder = Decoder(
            **self.decoder_size._asdict(),
            grid=grid_size(self.image_size, self.patch_size),
            patch_values=self.patch_size**2 * self.channels,
            compute=self.compute,
        )

    @property
    def num_patches(self) -> int:
        """L."""
        rows, columns = grid_size(self.image_size, self.patch_size)
        return rows * columns

    def encode(self, images, ids_keep=None):
        """Encodes the patches at `ids_keep`; without it all of them, in raster order.

        Args:
          images: [B, H, W, C] standardised pixels.
          ids_keep: [B, K] int, or None.
        Returns:
          [B, 1 + K, D] tokens, the class token first.
        """
        return self.encoder(images, ids_keep)


class MAE(Autoencoder):
    """A masked autoencoder (He et al. 2022), the teacher of i-MAE."""

    def setup(self):
        super().setup()
        self.decoder_embed = dense(self.decoder_size.width, self.compute)

    def __call__(self, images, ids_keep, ids_restore):
        """Encodes the visible patches, rebuilds all of them.

        Args:
          images: [B, H, W, C] standardised pixels.
          ids_keep, ids_restore: [B, K] and [B, L] int, see `patches.Mask`.
        Returns:
          A dict of `tokens` [B, 1 + K, D], `latents` [B, 1 + K, E] (what the decoder is
          given, and the target of distillation) and `pred` [B, L, P].
        """
        tokens = self.encode(images, ids_keep)
        latents = self.decoder_embed(tokens)
        pred = self.decoder(latents, ids_restore)
        return _as_float32(dict(tokens=tokens, latents=latents, pred=pred))


class IMAE(Autoencoder):
    """Pulls the two images of a mixture apart (paper, section 3).

    Two independent linear heads stand where MAE has its single `decoder_embed`; head 0 is
    always the subordinate image's and head 1 the dominant's, which makes an unordered
    pair identifiable. One decoder, shared by both branches, rebuilds both images.

    Attributes:
      branches: "both", or "subordinate" for the mode of the paper's first version, which
        rebuilds only the weaker image (axis S then has length 1).
    """

    branches: str = "both"

    @property
    def num_sources(self) -> int:
        """S."""
        return 2 if self.branches == "both" else 1

    def setup(self):
        super().setup()
        self.disentangle_subordinate = dense(self.decoder_size.width, self.compute)
        if self.branches == "both":
            self.disentangle_dominant = dense(self.decoder_size.width, self.compute)

    def disentangle(self, tokens):
        """[B, 1 + K, D] tokens of mixtures -> [B, S, 1 + K, E] latents of their sources."""
        latents = [self.disentangle_subordinate(tokens)]
        if self.branches == "both":
            latents.append(self.disentangle_dominant(tokens))
        return jnp.stack(latents, axis=1)

    def decode(self, latents, ids_restore):
        """[B, S, 1 + K, E] latents, [B, L] ids_restore -> [B, S, L, P] predicted pixels.

        Both branches go through the decoder as one batch. S is the inner axis, so that
        merging it with a B that is sharded over devices moves nothing between them.
        """
        batch_size, sources, *token_shape = latents.shape
        pred = self.decoder(
            latents.reshape(batch_size * sources, *token_shape),
            jnp.repeat(ids_restore, sources, axis=0),
        )
        return pred.reshape(batch_size, sources, *pred.shape[1:])

    def __call__(self, mixture, ids_keep, ids_restore):
        """Encodes the visible patches of the mixture, rebuilds both sources.

        Args:
          mixture: [B, H, W, C] standardised pixels.
          ids_keep, ids_restore: [B, K] and [B, L] int, see `patches.Mask`.
        Returns:
          A dict of `tokens` [B, 1 + K, D], `latents` [B, S, 1 + K, E] and `pred`
          [B, S, L, P].
        """
        tokens = self.encode(mixture, ids_keep)
        latents = self.disentangle(tokens)
        pred = self.decode(latents, ids_restore)
        return _as_float32(dict(tokens=tokens, latents=latents, pred=pred))


def forward(
    model: MAE | IMAE, params, images: jax.Array, mask: Mask
) -> dict[str, jax.Array]:
    """The model's named outputs; what a caller leaves unused, jit does not compute."""
    return model.apply({"params": params}, images, mask.ids_keep, mask.ids_restore)


def embed(model: MAE | IMAE, params, images: jax.Array) -> dict[str, jax.Array]:
    """What the encoder makes of whole images; deterministic.

    Args:
      images: [B, H, W, C] standardised pixels.
    Returns:
      A dict of `class_token` [B, D], `mean` [B, D] of the patch tokens, and `layers`
      [B, depth, D], the mean of the patch tokens after each block, before the final
      LayerNorm.
    """
    # A loop on the device shows no layers.
    model = model.clone(compute=model.compute._replace(scan=False, remat="none"))
    tokens, state = model.apply(
        {"params": params},
        images,
        method="encode",
        capture_intermediates=lambda module, _: isinstance(module, Block),
        mutable=["intermediates"],
    )
    blocks = state["intermediates"]["encoder"]["transformer"]
    layers = [blocks[name]["__call__"][0][:, 1:].mean(axis=1) for name in sorted(blocks)]
    return _as_float32(
        dict(
            class_token=tokens[:, 0],
            mean=tokens[:, 1:].mean(axis=1),
            layers=jnp.stack(layers, axis=1),
        )
    )


def as_mae(model: MAE | IMAE) -> MAE:
    """The MAE of the same encoder and decoder."""
    fields = (field.name for field in dataclasses.fields(Autoencoder) if field.init)
    shared = {name: getattr(model, name) for name in fields}
    return MAE(**shared | {"parent": None, "name": None})


def build_autoencoder(
    *,
    name: str,
    variant: str,
    encoder: Mapping[str, int | None],
    decoder: Mapping[str, int],
    image_shape: tuple[int, int, int],
    compute: Compute,
    branches: str = "both",
) -> MAE | IMAE:
    """Makes the model that a config's `model` section describes.

    Args:
      name: "mae" or "imae".
      variant: see `decode_variant`.
      encoder: width, depth and heads; None leaves the variant's own.
      decoder: width, depth and heads.
      image_shape: (H, W, C).
      compute: see `compute.choose`.
      branches: see `IMAE`.
    """
    size, patch_size = decode_variant(variant)
    *image_size, channels = image_shape
    fields = dict(
        encoder_size=size._replace(**{k: v for k, v in encoder.items() if v is not None}),
        decoder_size=Size(**decoder),
        patch_size=patch_size,
        image_size=tuple(image_size),
        channels=channels,
        compute=compute,
    )
    return MAE(**fields) if name == "mae" else IMAE(**fields, branches=branches)
