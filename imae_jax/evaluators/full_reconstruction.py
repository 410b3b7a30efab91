"""Whole pictures of a masked autoencoder, without a pixel of the target."""

import numpy as np

from imae_jax.evaluators.networks import Network
from imae_jax.models.masking import Mask, covering_masks


def rebuild(
    network: Network, images: np.ndarray, mask: Mask
) -> tuple[np.ndarray, np.ndarray]:
    """Every patch as predicted in the first of `covering_masks` that removes it.

    Args:
      network: a MAE or an i-MAE.
      images: [B, H, W, C] standardised pixels, for an i-MAE mixtures.
      mask: the first pass's.
    Returns:
      That, and what the first pass alone predicts, each [B, L, P], or [B, S, L, P] for an
      i-MAE.
    """
    passes = covering_masks(mask)
    preds = [network.predict(images, turned)["pred"] for turned in passes]
    whole = preds[0]
    for pred, turned in reversed(list(zip(preds, passes, strict=True))):
        removed = np.asarray(turned.mask)[..., None]
        removed = removed.reshape(
            len(removed), *[1] * (pred.ndim - removed.ndim), *removed.shape[1:]
        )
        whole = np.where(removed, pred, whole)
    return whole, preds[0]
