"""Pixels on the device: random crops and flips, standardisation."""

import jax
import jax.numpy as jnp


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


def augment(key: jax.Array, images: jax.Array, pad: int, flip: bool) -> jax.Array:
    """Shifts by up to `pad` pixels (0: none) and, if `flip`, mirrors; dtype is kept."""
    shift_key, flip_key = jax.random.split(key)
    if pad:
        images = random_shift(shift_key, images, pad)
    return random_flip(flip_key, images) if flip else images


def standardise(images: jax.Array, mean: jax.Array, std: jax.Array) -> jax.Array:
    """[..., C] pixels in 0..255 -> float32 with the data set's mean 0 and deviation 1."""
    return (images.astype(jnp.float32) - mean) / std


def unstandardise(images: jax.Array, mean: jax.Array, std: jax.Array) -> jax.Array:
    """Inverse of `standardise`: float32 pixels on the 0..255 scale, not clipped."""
    return images * std + mean
