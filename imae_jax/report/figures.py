"""Figures of reconstructions, drawn with matplotlib."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from imae_jax.evaluators.full_reconstruction import rebuild
from imae_jax.evaluators.held_out import Batch, HeldOut
from imae_jax.evaluators.networks import Network
from imae_jax.models.branches import branch_names
from imae_jax.models.patches import Array, patchify, unpatchify
from imae_jax.storage.atomic_files import write_bytes

NUM_ROWS = 10
REMOVED_GREY = 127.5  # on the 0..255 scale


def picture_columns(
    network: Network,
    held_out: HeldOut,
    *,
    split: str,
    batch_size: int,
    seed: int,
    alpha: float | None = None,
) -> dict[str, np.ndarray]:
    """Computes the columns of the picture grid by title, each [rows, H, W, C] in 0..255.

    `raw` is the decoder's output of one pass, untrained on visible patches (the mean pixel
    there if it has cross-attention); `rebuilt` is the full reconstruction. Neither copies
    pixels of a target. With `norm_pix` both are normalized patch by patch.
    """
    batch = next(held_out.batches(split, batch_size=batch_size, seed=seed))
    rows = slice(0, min(NUM_ROWS, batch.valid.sum()))
    image_size = held_out.dataset.image_shape[:2]

    def pixels(images: Array) -> np.ndarray:
        return held_out.pixels(images[rows])

    def from_patches(pred: np.ndarray) -> np.ndarray:
        return pixels(unpatchify(pred, held_out.patch_size, image_size))

    images = batch.sources[:, 0] if alpha is None else batch.mixture(alpha)
    columns = {
        "image" if alpha is None else "mixture": pixels(images),
        "masked": masked(pixels(images), batch.mask.mask[rows], held_out.patch_size),
    }
    rebuilt, raw = rebuild(network, images, batch.mask)
    if alpha is None:
        return columns | {"raw": from_patches(raw), "rebuilt": from_patches(rebuilt)}
    branches = list(enumerate(branch_names(raw.shape[1])))
    for s, branch in branches:
        columns[f"{branch}\nrebuilt"] = from_patches(rebuilt[:, s])
        columns[f"{branch}\ntarget"] = pixels(batch.sources[:, s])
    for s, branch in branches:
        columns[f"{branch}\nraw"] = from_patches(raw[:, s])
    return columns


def masked(images: np.ndarray, mask: Array, patch_size: int) -> np.ndarray:
    """Paints masked patches grey.

    Args:
      images: [B, H, W, C] in 0..255.
      mask: [B, L] bool, True for masked patches.
      patch_size: p.
    """
    patches = patchify(images, patch_size)
    shown = np.where(mask[:, :, None], REMOVED_GREY, patches)
    return np.asarray(unpatchify(shown, patch_size, images.shape[1:3]))


def task_columns(held_out: HeldOut, batch: Batch, alpha: float) -> dict[str, np.ndarray]:
    """Columns of a picture of the task by title, each [B, H, W, C] in 0..255.

    The images, their mixture, and what the encoder sees of it.
    """
    mixture = held_out.pixels(batch.mixture(alpha))
    columns = {
        branch: held_out.pixels(batch.sources[:, s])
        for s, branch in enumerate(branch_names(batch.num_sources))
    }
    seen = masked(mixture, batch.mask.mask, held_out.patch_size)
    return columns | {"mixture": mixture, "masked": seen}


def draw_grid(columns: Mapping[str, np.ndarray]) -> Figure:
    """Draws columns of pictures by title as a grid, one mixture per row."""
    rows = len(next(iter(columns.values())))
    figure = Figure(figsize=(1.1 * len(columns), 1.0 * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, len(columns), squeeze=False)
    for column, (title, images) in enumerate(columns.items()):
        axes[0, column].set_title(title, fontsize=9)
        for row, image in enumerate(images):
            axis = axes[row, column]
            axis.imshow(image.astype(np.uint8).squeeze(), cmap="gray", vmin=0, vmax=255)
            axis.axis("off")
    return figure


def as_png(figure: Figure) -> bytes:
    """Converts a figure to PNG."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    return file.getvalue()


def reconstructions(
    network: Network, held_out: HeldOut, folder: Path, **options: Any
) -> Path:
    """Writes the picture grid to `folder/reconstructions.png`; see `picture_columns`."""
    folder.mkdir(exist_ok=True)
    path = folder / "reconstructions.png"
    write_bytes(path, as_png(draw_grid(picture_columns(network, held_out, **options))))
    return path


def draw_sweep(
    mixtures: np.ndarray,
    rebuilt: np.ndarray,
    targets: np.ndarray,
    alphas: Sequence[float],
    mask_ratios: Sequence[float],
) -> Figure:
    """Draws one pair over alpha (columns) and mask ratio (rows), targets at the right.

    Args:
      mixtures: [A, H, W, C] in 0..255.
      rebuilt: [R, A, S, H, W, C].
      targets: [S, H, W, C].
      alphas, mask_ratios: A and R values.
    """
    rows = [("mixture", list(mixtures))]
    for ratio, by_alpha in zip(mask_ratios, rebuilt, strict=True):
        for s, branch in enumerate(branch_names(by_alpha.shape[1])):
            label = f"{branch}\nmask {ratio:.2f}"
            rows.append((label, [*by_alpha[:, s], targets[s]]))
    columns = [f"alpha {alpha:.2f}" for alpha in alphas] + ["target"]
    size = (1.0 * len(columns) + 1, 1.0 * len(rows) + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(rows), len(columns), squeeze=False)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[], frame_on=False)
    for axis, title in zip(axes[0], columns, strict=True):
        axis.set_title(title, fontsize=8)
    for row, (label, images) in zip(axes, rows, strict=True):
        row[0].set_ylabel(label, fontsize=8, rotation=0, ha="right", va="center")
        for axis, image in zip(row, images, strict=False):
            axis.imshow(image.astype(np.uint8).squeeze(), cmap="gray", vmin=0, vmax=255)
    return figure
