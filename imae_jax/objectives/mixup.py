"""Images and labels mixed for a supervised loss: mixup, CutMix, label smoothing.

As in timm's `Mixup`, with which MAE fine-tunes; two things are ours. Partners are the pairs
(2i, 2i + 1) where timm's are x and x.flip(0): a reversed batch crosses the devices that it
is split over, pairs lie whole on one. Each image has draws of its own (timm's mode "elem")
where MAE makes one for the whole batch: gradients vary less.
"""

import jax
import jax.numpy as jnp

from imae_jax.data.augment import box_mask
from imae_jax.objectives.mixing import swap_partners


def smooth_labels(labels: jax.Array, num_classes: int, smoothing: float) -> jax.Array:
    """[B] int -> [B, num_classes]: one-hot, `smoothing` of it spread over all classes."""
    one_hot = jax.nn.one_hot(labels, num_classes)
    return (1 - smoothing) * one_hot + smoothing / num_classes


def cutmix_boxes(key: jax.Array, kept: jax.Array, height: int, width: int) -> jax.Array:
    """[B] in [0, 1] -> [B, H, W] bool, the part of each image that its partner replaces.

    A box of the image's shape and 1 - `kept` of its area, around a random pixel; what lies
    beyond the image's border is lost.
    """
    image_size = jnp.array([height, width])
    half = (jnp.sqrt(1 - kept)[:, None] * image_size).astype(jnp.int32) // 2
    centre = jax.random.randint(key, half.shape, 0, image_size)
    return box_mask(jnp.concatenate([centre - half, 2 * half], axis=1), height, width)


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
    """Each image takes pixels and label from its partner, the other of pair (2i, 2i + 1).

    By mixup, all pixels are lam * own + (1 - lam) * partner's; by CutMix, a box of about
    1 - lam of the area is the partner's.

    Args:
      key: of all draws, which are one per image.
      images: [B, H, W, C] float, B even.
      labels: [B] int.
      num_classes: length of the targets.
      mixup_alpha, cutmix_alpha: lam ~ Beta(alpha, alpha) of each; 0 switches it off (MAE's
        fine-tuning: 0.8 and 1).
      switch_probability: of CutMix, where both are on (MAE, timm: 0.5).
      smoothing: share of a label that is spread over all classes (MAE: 0.1).
    Returns:
      The mixed images and [B, num_classes] targets, which sum to 1: the smoothed labels
      weighted by the share of pixels that each image contributed.
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
    # [B, H, W], what each pixel of an image counts beside its partner's.
    own = jnp.where(cut[:, None, None], outside, lam[:, None, None])
    weight = own[..., None].astype(images.dtype)
    mixed = weight * images + (1 - weight) * swap_partners(images)
    kept = own.mean(axis=(1, 2))[:, None]  # of a box that was cut to the image, too
    return mixed, kept * targets + (1 - kept) * swap_partners(targets)
