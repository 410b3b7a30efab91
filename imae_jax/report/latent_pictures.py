"""Pictures of latents, as colours, and of the class token's attention."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from imae_jax.evaluators.held_out import HeldOut
from imae_jax.evaluators.networks import Network
from imae_jax.models.branches import branch_names
from imae_jax.models.masking import Mask, showing_masks
from imae_jax.models.patches import grid_size
from imae_jax.report.figures import as_png, draw_grid
from imae_jax.storage.atomic_files import write_bytes

FILE = "latents.png"
NUM_ROWS = 6
# Standard deviations from the mean at which a colour is at its darkest or brightest.
REACH = 2.0


def everywhere(network: Network, images: np.ndarray, mask: Mask) -> np.ndarray:
    """Returns every patch's latents, each of the first of `showing_masks` that shows it.

    Args:
      network: a MAE or an i-MAE.
      images: [B, H, W, C] normalized pixels.
      mask: mask of the first pass.
    Returns:
      [B, S, L, E]; S is 1 for a MAE.
    """
    count, num_patches = mask.ids_restore.shape
    passes = []
    for turned in showing_masks(mask):
        latents = network.predict(images, turned)["latents"][..., 1:, :]
        passes.append((latents.reshape(count, -1, *latents.shape[-2:]), turned.ids_keep))
    found = np.empty((*passes[0][0].shape[:2], num_patches, passes[0][0].shape[-1]))
    for latents, ids in reversed(passes):
        places = np.asarray(ids)[:, None, :, None]
        np.put_along_axis(found, places, latents, axis=2)
    return found


def as_colours(own: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shows latents by their first three principal components, as red, green and blue.

    Each position's mean is subtracted first, since position alone tells much of a latent.

    Args:
      own: [B, S, L, E], of which the components are.
      others: [B, S', L, E], shown by the same components.
    Returns:
      Both as [B, S, L, 3] in 0..255; grey is the mean.
    """
    own, others = (x - x.mean(axis=0) for x in (own, others))
    rows = own.reshape(-1, own.shape[-1])
    _, components = np.linalg.eigh(rows.T @ rows)  # in ascending order
    largest = components[:, ::-1][:, :3]
    largest = largest * np.where(largest.sum(axis=0) < 0, -1, 1)  # their signs mean nothing
    scores = [x @ largest for x in (own, others)]
    std = np.maximum(scores[0].std(axis=(0, 1, 2)), 1e-12)
    shown = [np.clip(127.5 * (1 + x / (REACH * std)), 0, 255) for x in scores]
    return shown[0], shown[1]


def picture_columns(
    networks: Mapping[str, Network],
    held_out: HeldOut,
    *,
    split: str,
    batch_size: int,
    seed: int,
    alpha: float | None = None,
) -> dict[str, np.ndarray]:
    """Computes the columns of the picture grid by title, [rows, ..., C] in 0..255 each.

    Args:
      networks: `student`, and its `teacher`, shown each image alone.
      held_out: provides mixtures, or images for a MAE.
      split, batch_size, seed, alpha: as in `figures.picture_columns`.
    """
    batch = next(held_out.batches(split, batch_size=batch_size, seed=seed))
    valid = np.flatnonzero(batch.valid)
    student, teacher = networks["student"], networks.get("teacher")
    images = batch.sources[:, 0] if alpha is None else batch.mixture(alpha)
    own = everywhere(student, images, batch.mask)[valid]
    alone = own[:, :0]
    if alpha is not None and teacher is not None:
        sources = range(own.shape[1])
        seen = [everywhere(teacher, batch.sources[:, s], batch.mask) for s in sources]
        if seen[0].shape[-1] == own.shape[-1]:  # of equal width, so in the same colours
            alone = np.concatenate(seen, axis=1)[valid]
    found = [x[:NUM_ROWS] for x in as_colours(own, alone)]
    rows, columns = grid_size(held_out.dataset.image_shape[:2], held_out.patch_size)

    def tiles(values: np.ndarray) -> np.ndarray:
        return values.reshape(len(values), rows, columns, -1)

    attention = student.embed(images)["attention"][valid[:NUM_ROWS]]
    brightest = attention.max(axis=1, keepdims=True)
    shown = {
        "image" if alpha is None else "mixture": held_out.pixels(images[valid[:NUM_ROWS]]),
        "attention": tiles(255 * attention / brightest),
    }
    if alpha is None:
        return shown | {"latents": tiles(found[0][:, 0])}
    for s, branch in enumerate(branch_names(own.shape[1])):
        shown[f"{branch}\nbranch"] = tiles(found[0][:, s])
        if alone.shape[1]:
            shown[f"{branch}\nteacher"] = tiles(found[1][:, s])
        shown[f"{branch}\nimage"] = held_out.pixels(batch.sources[valid[:NUM_ROWS], s])
    return shown


def write(
    networks: Mapping[str, Network], held_out: HeldOut, folder: Path, **options: Any
) -> None:
    """Writes the picture grid to `folder`; see `picture_columns`."""
    folder.mkdir(exist_ok=True)
    columns = picture_columns(networks, held_out, **options)
    write_bytes(folder / FILE, as_png(draw_grid(columns)))
