"""Mixing of two images into one (METHOD: paper section 3, released code)."""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from imae_jax.models.masking import Mask
from imae_jax.models.patches import Array
from imae_jax.objectives.mask_kinds import Masking

# Axis S of every two-image array.
BRANCHES = ("subordinate", "dominant")


@flax.struct.dataclass
class Mixtures:
    """A batch of mixtures and their sources.

    Attributes:
      mixture: [B, H, W, C] float, the encoder's input.
      sources: [B, S, H, W, C] float, the subordinate and the dominant image.
      alpha: [B] float in [0, 0.5], the weight of the subordinate image; 0 where the
        dominant image is shown alone.
      mask: one mask per mixture, shared by both sources and the teacher's passes.
    """

    mixture: jax.Array
    sources: jax.Array
    alpha: jax.Array
    mask: Mask


def swap_partners(x: Array) -> Array:
    """Exchanges the members of each pair (2i, 2i + 1) along axis 0 of [B, ...]."""
    pairs = x.reshape(x.shape[0] // 2, 2, *x.shape[1:])
    return pairs[:, ::-1].reshape(x.shape)


def pair_sources(images: Array) -> jax.Array:
    """Stacks adjacent pairs of images (or latents) [B, ...] as sources [B, S, ...].

    Each pair makes two mixtures in which its images swap roles: image j is the subordinate
    of mixture j and the dominant of its partner's.
    """
    return jnp.stack([images, swap_partners(images)], axis=1)


def sample_alpha(
    key: jax.Array, batch_size: int, alpha: float | None, per_batch: bool
) -> jax.Array:
    """Returns the weights of the subordinate images, [B] in (0, 0.5].

    `alpha=None` draws min(lam, 1 - lam) with lam ~ Beta(1, 1), which is uniform on
    (0, 0.5]: one draw per sample (ours: lower-variance gradients) or, with `per_batch`, one
    per batch (released code). A number is used as it is.
    """
    if alpha is not None:
        return jnp.full((batch_size,), alpha)
    drawn = jax.random.uniform(key, (1 if per_batch else batch_size,))  # [0, 1)
    return jnp.broadcast_to(0.5 * (1 - drawn), (batch_size,))


def mix(sources: jax.Array | np.ndarray, alpha: jax.Array | np.ndarray) -> jax.Array:
    """Returns alpha * subordinate + (1 - alpha) * dominant.

    Args:
      sources: [B, S, H, W, C] normalized pixels.
      alpha: [B] in [0, 0.5].
    Returns:
      [B, H, W, C].
    """
    weights = jnp.stack([alpha, 1 - alpha], axis=1)  # [B, S]
    # Full precision: by default a TPU rounds pixels to bfloat16.
    return jnp.einsum("bs,bshwc->bhwc", weights, sources, precision="highest")


def with_clean_pairs(alpha: jax.Array, fraction: float) -> jax.Array:
    """Sets the alphas [B] of a fraction of the pairs, rounded, to 0 (ours).

    Both mixtures of such a pair are their dominant image alone.
    """
    count = num_clean_pairs(len(alpha) // 2, fraction)
    return alpha.at[: 2 * count].set(0.0) if count else alpha


def num_clean_pairs(pairs: int, fraction: float) -> int:
    """Returns the number of pairs that are not mixed."""
    return round(fraction * pairs)


def role_weights(alpha: jax.Array) -> jax.Array:
    """Returns each mixture's weight in the mean over a batch of each branch's loss, [B, S].

    Every mixture has a dominant image; those of alpha 0 have no subordinate one. A branch's
    weights are equal where it has an image, else 0, and have mean 1, so that a plain mean
    over the batch, or a sum over its microbatches, averages over the images of the role.
    """
    has_role = jnp.stack([alpha > 0, jnp.ones_like(alpha, bool)], axis=1)
    return has_role / has_role.mean(axis=0)


def pair_mask(
    key: jax.Array,
    batch_size: int,
    masking: Masking,
    shared: bool,
    mixture: jax.Array | None = None,
) -> Mask:
    """Draws one mask per mixture, or, if `shared`, one for both mixtures of a pair."""
    if not shared:
        return masking.draw(key, batch_size, mixture)
    mask = masking.draw(key, batch_size // 2)
    return jax.tree.map(lambda x: jnp.repeat(x, 2, axis=0), mask)


def draw_mixtures(
    key: jax.Array,
    batch_size: int,
    *,
    masking: Masking,
    alpha: float | None,
    per_batch: bool = False,
    shared_mask: bool = False,
    clean_fraction: float = 0.0,
    images: jax.Array | None = None,
) -> tuple[jax.Array, Mask]:
    """Draws alphas [B] and masks of B mixtures.

    See `sample_alpha`, `with_clean_pairs` and `pair_mask`. `images`: [B, H, W, C] float,
    those that are mixed, only if the masks depend on them.
    """
    alpha_key, mask_key = jax.random.split(key)
    drawn = sample_alpha(alpha_key, batch_size, alpha, per_batch)
    weights = with_clean_pairs(drawn, clean_fraction)
    mixture = None if images is None else mix(pair_sources(images), weights)
    return weights, pair_mask(mask_key, batch_size, masking, shared_mask, mixture)


def make_mixtures(images: jax.Array, alpha: jax.Array, mask: Mask) -> Mixtures:
    """Makes B mixtures of normalized images [B, H, W, C], with pairs adjacent."""
    sources = pair_sources(images)
    return Mixtures(mix(sources, alpha), sources, alpha, mask)
