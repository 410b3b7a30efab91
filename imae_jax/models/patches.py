"""Patches of images: cutting, reordering and position embedding."""

from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

# For functions that return the kind of array that they are given.
Array = TypeVar("Array", jax.Array, np.ndarray)


def grid_size(image_size: tuple[int, int], patch_size: int) -> tuple[int, int]:
    """Returns (rows, columns) of patches; raises ValueError if they do not fit."""
    height, width = image_size
    if height % patch_size or width % patch_size:
        raise ValueError(
            f"image size {height}x{width} is not divisible by patch size {patch_size}"
        )
    return height // patch_size, width // patch_size


def patchify(images: jax.Array | np.ndarray, patch_size: int) -> jax.Array:
    """Cuts [..., H, W, C] images into [..., L, P] patches.

    Patches are in raster order, and their values in the order (row, column, channel), as in
    MAE.
    """
    *batch, height, width, channels = images.shape
    rows, columns = grid_size((height, width), patch_size)
    x = images.reshape(*batch, rows, patch_size, columns, patch_size, channels)
    x = jnp.swapaxes(x, -4, -3)  # [..., rows, columns, p, p, C]
    return x.reshape(*batch, rows * columns, patch_size * patch_size * channels)


def unpatchify(
    patches: jax.Array | np.ndarray, patch_size: int, image_size: tuple[int, int]
) -> jax.Array:
    """Inverse of `patchify`: [..., L, P] patches back to [..., H, W, C] images."""
    *batch, _, values = patches.shape
    rows, columns = grid_size(image_size, patch_size)
    channels = values // patch_size**2
    x = patches.reshape(*batch, rows, columns, patch_size, patch_size, channels)
    x = jnp.swapaxes(x, -4, -3)
    return x.reshape(*batch, *image_size, channels)


def sincos_position_embedding(width: int, grid: tuple[int, int]) -> np.ndarray:
    """Returns MAE's fixed 2-D position embedding of the patches, [L, width] float32.

    The first half of the channels encodes the column, the second the row; in each half
    sines come before cosines (MAE's released code; other formulas exist). The class token
    has none: its row is zero in MAE.

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


def take_patches(patches: jax.Array, ids: jax.Array) -> jax.Array:
    """Gathers [B, L, ...] patches at ids [B, K] into [B, K, ...]."""
    return jnp.take_along_axis(patches, ids[:, :, None], axis=1)


def restore_order(
    visible: jax.Array, filler: jax.Array, ids_restore: jax.Array
) -> jax.Array:
    """Puts visible tokens [B, K, E] in raster order [B, L, E], else `filler` [E]."""
    batch_size, num_kept, width = visible.shape
    removed = (batch_size, ids_restore.shape[1] - num_kept, width)
    tokens = jnp.concatenate([visible, jnp.broadcast_to(filler, removed)], axis=1)
    return take_patches(tokens, ids_restore)
