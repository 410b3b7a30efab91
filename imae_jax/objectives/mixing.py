"""Two images become one mixture (METHOD: paper section 3, released code)."""

import flax.struct
import jax
import jax.numpy as jnp

from imae_jax.models.masking import Mask, random_mask

# Axis S of every two-image array.
BRANCHES = ("subordinate", "dominant")


@flax.struct.dataclass
class Mixtures:
    """A batch of mixtures and what they were made of.

    Attributes:
      mixture: [B, H, W, C] float, what the encoder is fed.
      sources: [B, S, H, W, C] float, the subordinate and the dominant image.
      alpha: [B] float in (0, 0.5], the weight of the subordinate image.
      mask: one `Mask` per mixture; both sources and the teacher's passes share it.
    """

    mixture: jax.Array
    sources: jax.Array
    alpha: jax.Array
    mask: Mask


def swap_partners(x: jax.Array) -> jax.Array:
    """Exchanges the members of each pair (2i, 2i + 1) along axis 0 of [B, ...]."""
    pairs = x.reshape(x.shape[0] // 2, 2, *x.shape[1:])
    return pairs[:, ::-1].reshape(x.shape)


def pair_sources(images: jax.Array) -> jax.Array:
    """[B, ...] images (or latents) lying in pairs -> [B, S, ...], B mixtures' sources.

    Each pair makes two mixtures in which its images change roles: image j is the
    subordinate of mixture j and the dominant of its partner's.
    """
    return jnp.stack([images, swap_partners(images)], axis=1)


def sample_alpha(
    key: jax.Array, batch_size: int, alpha: float | None, per_batch: bool
) -> jax.Array:
    """Weights of the subordinate images, [B] in (0, 0.5].

    `alpha=None` draws min(lam, 1 - lam) with lam ~ Beta(1, 1), which is uniform on
    (0, 0.5]; one draw per sample (ours: lower-variance gradients) or, with `per_batch`,
    one for the whole batch (released code). A number fixes it.
    """
    if alpha is not None:
        return jnp.full((batch_size,), alpha)
    drawn = jax.random.uniform(key, (1 if per_batch else batch_size,))  # [0, 1)
    return jnp.broadcast_to(0.5 * (1 - drawn), (batch_size,))


def mix(sources: jax.Array, alpha: jax.Array) -> jax.Array:
    """mixture = alpha * subordinate + (1 - alpha) * dominant.

    Args:
      sources: [B, S, H, W, C] standardised pixels.
      alpha: [B] in (0, 0.5].
    Returns:
      [B, H, W, C].
    """
    weights = jnp.stack([alpha, 1 - alpha], axis=1)  # [B, S]
    # Pixels in full precision: by default a TPU would round them to bfloat16.
    return jnp.einsum("bs,bshwc->bhwc", weights, sources, precision="highest")


def pair_mask(
    key: jax.Array, batch_size: int, num_patches: int, mask_ratio: float, shared: bool
) -> Mask:
    """One mask per mixture, or, if `shared`, one for both mixtures of a pair."""
    if not shared:
        return random_mask(key, batch_size, num_patches, mask_ratio)
    mask = random_mask(key, batch_size // 2, num_patches, mask_ratio)
    return jax.tree.map(lambda x: jnp.repeat(x, 2, axis=0), mask)


def draw_mixtures(
    key: jax.Array,
    batch_size: int,
    *,
    num_patches: int,
    mask_ratio: float,
    alpha: float | None,
    per_batch: bool = False,
    shared_mask: bool = False,
) -> tuple[jax.Array, Mask]:
    """What is random of B mixtures: alphas [B] and masks.

    See `sample_alpha` and `pair_mask` for the options.
    """
    alpha_key, mask_key = jax.random.split(key)
    alphas = sample_alpha(alpha_key, batch_size, alpha, per_batch)
    return alphas, pair_mask(mask_key, batch_size, num_patches, mask_ratio, shared_mask)


def make_mixtures(images: jax.Array, alpha: jax.Array, mask: Mask) -> Mixtures:
    """B standardised images lying in pairs, [B, H, W, C], make B mixtures."""
    sources = pair_sources(images)
    return Mixtures(mix(sources, alpha), sources, alpha, mask)
