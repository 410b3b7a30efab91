"""Interactive panel of the report: pairs of images at many alphas and mask ratios.

Evaluation stores its pictures in the run's folder, as a sprite image and a JSON layout.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from imae_jax.evaluators.full_reconstruction import rebuild
from imae_jax.evaluators.held_out import HeldOut
from imae_jax.evaluators.networks import Network
from imae_jax.evaluators.reconstruction import mean_target
from imae_jax.models.branches import branch_names
from imae_jax.models.patches import grid_size, unpatchify
from imae_jax.objectives.losses import masked_patch_error, target_patches
from imae_jax.objectives.mixing import weights_at
from imae_jax.report import figures
from imae_jax.report.sprites import draw_sprite
from imae_jax.storage import atomic_files

LAYOUT_FILE = "explorer.json"
SWEEP_FILE = "alpha_by_mask_ratio.png"


# The options of the `explorer` section of a config, by name.
def write(
    network: Network,
    held_out: HeldOut,
    folder: Path,
    *,
    split: str,
    pairs: int,
    alphas: Sequence[float],
    mask_ratios: Sequence[float],
    batch_size: int,
    seed: int,
) -> Path | None:
    """Writes sprite and layout for the first N = `pairs` pairs (groups of S) of a split.

    Each pair is shown as the mixture in which its first image is subordinate. The tiles of
    a pair are its targets, the mixture at each alpha, then the full reconstruction by mask
    ratio, alpha and branch (see `full_reconstruction.rebuild`; no pixel is copied from a
    target). Errors are those of the `reconstruction` evaluator: one pass, normalized
    pixels.

    Args:
      network: an i-MAE.
      held_out: source of the mixtures; its mask ratio is that of training.
      folder: created if missing; gets `explorer.json`, `explorer.png` or `explorer.jpg`,
        and a figure of the first pair, `alpha_by_mask_ratio.png`.
      split, batch_size, seed: see `HeldOut.batches`; a batch must hold all pairs.
      pairs: number of pairs, limited by the split.
      alphas, mask_ratios: increasing; A and R values.
    Returns:
      The layout's path; None, and nothing is written, for models trained with `norm_pix`:
      showing their predictions as pixels would take mean and std from the target.
    """
    if held_out.norm_pix:
        return None
    panel = render_pairs(
        network,
        held_out,
        pairs=min(pairs, held_out.count(split) // held_out.num_sources),
        split=split,
        alphas=alphas,
        mask_ratios=mask_ratios,
        batch_size=batch_size,
        seed=seed,
    )
    shape = held_out.dataset.image_shape
    tiles = held_out.pixels(panel.tiles)
    data, kind, places = draw_sprite(tiles.reshape(-1, *shape))
    layout = places | layout_of(panel, held_out, alphas, mask_ratios)
    layout |= {
        "image": f"explorer.{kind}",
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    count = panel.labels.shape[1]
    targets, mixed, whole = np.split(tiles[0], [count, count + len(alphas)])
    whole = whole.reshape(len(mask_ratios), len(alphas), -1, *shape)
    sheet = figures.draw_sweep(mixed, whole, targets, alphas, mask_ratios)
    folder.mkdir(exist_ok=True)
    atomic_files.write_bytes(folder / SWEEP_FILE, figures.as_png(sheet))
    atomic_files.write_bytes(folder / layout["image"], data)
    atomic_files.write_json(folder / LAYOUT_FILE, layout)
    return folder / LAYOUT_FILE


class Panel(NamedTuple):
    """N pairs of images, mixed at A alphas and reconstructed under R mask ratios.

    Attributes:
      tiles: [N, S + A + R * A * S, H, W, C] normalized sources, mixtures, reconstructions.
      masks: [R, N, L] bool, True where masked.
      mse: [R, A, N, S] error of the reconstructions.
      mse_train_mean: [R, N, S] error of the train split's mean image.
      labels: [N, S] int, the sources' classes.
    """

    tiles: np.ndarray
    masks: np.ndarray
    mse: np.ndarray
    mse_train_mean: np.ndarray
    labels: np.ndarray


# The options of `write`, by name.
def render_pairs(
    network: Network,
    held_out: HeldOut,
    *,
    pairs: int,
    split: str,
    alphas: Sequence[float],
    mask_ratios: Sequence[float],
    batch_size: int,
    seed: int,
) -> Panel:
    """Mixes and reconstructs pairs of held-out images; see `write`."""
    rows = slice(0, held_out.num_sources * pairs, held_out.num_sources)
    mean = mean_target(held_out)
    rebuilt, mse, mse_train_mean, masks = [], [], [], []
    for ratio in mask_ratios:
        options = dataclasses.replace(held_out, mask_ratio=ratio)
        batch = next(options.batches(split, batch_size=batch_size, seed=seed))
        masked = batch.mask.mask[rows]
        masks.append(masked)
        mixtures = [batch.mixture(alpha) for alpha in alphas]
        for mixture in mixtures:
            # Whole batches, one shape: the network is compiled, and split over devices.
            whole, pred = (out[rows] for out in rebuild(network, mixture, batch.mask))
            rebuilt.append(whole)
            sources = batch.sources[rows, : pred.shape[1]]
            target = target_patches(sources, held_out.patch_size, held_out.norm_pix)
            mse.append(masked_patch_error(pred, target, masked[:, None]))
        guess = np.broadcast_to(mean, target.shape)
        mse_train_mean.append(masked_patch_error(guess, target, masked[:, None]))

    shape = held_out.dataset.image_shape
    patches = np.stack(rebuilt, axis=1)  # [N, R * A, S, L, P]
    images = np.asarray(unpatchify(patches, held_out.patch_size, shape[:2]))
    mixed = np.stack([mixture[rows] for mixture in mixtures], axis=1)
    tiles = (batch.sources[rows], mixed, images)
    return Panel(
        tiles=np.concatenate([x.reshape(pairs, -1, *shape) for x in tiles], axis=1),
        masks=np.stack(masks),
        mse=np.reshape(mse, (len(mask_ratios), len(alphas), pairs, -1)),
        mse_train_mean=np.stack(mse_train_mean),
        labels=batch.labels[rows],
    )


def layout_of(
    panel: Panel,
    held_out: HeldOut,
    alphas: Sequence[float],
    mask_ratios: Sequence[float],
) -> dict:
    """The panel's axes, labels, masks and errors, as JSON holds them."""
    names = held_out.dataset.class_names
    numbered = np.arange(1, 1 + panel.labels.size).reshape(panel.labels.shape)
    labels = [
        [
            names[label] if names else f"image {number}"
            for label, number in zip(*pair, strict=True)
        ]
        for pair in zip(panel.labels, numbered, strict=True)
    ]
    return {
        "patches": grid_size(held_out.dataset.image_shape[:2], held_out.patch_size),
        "alphas": list(alphas),
        "mask_ratios": list(mask_ratios),
        "trained_mask_ratio": held_out.mask_ratio,
        "branches": branch_names(panel.mse.shape[-1]),
        "sources": branch_names(panel.labels.shape[-1]),
        # [A][S].
        "weights": [weights_at(alpha, panel.labels.shape[-1]).tolist() for alpha in alphas],
        "labels": labels,
        # [N][R], a character per patch, 1 where it is masked.
        "masks": [
            ["".join(map(str, mask.astype(int))) for mask in pair]
            for pair in np.moveaxis(panel.masks, 1, 0)
        ],
        # [N][R][A][S] and [N][R][S].
        "mse": _moved(panel.mse, 2),
        "mse_train_mean": _moved(panel.mse_train_mean, 1),
    }


def _moved(numbers: np.ndarray, axis: int) -> list:
    """Moves the pairs from `axis` to the front and converts to nested lists."""
    return np.moveaxis(np.asarray(numbers, np.float64).round(5), axis, 0).tolist()
