"""Mixup, CutMix and label smoothing for supervised training.

As in timm's `Mixup`, which MAE uses for fine-tuning, with two differences (ours). Partners
are the pairs (2i, 2i + 1), not x and x.flip(0): pairs lie on one device, while a reversed
batch crosses devices. Each image has its own draws (timm's mode "elem"), where MAE draws
once per batch: gradients vary less.
"""

import jax
import jax.numpy as jnp

from imae_jax.data.augment import box_mask
from imae_jax.objectives.mixing import rotate


def smooth_labels(labels: jax.Array, num_classes: int, smoothing: float) -> jax.Array:
    """Returns one-hot [B, num_classes] of labels [B] int, smoothed over all classes."""
    one_hot = jax.nn.one_hot(labels, num_classes)
    return (1 - smoothing) * one_hot + smoothing / num_classes


def cutmix_boxes(key: jax.Array, kept: jax.Array, height: int, width: int) -> jax.Array:
    """Returns [B, H, W] bool, True where an image is replaced by its partner.

    A box of the image's aspect ratio and a fraction 1 - `kept` ([B] in [0, 1]) of its area,
    centred on a random pixel and clipped to the image.
    """
    image_size = jnp.array([height, width])
    half = (jnp.sqrt(1 - kept)[:, None] * image_size).astype(jnp.int32) // 2
    centre = jax.random.randint(key, half.shape, 0, image_size)
    return box_mask(jnp.concatenate([centre - half, 2 * half], axis=1), height, width)


# Keyword options: the `mixup` section of a config.
def mixup_cutmix(
    key: jax.Array,
    images: jax.Array,
    labels: jax.Array,
    *,
    num_classes: int,
    mixup_alpha: float,
    cutmix_alpha: float,
    switch_probability: float,
    smoothing: float,
) -> tuple[jax.Array, jax.Array]:
    """Mixes each image and its label with its partner, the other of pair (2i, 2i + 1).

    Mixup: all pixels are lam * own + (1 - lam) * partner's. CutMix: a box of about 1 - lam
    of the area is the partner's.

    Args:
      key: random key; draws are made per image.
      images: [B, H, W, C] float, B even.
      labels: [B] int.
      num_classes: length of the targets.
      mixup_alpha, cutmix_alpha: lam ~ Beta(alpha, alpha) for each; 0 disables it (MAE's
        fine-tuning: 0.8 and 1).
      switch_probability: probability of CutMix if both are enabled (MAE, timm: 0.5).
      smoothing: fraction of a label that is spread over all classes (MAE: 0.1).
    Returns:
      The mixed images and [B, num_classes] targets, which sum to 1: the smoothed labels
      weighted by the fraction of pixels from each image.
    """
    targets = smooth_labels(labels, num_classes, smoothing)
    if not (mixup_alpha or cutmix_alpha):
        return images, targets
    switch_key, lam_key, box_key = jax.random.split(key, 3)
    batch_size, height, width, _ = images.shape
    both = mixup_alpha and cutmix_alpha
    share = switch_probability if both else float(cutmix_alpha > 0)
    cut = jax.random.bernoulli(switch_key, share, (batch_size,))
    alpha = jnp.where(cut, cutmix_alpha, mixup_alpha)
    lam = jax.random.beta(lam_key, alpha, alpha)
    outside = 1.0 - cutmix_boxes(box_key, lam, height, width)
    # [B, H, W], the weight of each pixel of an image, against its partner's.
    own = jnp.where(cut[:, None, None], outside, lam[:, None, None])
    weight = own[..., None].astype(images.dtype)
    mixed = weight * images + (1 - weight) * rotate(images, 2, 1)
    kept = own.mean(axis=(1, 2))[:, None]  # accounts for clipped boxes
    return mixed, kept * targets + (1 - kept) * rotate(targets, 2, 1)
