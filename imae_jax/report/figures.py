"""Pictures and curves, drawn with matplotlib."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from imae_jax import augment
from imae_jax.evaluators.mixtures import HeldOut, Predict
from imae_jax.patches import patchify, unpatchify

NUM_ROWS = 10
REMOVED_GREY = 127.5  # on the 0..255 scale


def picture_columns(
    predict: Predict,
    held_out: HeldOut,
    *,
    split: str,
    batch_size: int,
    alpha: float | None = None,
) -> dict[str, np.ndarray]:
    """The columns of the picture grid by title, each [rows, H, W, C] in 0..255.

    Reconstructions are shown raw: every patch is the decoder's, no target pixel shines
    through. With `norm_pix` they are in the units of their own patches.
    """
    dataset = held_out.dataset
    mixtures, valid = next(
        held_out.mixtures(split, alpha=alpha or 0.5, batch_size=batch_size)
    )
    rows = slice(0, min(NUM_ROWS, valid.sum()))
    image_size = dataset.image_shape[:2]

    def pixels(images):
        shown = augment.unstandardise(images[rows], dataset.mean, dataset.std)
        return np.clip(np.asarray(shown), 0, 255)

    def masked(images):
        patches = patchify(pixels(images), held_out.patch_size)
        patches = jnp.where(mixtures.mask.mask[rows, :, None], REMOVED_GREY, patches)
        return np.asarray(unpatchify(patches, held_out.patch_size, image_size))

    def rebuilt(pred):
        return pixels(unpatchify(pred, held_out.patch_size, image_size))

    sources = mixtures.sources
    if alpha is None:
        images = sources[:, 0]
        pred = predict(images, mixtures.mask)["pred"]
        return {
            "image": pixels(images),
            "masked": masked(images),
            "rebuilt": rebuilt(pred),
        }
    pred = predict(mixtures.mixture, mixtures.mask)["pred"]
    columns = {"mixture": pixels(mixtures.mixture), "masked": masked(mixtures.mixture)}
    for s, branch in enumerate(("subordinate", "dominant")[: pred.shape[1]]):
        columns[f"{branch}\nrebuilt"] = rebuilt(pred[:, s])
        columns[f"{branch}\ntarget"] = pixels(sources[:, s])
    return columns


def draw_grid(columns: Mapping[str, np.ndarray]) -> Figure:
    """Draws `picture_columns` as a grid, one mixture per row."""
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


def reconstructions(predict: Predict, held_out: HeldOut, folder: Path, **options) -> Path:
    """Writes the picture grid to `folder/reconstructions.png`."""
    folder.mkdir(exist_ok=True)
    path = folder / "reconstructions.png"
    draw_grid(picture_columns(predict, held_out, **options)).savefig(path, dpi=130)
    return path


def draw_curves(runs: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Draws every run's losses over epochs, a panel per run."""
    figure = Figure(figsize=(4.2 * len(runs), 3.2), layout="constrained")
    axes = figure.subplots(1, len(runs), squeeze=False)[0]
    for axis, (title, metrics) in zip(axes, runs.items(), strict=True):
        names = sorted(
            {name for line in metrics for name in line if name.startswith("loss/")}
        )
        for name in names:
            points = [(line["epoch"], line[name]) for line in metrics if name in line]
            axis.plot(*zip(*points, strict=True), label=name.removeprefix("loss/"), lw=1)
        axis.set(title=title, xlabel="epoch", ylabel="loss", yscale="log")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    return figure
