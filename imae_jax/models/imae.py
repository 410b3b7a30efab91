"""`IMAE`: a MAE's encoder and decoder with a linear head for each image between them."""

from typing import ClassVar

import jax
import jax.numpy as jnp

from imae_jax.models.branches import branch_names
from imae_jax.models.layers import dense
from imae_jax.models.mae import Autoencoder, _as_float32


class IMAE(Autoencoder):
    """Separates the images of a mixture (paper, section 3).

    Independent linear heads, one for each image, replace MAE's single `decoder_embed`; head
    0 is always that of the image of least weight and the last one the dominant's, which
    makes an unordered set identifiable. One decoder, shared by all branches, reconstructs
    all images. The paper has two; `disentangle_subordinate` and `disentangle_dominant` are
    their heads, and `disentangle_middle_1` and so on those between them.

    Attributes:
      branches: "both" (all), or "subordinate" for the mode of the paper's first version,
        which reconstructs only the weaker image (axis S then has length 1).
      sources: number of images in a mixture.
    """

    is_fed_mixtures: ClassVar[bool] = True

    branches: str = "both"
    sources: int = 2

    @property
    def num_sources(self) -> int:
        """Number of reconstructed sources, the length of axis S."""
        return self.sources if self.branches == "both" else 1

    @property
    def heads(self) -> list[str]:
        """Names of the heads, in the order of axis S."""
        return [f"disentangle_{name}" for name in branch_names(self.num_sources)]

    def setup(self) -> None:
        super().setup()
        for head in self.heads:
            setattr(self, head, dense(self.decoder_size.width, self.compute))

    def disentangle(self, tokens: jax.Array) -> jax.Array:
        """Maps tokens of mixtures [B, 1 + K, D] to latents of sources [B, S, 1 + K, E]."""
        return jnp.stack([getattr(self, head)(tokens) for head in self.heads], axis=1)

    def decode(
        self, latents: jax.Array, ids_restore: jax.Array, num_predicted: int | None = None
    ) -> jax.Array:
        """Predicts pixels [B, S, L, P] from latents [B, S, 1 + K, E].

        All branches are decoded as one batch. S is the inner axis, so merging it with a B
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
        """Encodes the visible patches of the mixture and reconstructs all sources.

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
