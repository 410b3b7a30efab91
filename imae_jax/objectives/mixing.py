"""Mixing of images into one: two (METHOD: paper section 3, released code), or more (ours).

Throughout, `alpha` says how S images are weighted: [B], the weights of the subordinate ones
of two images, or [B, S], all weights, ascending with sum 1.
"""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from imae_jax.models.masking import Mask
from imae_jax.models.patches import Array
from imae_jax.objectives.mask_kinds import Masking


@flax.struct.dataclass
class Mixtures:
    """A batch of mixtures and their sources.

    Attributes:
      mixture: [B, H, W, C] float, the encoder's input.
      sources: [B, S, H, W, C] float, by rising weight: the dominant image is the last.
      alpha: [B] float in [0, 0.5], or [B, S]; 0 (of all but the last) where the dominant
        image is shown alone.
      mask: one mask per mixture, shared by both sources and the teacher's passes.
    """

    mixture: jax.Array
    sources: jax.Array
    alpha: jax.Array
    mask: Mask


def rotate(x: Array, num_sources: int, places: int) -> Array:
    """Turns each group of S adjacent members of [B, ...]: member i becomes i + `places`."""
    if places == 0:
        return x
    groups = x.reshape(x.shape[0] // num_sources, num_sources, *x.shape[1:])
    if num_sources == 2:
        return groups[:, ::-1].reshape(x.shape)  # one operation
    join = np.concatenate if isinstance(x, np.ndarray) else jnp.concatenate
    return join([groups[:, places:], groups[:, :places]], axis=1).reshape(x.shape)


def group_sources(images: Array, num_sources: int = 2) -> jax.Array:
    """Stacks groups of S adjacent images (or latents) [B, ...] as sources [B, S, ...].

    Each group makes S mixtures in which its images rotate through the roles: image j is the
    weakest of mixture j, the second weakest of the mixture before it in the group, and so
    on, so it has every role once. Of a pair, the two images swap roles.
    """
    turned = [rotate(images, num_sources, s) for s in range(num_sources)]
    return jnp.stack(turned, axis=1)


def weights_at(alpha: float, num_sources: int) -> np.ndarray:
    """Returns the S weights, ascending with sum 1, that one number stands for.

    Evenly spaced, the least being to the largest as alpha to 1 - alpha: of two images those
    themselves, of three (0.2, 0.333, 0.467) at alpha 0.3; all equal at 0.5 (ours).
    """
    return np.linspace(alpha, 1 - alpha, num_sources) * (2 / num_sources)


def fixed_alpha(alpha: float, batch_size: int, num_sources: int) -> jax.Array:
    """Returns B times the weights of `weights_at`, as [B] of two images, else [B, S]."""
    if num_sources == 2:
        return jnp.full((batch_size,), alpha)
    weights = jnp.asarray(weights_at(alpha, num_sources), jnp.float32)
    return jnp.broadcast_to(weights, (batch_size, num_sources))


def sample_alpha(
    key: jax.Array,
    batch_size: int,
    alpha: float | None,
    per_batch: bool,
    num_sources: int = 2,
) -> jax.Array:
    """Returns how B mixtures are weighted, [B] in (0, 0.5] of two images, else [B, S].

    `alpha=None` draws the weights uniformly on the simplex, sorted: of two images
    min(lam, 1 - lam) with lam ~ Beta(1, 1), which is uniform on (0, 0.5]. One draw per
    sample (ours: lower-variance gradients) or, with `per_batch`, one per batch (released
    code). A number is used as it is, see `weights_at`.
    """
    if alpha is not None:
        return fixed_alpha(alpha, batch_size, num_sources)
    count = 1 if per_batch else batch_size
    if num_sources == 2:
        drawn = jax.random.uniform(key, (count,))  # [0, 1)
        return jnp.broadcast_to(0.5 * (1 - drawn), (batch_size,))
    least = jnp.finfo(jnp.float32).tiny
    drawn = -jnp.log(jax.random.uniform(key, (count, num_sources), minval=least))
    weights = jnp.sort(drawn / drawn.sum(axis=1, keepdims=True), axis=1)
    return jnp.broadcast_to(weights, (batch_size, num_sources))


def sources_of(alpha: jax.Array | np.ndarray) -> int:
    """Returns the number of images that are mixed, S."""
    return 2 if alpha.ndim == 1 else alpha.shape[1]


def weights_of(alpha: jax.Array | np.ndarray) -> jax.Array:
    """Returns all weights [B, S] of mixtures."""
    if alpha.ndim == 2:
        return jnp.asarray(alpha)
    return jnp.stack([alpha, 1 - alpha], axis=1)


def mix(sources: jax.Array | np.ndarray, alpha: jax.Array | np.ndarray) -> jax.Array:
    """Returns the sums of S images, of two alpha * subordinate + (1 - alpha) * dominant.

    Args:
      sources: [B, S, H, W, C] normalized pixels.
      alpha: [B] in [0, 0.5] of two images, or [B, S] weights.
    Returns:
      [B, H, W, C].
    """
    # Full precision: by default a TPU rounds pixels to bfloat16.
    return jnp.einsum("bs,bshwc->bhwc", weights_of(alpha), sources, precision="highest")


def with_clean_groups(alpha: jax.Array, fraction: float, num_sources: int) -> jax.Array:
    """Leaves a fraction of the groups, rounded, unmixed (ours).

    Each mixture of such a group is its dominant image alone.
    """
    count = num_clean_groups(len(alpha) // num_sources, fraction)
    alone = 0.0 if alpha.ndim == 1 else jnp.eye(num_sources)[-1]
    return alpha.at[: num_sources * count].set(alone) if count else alpha


def num_clean_groups(groups: int, fraction: float) -> int:
    """Returns the number of groups that are not mixed."""
    return round(fraction * groups)


def role_weights(alpha: jax.Array) -> jax.Array:
    """Returns each mixture's weight in the mean over a batch of each branch's loss, [B, S].

    Every mixture has a dominant image; those shown alone have no other one. A branch's
    weights are equal where it has an image, else 0, and have mean 1, so that a plain mean
    over the batch, or a sum over its microbatches, averages over the images of the role.
    """
    others = sources_of(alpha) - 1
    is_mixed = (alpha if alpha.ndim == 1 else alpha[:, 0]) > 0
    has_role = jnp.stack([is_mixed] * others + [jnp.ones_like(is_mixed)], axis=1)
    return has_role / has_role.mean(axis=0)


def group_mask(
    key: jax.Array,
    batch_size: int,
    masking: Masking,
    shared_by: int = 1,
    mixture: jax.Array | None = None,
) -> Mask:
    """Draws B masks, each shared by this number of adjacent mixtures."""
    if shared_by == 1:
        return masking.draw(key, batch_size, mixture)
    mask = masking.draw(key, batch_size // shared_by)
    return jax.tree.map(lambda x: jnp.repeat(x, shared_by, axis=0), mask)


# Keyword options: the `mix` section of a config, mostly.
def draw_mixtures(
    key: jax.Array,
    batch_size: int,
    *,
    masking: Masking,
    alpha: float | None,
    per_batch: bool = False,
    shared_mask: bool = False,
    clean_fraction: float = 0.0,
    sources: int = 2,
    images: jax.Array | None = None,
) -> tuple[jax.Array, Mask]:
    """Draws alphas, [B] or [B, S], and masks of B mixtures of `sources` images.

    See `sample_alpha`, `with_clean_groups` and `group_mask`. `images`: [B, H, W, C] float,
    those that are mixed, only if the masks depend on them.
    """
    alpha_key, mask_key = jax.random.split(key)
    drawn = sample_alpha(alpha_key, batch_size, alpha, per_batch, sources)
    weights = with_clean_groups(drawn, clean_fraction, sources)
    mixture = None if images is None else mix(group_sources(images, sources), weights)
    shared_by = sources if shared_mask else 1
    return weights, group_mask(mask_key, batch_size, masking, shared_by, mixture)


def make_mixtures(images: jax.Array, alpha: jax.Array, mask: Mask) -> Mixtures:
    """Makes B mixtures of normalized images [B, H, W, C], with groups adjacent."""
    sources = group_sources(images, sources_of(alpha))
    return Mixtures(mix(sources, alpha), sources, alpha, mask)
