"""PSNR and SSIM of both reconstructions over alpha and mask ratio.

Reconstructions consist of predictions of masked patches only (`rebuild`), so no SSIM window
contains a copied pixel.
"""

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence

import dm_pix
import jax
import numpy as np

from imae_jax.evaluators.evaluator import Evaluator
from imae_jax.evaluators.full_reconstruction import rebuild
from imae_jax.evaluators.held_out import HeldOut
from imae_jax.evaluators.metric_names import at
from imae_jax.evaluators.networks import Network
from imae_jax.models.branches import branch_names
from imae_jax.models.patches import Array, unpatchify

logger = logging.getLogger(__name__)

SSIM_WINDOW = 11  # pixels (Wang et al. 2004), or the largest odd number that fits


@jax.jit
def compare(images: jax.Array, targets: jax.Array) -> dict[str, jax.Array]:
    """Returns PSNR in dB and SSIM, [B] each, of [B, H, W, C] images in [0, 1]."""
    side = min(*images.shape[1:3], SSIM_WINDOW)
    window = side - 1 + side % 2
    return {
        "psnr": dm_pix.psnr(images, targets),
        "ssim": dm_pix.ssim(images, targets, filter_size=window),
    }


def evaluate(
    networks: Mapping[str, Network],
    held_out: HeldOut,
    *,
    split: str,
    alphas: Sequence[float],
    mask_ratios: Sequence[float],
    batch_size: int,
    seed: int,
) -> Iterator[tuple[str, float]]:
    """Measures mean PSNR and SSIM over images, with pixels clipped to the valid range.

    Args:
      networks: `student`, an i-MAE.
      held_out: provides the mixtures.
      split, batch_size, seed: see `HeldOut.batches`.
      alphas: weights of the subordinate image.
      mask_ratios: fractions of masked patches.
    Yields:
      `alpha_<weight>/mask_<ratio>/<branch>/{psnr,ssim}`. Baselines: the mixture itself as
      prediction, under `alpha_<weight>/baselines/mixture/`, and the mean training image,
      under `baselines/train_mean/`. Nothing for a model trained with `norm_pix`: its
      predictions have no pixel scale, and taking the target's would leak it.
    """
    if held_out.norm_pix:
        logger.info("quality: left out, a model trained with norm_pix predicts no pixels")
        return
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}

    def unit(images: Array) -> np.ndarray:
        return held_out.pixels(images) / 255

    mean = held_out.dataset.splits["train"].pixels.mean(axis=0) / 255
    image_size = held_out.dataset.image_shape[:2]

    def add(name: str, images: np.ndarray, targets: np.ndarray, valid: np.ndarray) -> None:
        for metric, values in compare(images, targets).items():
            key = f"{name}/{metric}"
            sums[key] = sums.get(key, 0.0) + float(np.asarray(values)[valid].sum())
            counts[key] = counts.get(key, 0) + int(valid.sum())

    for ratio in mask_ratios:
        masked = dataclasses.replace(held_out, mask_ratio=ratio)
        for batch in masked.batches(split, batch_size=batch_size, seed=seed):
            targets = unit(batch.sources)
            for alpha in alphas:
                mixture = batch.mixture(alpha)
                patches, _ = rebuild(networks["student"], mixture, batch.mask)
                rebuilt = unit(unpatchify(patches, held_out.patch_size, image_size))
                where = at(alpha=alpha, mask_ratio=ratio)
                for s, branch in enumerate(branch_names(rebuilt.shape[1])):
                    name = f"{where}{branch}"
                    add(name, rebuilt[:, s], targets[:, s], batch.valid)
    # Baselines, which do not depend on the mask ratio.
    for batch in held_out.batches(split, batch_size=batch_size, seed=seed):
        targets = unit(batch.sources)
        for s, branch in enumerate(branch_names(batch.num_sources)):
            guess = np.broadcast_to(mean, targets[:, s].shape)
            add(f"baselines/train_mean/{branch}", guess, targets[:, s], batch.valid)
            for alpha in alphas:
                name = f"{at(alpha=alpha)}baselines/mixture/{branch}"
                add(name, unit(batch.mixture(alpha)), targets[:, s], batch.valid)
    for key, total in sums.items():
        yield key, total / counts[key]


# No tables: the report draws the sweep as a chart.
EVALUATOR = Evaluator(
    evaluate,
    needs_mixtures=True,
    without_alpha=("baselines/train_mean/*",),
    without_mask_ratio=("*baselines/*",),
)
