"""RandAugment on the device (Cubuk et al. 2020): a few random operations on each image.

Operations and ranges are those of timm's "rand-m9-mstd0.5-inc1", used by MAE's fine-tuning:
all but the first three grow with the magnitude, 0 to 10. Operations are defined as in
Pillow, on 0..255 with rounding, unlike in dm-pix: it adds brightness, takes contrast about
each channel's mean and saturation from HSV, and computes affine coordinates at the device's
default precision (in bfloat16 up to half a pixel off around pixel 224). Interpolation is
bilinear (MAE: bicubic).
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

# Effect of the largest magnitude (timm): factor 1 +- 0.9, degrees, fractions of the size.
ENHANCE, ROTATE, SHEAR, TRANSLATE = 0.9, 30.0, 0.3, 0.45
SOLARIZE_ADD = 110
MAX_MAGNITUDE = 10.0


def autocontrast(image: jax.Array, level: jax.Array) -> jax.Array:
    """Stretches each channel to 0..255; a constant channel is unchanged."""
    low, high = image.min(axis=(0, 1)), image.max(axis=(0, 1))
    stretched = (image - low) * 255 / jnp.maximum(high - low, 1)
    return jnp.where(high > low, stretched, image)


def equalize(image: jax.Array, level: jax.Array) -> jax.Array:
    """Equalizes the histogram of each channel."""

    def channel(pixels: jax.Array) -> jax.Array:
        values = pixels.astype(jnp.int32)
        counts = jnp.bincount(values.ravel(), length=256)
        brightest = counts[values.max()]
        # Pillow's rounding; it leaves a channel with too few pixels or values unchanged.
        step = (values.size - brightest) // 255
        table = (step // 2 + jnp.cumsum(counts) - counts) // jnp.maximum(step, 1)
        return jnp.where(step > 0, jnp.minimum(table, 255)[values], pixels)

    return jax.vmap(channel, in_axes=-1, out_axes=-1)(image)


def invert(image: jax.Array, level: jax.Array) -> jax.Array:
    """Inverts the pixels."""
    return 255 - image


def posterize(image: jax.Array, level: jax.Array) -> jax.Array:
    """Keeps the 4 to 1 highest bits (timm keeps none at the largest magnitude)."""
    dropped = jnp.minimum(4 + jnp.floor(4 * jnp.abs(level)), 7).astype(jnp.int32)
    return (image.astype(jnp.int32) >> dropped << dropped).astype(image.dtype)


def solarize(image: jax.Array, level: jax.Array) -> jax.Array:
    """Inverts pixels at or above a threshold, 256 down to 0."""
    threshold = 256 - jnp.floor(256 * jnp.abs(level))
    return jnp.where(image < threshold, image, 255 - image)


def solarize_add(image: jax.Array, level: jax.Array) -> jax.Array:
    """Brightens pixels below 128."""
    added = image + jnp.floor(SOLARIZE_ADD * jnp.abs(level))
    return jnp.where(image < 128, added, image)


def grey(image: jax.Array) -> jax.Array:
    """Converts [H, W, 3] or [H, W, 1] to grey, [H, W, 1], rounded."""
    if image.shape[-1] == 1:
        return image
    weights = jnp.array([0.299, 0.587, 0.114])  # ITU-R 601, as Pillow
    return jnp.round(jnp.sum(image * weights, axis=-1, keepdims=True))


def enhance(image: jax.Array, plain: jax.Array, level: jax.Array) -> jax.Array:
    """Moves the image away from `plain` (level > 0) or towards it (level < 0)."""
    return plain + (1 + ENHANCE * level) * (image - plain)


def colour(image: jax.Array, level: jax.Array) -> jax.Array:
    """Changes the saturation."""
    return enhance(image, grey(image), level)


def contrast(image: jax.Array, level: jax.Array) -> jax.Array:
    """Changes the contrast about the mean grey of the image."""
    return enhance(image, jnp.round(grey(image).mean()), level)


def brightness(image: jax.Array, level: jax.Array) -> jax.Array:
    """Changes the brightness."""
    return enhance(image, jnp.zeros_like(image), level)


def sharpness(image: jax.Array, level: jax.Array) -> jax.Array:
    """Sharpens or smooths all but the outermost pixels."""
    size = (3, 3, 1)
    sums = jax.lax.reduce_window(image, 0.0, jax.lax.add, size, (1, 1, 1), "VALID")
    inner = (sums + 4 * image[1:-1, 1:-1]) / 13  # Pillow's SMOOTH: 5 amid eight 1s
    return enhance(image, image.at[1:-1, 1:-1].set(jnp.round(inner)), level)


PHOTOMETRIC = (
    autocontrast,
    equalize,
    invert,
    posterize,
    solarize,
    solarize_add,
    colour,
    contrast,
    brightness,
    sharpness,
)
GEOMETRIC = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
OPERATIONS = (*(operation.__name__ for operation in PHOTOMETRIC), *GEOMETRIC)


def move(
    image: jax.Array, index: jax.Array, level: jax.Array, fill: jax.Array | float
) -> jax.Array:
    """Applies `GEOMETRIC[index]` (bilinear); pixels from outside the image are `fill`.

    All operations share one interpolation, the most expensive part.
    """
    height, width, _ = image.shape
    angle, shear_x, shear_y, shift_x, shift_y = (
        jnp.where(index == number, level * largest, 0)
        for number, largest in enumerate(
            (math.radians(ROTATE), SHEAR, SHEAR, TRANSLATE * width, TRANSLATE * height)
        )
    )
    # Pillow's coordinates: pixels are squares, (0, 0) is the corner of the first.
    x, y = jnp.arange(width) + 0.5, jnp.arange(height)[:, None] + 0.5
    from_x, from_y = x - width / 2, y - height / 2
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    at_x = cos * from_x - sin * from_y + width / 2 + shear_x * y + shift_x
    at_y = sin * from_x + cos * from_y + height / 2 + shear_y * x + shift_y
    inside = (at_x >= 0) & (at_x < width) & (at_y >= 0) & (at_y < height)
    look_up = functools.partial(
        map_coordinates, coordinates=[at_y - 0.5, at_x - 0.5], order=1, mode="nearest"
    )
    moved = jax.vmap(look_up, in_axes=-1, out_axes=-1)(image)
    return jnp.where(inside[..., None], moved, jnp.asarray(fill))


def operate(
    image: jax.Array, index: jax.Array, level: jax.Array, fill: jax.Array | float
) -> jax.Array:
    """Applies `OPERATIONS[index]`.

    Args:
      image: [H, W, C] float32 with whole numbers 0..255, C 1 or 3.
      index: index of the operation.
      level: magnitude / 10 in [-1, 1]; the sign is the direction, if there are two.
      fill: scalar or [C], value of pixels from outside the image.
    Returns:
      An image like `image`.
    """

    def moved(image: jax.Array, level: jax.Array) -> jax.Array:
        return move(image, index - len(PHOTOMETRIC), level, fill)

    # Under vmap, every branch runs and one result is chosen.
    branch = jnp.minimum(index, len(PHOTOMETRIC))
    changed = jax.lax.switch(branch, [*PHOTOMETRIC, moved], image, level)
    return jnp.clip(jnp.round(changed), 0, 255)


def rand_augment(
    key: jax.Array,
    images: jax.Array,
    *,
    num_ops: int,
    magnitude: float,
    magnitude_std: float,
    probability: float,
    fill: jax.Array | float,
) -> jax.Array:
    """Applies random operations in sequence to each of [B, H, W, C] uint8 images.

    Args:
      key: random key; draws differ for each image.
      images: [B, H, W, C] uint8, C 1 or 3.
      num_ops: number of operations, drawn with replacement (timm: 2).
      magnitude: mean magnitude, 0 to 10 (MAE's fine-tuning: 9).
      magnitude_std: std of the magnitude over operations (MAE: 0.5).
      probability: probability of applying each operation (timm: 0.5).
      fill: scalar or [C] in 0..255, value of pixels from outside the image (MAE: the data
        set's mean).
    Returns:
      [B, H, W, C] uint8.
    """
    batch_size = images.shape[0]

    def apply_one(images: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
        index_key, size_key, sign_key, happen_key = jax.random.split(key, 4)
        index = jax.random.randint(index_key, (batch_size,), 0, len(OPERATIONS))
        size = magnitude + magnitude_std * jax.random.normal(size_key, (batch_size,))
        sign = jax.random.rademacher(sign_key, (batch_size,))
        level = sign * jnp.clip(size / MAX_MAGNITUDE, 0, 1)
        changed = jax.vmap(operate, in_axes=(0, 0, 0, None))(images, index, level, fill)
        happens = jax.random.bernoulli(happen_key, probability, (batch_size, 1, 1, 1))
        return jnp.where(happens, changed, images), None

    keys = jax.random.split(key, num_ops)
    result, _ = jax.lax.scan(apply_one, images.astype(jnp.float32), keys)
    return result.astype(images.dtype)
