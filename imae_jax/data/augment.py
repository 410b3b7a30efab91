"""Pixels on the device: random crops, flips and erasing, standardisation."""

import math

import jax
import jax.numpy as jnp

# A box is drawn up to so many times until one fits (torchvision, timm).
TRIES = 10
CROP_RATIO = (3 / 4, 4 / 3)  # width / height of a random crop (torchvision)


def draw_boxes(
    key: jax.Array,
    batch_size: int,
    height: int,
    width: int,
    area: tuple[float, float],
    ratio: tuple[float, float],
) -> tuple[jax.Array, jax.Array]:
    """Boxes of random size and shape, each anywhere in its image.

    Args:
      key: of all draws.
      batch_size, height, width: how many images, and their size in pixels.
      area: range of the box's share of the image's area, drawn uniformly.
      ratio: range of its width / height, drawn log-uniformly.
    Returns:
      [B, 4] int32, (top, left, height, width) of the first of `TRIES` draws that is not
      larger than the image, and [B] bool, whether there was one: else the box says nothing.
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
    """What torchvision's RandomResizedCrop keeps: [B, 4] int32, see `draw_boxes`.

    The box takes a share of the area uniform in `scale`. Where no draw fits, it is the
    largest central one whose shape is within `ratio`.
    """
    boxes, fits = draw_boxes(key, batch_size, height, width, scale, ratio)
    narrow, wide = ratio
    rows = min(height, round(width / narrow))
    columns = min(width, round(height * wide))
    central = ((height - rows) // 2, (width - columns) // 2, rows, columns)
    return jnp.where(fits[:, None], boxes, jnp.array(central, jnp.int32))


def crop_and_resize(images: jax.Array, boxes: jax.Array) -> jax.Array:
    """Each box of [B, H, W, C] uint8 images, resized to H x W: bicubic.

    No box is larger than the image, so there is nothing to protect from aliasing. Like
    Pillow's `resize(box=...)`, the filter sees the pixels around the box, where the image
    has some; torchvision cuts them off first, so the borders of its crops differ a little.
    """
    height, width, channels = images.shape[1:]

    def resize(image, box):
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
    """A random part of each of [B, H, W, C] uint8 images, resized to the whole size.

    `scale` is the range of the part's share of the area (MAE: (0.2, 1) on ImageNet). The
    part of an image that is not square has its shape, within `CROP_RATIO` (ours:
    torchvision's rules are for squares).
    """
    batch_size, height, width, _ = images.shape
    ratio = tuple(bound * width / height for bound in CROP_RATIO)
    boxes = crop_boxes(key, batch_size, height, width, scale, ratio)
    return crop_and_resize(images, boxes)


def random_shift(key: jax.Array, images: jax.Array, pad: int) -> jax.Array:
    """Pads [B, H, W, C] images with zeros and crops them back at a random place each.

    Each image moves by -pad..pad pixels in both directions.
    """
    batch_size, height, width, channels = images.shape
    padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    offsets = jax.random.randint(key, (batch_size, 2), 0, 2 * pad + 1)

    def crop(image, offset):
        return jax.lax.dynamic_slice(
            image, (offset[0], offset[1], 0), (height, width, channels)
        )

    return jax.vmap(crop)(padded, offsets)


def random_flip(key: jax.Array, images: jax.Array) -> jax.Array:
    """Mirrors each of [B, H, W, C] images left to right with probability 1/2."""
    flipped = jax.random.bernoulli(key, shape=(images.shape[0], 1, 1, 1))
    return jnp.where(flipped, images[:, :, ::-1], images)


def box_mask(boxes: jax.Array, height: int, width: int) -> jax.Array:
    """[B, 4] boxes (top, left, height, width) -> [B, H, W] bool, True inside."""
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
    """Normal noise in place of a random box of some [B, H, W, C] standardised images.

    timm's mode "pixel", one box per image; it may be as high or as wide as the image, which
    timm draws again. An image for which no draw fits stays whole.

    Args:
      key: of all draws.
      images: float, each channel with mean 0 and deviation 1, as the noise has.
      probability: that an image loses a box (MAE's fine-tuning: 0.25).
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
    flip: bool,
    crop_scale: tuple[float, float] | tuple[()],
) -> jax.Array:
    """What pretraining does to [B, H, W, C] uint8 images; shape and dtype are kept.

    Crops with `crop_scale` (see `random_resized_crop`; (): not), shifts by up to `pad`
    pixels (0: not) and, if `flip`, mirrors.
    """
    shift_key, flip_key, crop_key = jax.random.split(key, 3)
    if crop_scale:
        images = random_resized_crop(crop_key, images, crop_scale)
    if pad:
        images = random_shift(shift_key, images, pad)
    return random_flip(flip_key, images) if flip else images


def standardise(images: jax.Array, mean: jax.Array, std: jax.Array) -> jax.Array:
    """[..., C] pixels in 0..255 -> float32 with the data set's mean 0 and deviation 1."""
    return (images.astype(jnp.float32) - mean) / std


def unstandardise(images: jax.Array, mean: jax.Array, std: jax.Array) -> jax.Array:
    """Inverse of `standardise`: float32 pixels on the 0..255 scale, not clipped."""
    return images * std + mean
