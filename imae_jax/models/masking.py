"""Random masks of patches."""

import flax.struct
import jax
import jax.numpy as jnp


def num_visible(num_patches: int, mask_ratio: float) -> int:
    """Returns K = int(L * (1 - mask_ratio)); raises ValueError unless 1 <= K <= L."""
    visible = int(num_patches * (1 - mask_ratio))
    if not 1 <= visible <= num_patches:
        raise ValueError(
            f"mask ratio {mask_ratio} leaves {visible} of {num_patches} patches visible; "
            f"it must be at least 0 and leave at least one"
        )
    return visible


def num_predicted(num_patches: int, mask_ratio: float, fraction: float) -> int:
    """Returns how many masked patches a fraction of them is: rounded, at least 1."""
    masked = num_patches - num_visible(num_patches, mask_ratio)
    return max(1, round(fraction * masked))


@flax.struct.dataclass
class Mask:
    """Masks of a batch of images.

    Attributes:
      ids_keep: [B, K] int32, raster index of each visible patch, in the encoder's order.
      ids_restore: [B, L] int32, index of each patch in (visible..., masked...).
      mask: [B, L] bool, True = masked.
    """

    ids_keep: jax.Array
    ids_restore: jax.Array
    mask: jax.Array


def mask_from_noise(noise: jax.Array, mask_ratio: float) -> Mask:
    """Keeps the K patches with the smallest noise ([B, L] float); MAE's random masking."""
    num_patches = noise.shape[-1]
    visible = num_visible(num_patches, mask_ratio)
    ids_shuffle = jnp.argsort(noise, axis=-1)
    ids_restore = jnp.argsort(ids_shuffle, axis=-1)
    return Mask(ids_shuffle[..., :visible], ids_restore, ids_restore >= visible)


def first_masked(mask: Mask, count: int | None) -> jax.Array:
    """Returns [B, L] bool, True for the first `count` masked patches; None: for all.

    In the order of `ids_restore`. That of a random mask is the order of its noise, so the
    first ones are a uniform sample of the masked patches.
    """
    if count is None:
        return mask.mask
    return mask.mask & (mask.ids_restore < mask.ids_keep.shape[-1] + count)


def random_mask(
    key: jax.Array, batch_size: int, num_patches: int, mask_ratio: float
) -> Mask:
    """Draws an independent random mask for each of `batch_size` samples."""
    noise = jax.random.uniform(key, (batch_size, num_patches))
    return mask_from_noise(noise, mask_ratio)


def covering_masks(mask: Mask) -> list[Mask]:
    """Returns masks of equal size, the given one first, that together mask every patch.

    For full reconstructions: predictions are meaningful for masked patches only, so a whole
    image needs several passes.
    """
    num_patches, visible = mask.ids_restore.shape[1], mask.ids_keep.shape[1]
    return _turned(mask, num_patches - visible)


def showing_masks(mask: Mask) -> list[Mask]:
    """Returns masks of equal size, the given one first, that together show every patch."""
    return _turned(mask, -mask.ids_keep.shape[1])


def _turned(mask: Mask, step: int) -> list[Mask]:
    """Returns the masks by turning the order of the patches `step` places, once around."""
    num_patches, visible = mask.ids_restore.shape[1], mask.ids_keep.shape[1]
    ids_shuffle = jnp.argsort(mask.ids_restore, axis=-1)
    masks = []
    for turn in range(-(-num_patches // abs(step))):
        turned = jnp.roll(ids_shuffle, turn * step, axis=-1)
        ids_restore = jnp.argsort(turned, axis=-1)
        masks.append(Mask(turned[:, :visible], ids_restore, ids_restore >= visible))
    return masks
