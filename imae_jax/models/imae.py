"""`IMAE`: a MAE's encoder and decoder with two linear heads between them."""

from typing import ClassVar

import jax
import jax.numpy as jnp

from imae_jax.models.layers import dense
from imae_jax.models.mae import Autoencoder, _as_float32


class IMAE(Autoencoder):
    """Separates the two images of a mixture (paper, section 3).

    Two independent linear heads replace MAE's single `decoder_embed`; head 0 is always the
    subordinate image's and head 1 the dominant's, which makes an unordered pair
    identifiable. One decoder, shared by both branches, reconstructs both images.

    Attributes:
      branches: "both", or "subordinate" for the mode of the paper's first version, which
        reconstructs only the weaker image (axis S then has length 1).
    """

    is_fed_mixtures: ClassVar[bool] = True

    branches: str = "both"

    @property
    def num_sources(self) -> int:
        """Number of reconstructed sources, the length of axis S."""
        return 2 if self.branches == "both" else 1

    def setup(self) -> None:
        super().setup()
        self.disentangle_subordinate = dense(self.decoder_size.width, self.compute)
        if self.branches == "both":
            self.disentangle_dominant = dense(self.decoder_size.width, self.compute)

    def disentangle(self, tokens: jax.Array) -> jax.Array:
        """Maps tokens of mixtures [B, 1 + K, D] to latents of sources [B, S, 1 + K, E]."""
        latents = [self.disentangle_subordinate(tokens)]
        if self.branches == "both":
            latents.append(self.disentangle_dominant(tokens))
        return jnp.stack(latents, axis=1)

    def decode(
        self, latents: jax.Array, ids_restore: jax.Array, num_predicted: int | None = None
    ) -> jax.Array:
        """Predicts pixels [B, S, L, P] from latents [B, S, 1 + K, E].

        Both branches are decoded as one batch. S is the inner axis, so merging it with a B
        that is sharded over devices moves no data.
        """
        batch_size, sources, *token_shape = latents.shape
        pred = self.decoder(
            latents.reshape(batch_size * sources, *token_shape),
            jnp.repeat(ids_restore, sources, axis=0),
            num_predicted,
        )
        return pred.reshape(batch_size, sources, *pred.shape[1:])

    def __call__(
        self,
        mixture: jax.Array,
        ids_keep: jax.Array,
        ids_restore: jax.Array,
        num_predicted: int | None = None,
    ) -> dict[str, jax.Array]:
        """Encodes the visible patches of the mixture and reconstructs both sources.

        Args:
          mixture: [B, H, W, C] normalized pixels.
          ids_keep, ids_restore: [B, K] and [B, L] int, see `masking.Mask`.
          num_predicted: see `Decoder`.
        Returns:
          A dict of `tokens` [B, 1 + K, D], `latents` [B, S, 1 + K, E] and `pred`
          [B, S, L, P].
        """
        tokens = self.encode(mixture, ids_keep)
        latents = self.disentangle(tokens)
        pred = self.decode(latents, ids_restore, num_predicted)
        return _as_float32(dict(tokens=tokens, latents=latents, pred=pred))
