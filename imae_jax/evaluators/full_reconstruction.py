"""Full reconstructions of a masked autoencoder, made of predicted patches only."""

import numpy as np

from imae_jax.evaluators.networks import Network
from imae_jax.models.masking import Mask, covering_masks


def rebuild(
    network: Network, images: np.ndarray, mask: Mask
) -> tuple[np.ndarray, np.ndarray]:
    """Predicts every patch, in the first of the `covering_masks` that masks it.

    Args:
      network: a MAE or an i-MAE.
      images: [B, H, W, C] normalized pixels; mixtures for an i-MAE.
      mask: mask of the first pass.
    Returns:
      The reconstruction, and the prediction of the first pass alone; each [B, L, P], or
      [B, S, L, P] for an i-MAE.
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
