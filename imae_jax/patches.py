"""Images as patches: cutting, positions, and the random mask."""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np


def grid_size(image_size: tuple[int, int], patch_size: int) -> tuple[int, int]:
    """Returns (rows, columns) of patches; raises ValueError if they do not fit."""
    height, width = image_size
    if height % patch_size or width % patch_size:
        raise ValueError(
            f"image size {height}x{width} is not divisible by patch size {patch_size}"
        )
    return height // patch_size, width // patch_size


def patchify(images: jax.Array, patch_size: int) -> jax.Array:
    """Cuts [..., H, W, C] images into [..., L, P] patches.

    Patches are in raster order; the values of one are ordered (row, column, channel),
    as in MAE.
    """
    *batch, height, width, channels = images.shape
    rows, columns = grid_size((height, width), patch_size)
    x = images.reshape(*batch, rows, patch_size, columns, patch_size, channels)
    x = jnp.swapaxes(x, -4, -3)  # [..., rows, columns, p, p, C]
    return x.reshape(*batch, rows * columns, patch_size * patch_size * channels)


def unpatchify(
    patches: jax.Array, patch_size: int, image_size: tuple[int, int]
) -> jax.Array:
    """Inverse of `patchify`: [..., L, P] patches back to [..., H, W, C] images."""
    *batch, _, values = patches.shape
    rows, columns = grid_size(image_size, patch_size)
    channels = values // patch_size**2
    x = patches.reshape(*batch, rows, columns, patch_size, patch_size, channels)
    x = jnp.swapaxes(x, -4, -3)
    return x.reshape(*batch, *image_size, channels)


def sincos_position_embedding(width: int, grid: tuple[int, int]) -> np.ndarray:
    """MAE's fixed 2-D position embedding of the patches, [L, width] float32.

    The first half of the channels encodes the column, the second the row; in each half
    sines come before cosines. (MAE's released code; other formulas are in circulation.)
    The class token has none: its row is zero in MAE.

    Raises:
      ValueError: if width is not divisible by 4.
    """
    if width % 4:
        raise ValueError(f"position embedding needs a width divisible by 4, got {width}")
    frequencies = 10000.0 ** -(np.arange(width // 4) / (width / 4))
    row, column = np.meshgrid(np.arange(grid[0]), np.arange(grid[1]), indexing="ij")
    halves = []
    for position in (column, row):
        angles = position.reshape(-1, 1) * frequencies
        halves += [np.sin(angles), np.cos(angles)]
    return np.concatenate(halves, axis=1).astype(np.float32)


def num_visible(num_patches: int, mask_ratio: float) -> int:
    """K = int(L * (1 - mask_ratio)); raises ValueError unless 1 <= K <= L."""
    visible = int(num_patches * (1 - mask_ratio))
    if not 1 <= visible <= num_patches:
        raise ValueError(
            f"mask ratio {mask_ratio} leaves {visible} of {num_patches} patches visible; "
            f"it must be at least 0 and leave at least one"
        )
    return visible


@flax.struct.dataclass
class Mask:
    """Which patches the encoder sees, for a batch.

    Attributes:
      ids_keep: [B, K] int32, raster index of each visible patch, in the encoder's order.
      ids_restore: [B, L] int32, place of each patch in (visible..., removed...).
      mask: [B, L] bool, True = removed.
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


def random_mask(
    key: jax.Array, batch_size: int, num_patches: int, mask_ratio: float
) -> Mask:
    """Draws an independent random mask for each of `batch_size` samples."""
    noise = jax.random.uniform(key, (batch_size, num_patches))
    return mask_from_noise(noise, mask_ratio)


def covering_masks(mask: Mask) -> list[Mask]:
    """Masks of the same size, the given one first, that remove every patch at least once.

    For pictures: what a model predicts of a patch means something only where it was
    removed, so a whole image needs several passes.
    """
    num_patches, visible = mask.ids_restore.shape[1], mask.ids_keep.shape[1]
    removed = num_patches - visible
    ids_shuffle = jnp.argsort(mask.ids_restore, axis=-1)
    masks = []
    for turn in range(-(-num_patches // removed)):
        turned = jnp.roll(ids_shuffle, turn * removed, axis=-1)
        ids_restore = jnp.argsort(turned, axis=-1)
        masks.append(Mask(turned[:, :visible], ids_restore, ids_restore >= visible))
    return masks


def take_patches(patches: jax.Array, ids: jax.Array) -> jax.Array:
    """Gathers [B, L, ...] patches at ids [B, K] into [B, K, ...]."""
    return jnp.take_along_axis(patches, ids[:, :, None], axis=1)


def restore_order(
    visible: jax.Array, filler: jax.Array, ids_restore: jax.Array
) -> jax.Array:
    """Puts [B, K, E] visible tokens back in raster order, `filler` [E] elsewhere.

    Returns [B, L, E].
    """
    batch_size, num_kept, width = visible.shape
    removed = (batch_size, ids_restore.shape[1] - num_kept, width)
    tokens = jnp.concatenate([visible, jnp.broadcast_to(filler, removed)], axis=1)
    return take_patches(tokens, ids_restore)
