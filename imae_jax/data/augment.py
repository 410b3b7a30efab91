"""Augmentation on the device (random crops, flips, erasing) and pixel normalization."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from imae_jax.models.patches import Array

# Draws per box; the first that fits is used (torchvision, timm).
TRIES = 10
# What lies beyond the edge of a shifted image, by NumPy's and torchvision's names.
PAD_MODES = ("constant", "reflect")
CROP_RATIO = (3 / 4, 4 / 3)  # width / height of a random crop (torchvision)


def draw_boxes(
    key: jax.Array,
    batch_size: int,
    height: int,
    width: int,
    area: tuple[float, float],
    ratio: tuple[float, float],
) -> tuple[jax.Array, jax.Array]:
    """Draws one box of random size, shape and position for each image.

    Args:
      key: random key.
      batch_size: B.
      height, width: image size in pixels.
      area: range of the box's area as a fraction of the image's, drawn uniformly.
      ratio: range of width / height, drawn log-uniformly.
    Returns:
      [B, 4] int32, (top, left, height, width) of the first of `TRIES` draws that fits into
      the image, and [B] bool, True if any draw fits; otherwise the box is meaningless.
    """
    area_key, ratio_key, corner_key = jax.random.split(key, 3)
    draws = (batch_size, TRIES)
    pixels = height * width * jax.random.uniform(area_key, draws, jnp.float32, *area)
    log_low, log_high = map(math.log, ratio)
    ratios = jnp.exp(jax.random.uniform(ratio_key, draws, jnp.float32, log_low, log_high))
    sizes = jnp.round(jnp.sqrt(jnp.stack([pixels / ratios, pixels * ratios], axis=-1)))
    image_size = jnp.array([height, width])
    fits = jnp.all((sizes > 0) & (sizes <= image_size), axis=-1)
    first = jnp.argmax(fits, axis=1)[:, None, None]
    size = jnp.take_along_axis(sizes, first, axis=1)[:, 0].astype(jnp.int32)
    room = jnp.maximum(image_size - size, 0)
    corner = jax.random.randint(corner_key, (batch_size, 2), 0, room + 1)
    return jnp.concatenate([corner, size], axis=1), jnp.any(fits, axis=1)


def crop_boxes(
    key: jax.Array,
    batch_size: int,
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float] = CROP_RATIO,
) -> jax.Array:
    """Boxes of torchvision's RandomResizedCrop, [B, 4] int32 as in `draw_boxes`.

    The fraction of the area is uniform in `scale`. If no draw fits, the box is the largest
    central one whose shape is within `ratio`.
    """
    boxes, fits = draw_boxes(key, batch_size, height, width, scale, ratio)
    narrow, wide = ratio
    rows = min(height, round(width / narrow))
    columns = min(width, round(height * wide))
    central = ((height - rows) // 2, (width - columns) // 2, rows, columns)
    return jnp.where(fits[:, None], boxes, jnp.array(central, jnp.int32))


def crop_and_resize(images: jax.Array, boxes: jax.Array) -> jax.Array:
    """Crops [B, H, W, C] uint8 images to their boxes and resizes to H x W (bicubic).

    Boxes fit into the image, so no antialiasing is needed. As in Pillow's
    `resize(box=...)`, the filter also uses the pixels around the box; torchvision crops
    first, so the borders of its crops differ slightly.
    """
    height, width, channels = images.shape[1:]

    def resize(image: jax.Array, box: jax.Array) -> jax.Array:
        scale = jnp.array([height, width], jnp.float32) / box[2:]
        return jax.image.scale_and_translate(
            image,
            (height, width, channels),
            (0, 1),
            scale,
            -box[:2] * scale,
            method="cubic",
        )

    resized = jax.vmap(resize)(images.astype(jnp.float32), boxes)
    return jnp.clip(jnp.round(resized), 0, 255).astype(images.dtype)


def random_resized_crop(
    key: jax.Array, images: jax.Array, scale: tuple[float, float]
) -> jax.Array:
    """Takes a random crop of each of [B, H, W, C] uint8 images, resized to H x W.

    `scale` is the range of the crop's area as a fraction of the image's (MAE: (0.2, 1) on
    ImageNet). Crops have the aspect ratio of the image times one in `CROP_RATIO` (ours:
    torchvision's rules are for square images).
    """
    batch_size, height, width, _ = images.shape
    low, high = (bound * width / height for bound in CROP_RATIO)
    boxes = crop_boxes(key, batch_size, height, width, scale, (low, high))
    return crop_and_resize(images, boxes)


def random_shift(key: jax.Array, images: jax.Array, pad: int, pad_mode: str) -> jax.Array:
    """Shifts each of [B, H, W, C] images by -pad..pad pixels both ways.

    Beyond its edge an image is filled with zeros ("constant") or goes on as in a mirror
    ("reflect"), see PAD_MODES.
    """
    batch_size, height, width, channels = images.shape
    padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), pad_mode)
    offsets = jax.random.randint(key, (batch_size, 2), 0, 2 * pad + 1)

    def crop(image: jax.Array, offset: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(
            image, (offset[0], offset[1], 0), (height, width, channels)
        )

    return jax.vmap(crop)(padded, offsets)


def random_flip(key: jax.Array, images: jax.Array) -> jax.Array:
    """Mirrors each of [B, H, W, C] images left to right with probability 1/2."""
    flipped = jax.random.bernoulli(key, shape=(images.shape[0], 1, 1, 1))
    return jnp.where(flipped, images[:, :, ::-1], images)


def box_mask(boxes: jax.Array, height: int, width: int) -> jax.Array:
    """Mask of [B, 4] boxes (top, left, height, width): [B, H, W] bool, True inside."""
    top, left, rows, columns = boxes.T[:, :, None]
    row, column = jnp.arange(height), jnp.arange(width)
    in_rows = (row >= top) & (row < top + rows)
    in_columns = (column >= left) & (column < left + columns)
    return in_rows[:, :, None] & in_columns[:, None, :]


def random_erasing(
    key: jax.Array,
    images: jax.Array,
    *,
    probability: float,
    area: tuple[float, float],
    ratio: tuple[float, float],
) -> jax.Array:
    """Replaces a random box of some images with normal noise (timm's mode "pixel").

    One box per image. Unlike in timm, it may be as high or as wide as the image. An image
    is unchanged if no draw fits.

    Args:
      key: random key.
      images: [B, H, W, C] float, normalized.
      probability: probability of erasing in an image (MAE's fine-tuning: 0.25).
      area, ratio: see `draw_boxes` (timm and MAE: (0.02, 1 / 3) and (0.3, 1 / 0.3)).
    """
    erase_key, box_key, noise_key = jax.random.split(key, 3)
    batch_size, height, width, _ = images.shape
    erased = jax.random.bernoulli(erase_key, probability, (batch_size,))
    boxes, fits = draw_boxes(box_key, batch_size, height, width, area, ratio)
    inside = box_mask(boxes, height, width) & (erased & fits)[:, None, None]
    noise = jax.random.normal(noise_key, images.shape, images.dtype)
    return jnp.where(inside[..., None], noise, images)


def augment(
    key: jax.Array,
    images: jax.Array,
    pad: int,
    pad_mode: str,
    flip: bool,
    crop_scale: tuple[float, float] | tuple[()],
) -> jax.Array:
    """Applies the augmentations of pretraining to [B, H, W, C] uint8 images.

    Args:
      key: random key.
      images: [B, H, W, C] uint8.
      pad: largest random shift in pixels; 0: none.
      pad_mode: one of PAD_MODES.
      flip: mirror half of the images.
      crop_scale: see `random_resized_crop`; (): no crop.
    Returns:
      [B, H, W, C] uint8.
    """
    shift_key, flip_key, crop_key = jax.random.split(key, 3)
    if crop_scale:
        images = random_resized_crop(crop_key, images, crop_scale)
    if pad:
        images = random_shift(shift_key, images, pad, pad_mode)
    return random_flip(flip_key, images) if flip else images


def normalize(images: Array, mean: Any, std: Any) -> Array:
    """Normalizes [..., C] pixels in 0..255 to float32 with the [C] `mean` and `std`."""
    return (images.astype(jnp.float32) - mean) / std


def unnormalize(images: Array, mean: Any, std: Any) -> Array:
    """Inverse of `normalize`: float32 pixels on the 0..255 scale, not clipped."""
    return images * std + mean
