"""Draws the pictures of docs/images that need no run: masks, by kind.

python -m docs.pictures
"""

from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np

from imae_jax.data.builders import shapes
from imae_jax.models.patches import unpatchify
from imae_jax.objectives.mask_kinds import Masking
from imae_jax.objectives.mixing import group_sources, mix

IMAGES = Path(__file__).parent / "images"
DRAWS = 7  # masks of the same mixture
PATCH = 2  # pixels, of 32: finer than the preset's, which leaves kinds little choice
KINDS = {
    "random": ("random", 0.0),
    "block": ("block", 0.0),
    "grid": ("grid", 0.0),
    "content\nweight 1": ("content", 1.0),
    "content\nweight -1": ("content", -1.0),
}


def mask_kinds() -> plt.Figure:
    """A mixture of two scenes under masks of each kind, 75 % masked."""
    scenes = np.stack([shapes.draw(index)[0] for index in (21, 29)])
    sources = group_sources(scenes.astype(np.float32))
    mixture = mix(sources, np.full(2, 0.3, np.float32))[:1]
    side = mixture.shape[1] // PATCH
    figure, axes = plt.subplots(
        len(KINDS), 1 + DRAWS, figsize=(1.1 * (1 + DRAWS), 1.12 * len(KINDS))
    )
    for row, (label, (kind, weight)) in zip(axes, KINDS.items(), strict=True):
        masking = Masking(0.75, kind, weight, (side, side))
        same = np.repeat(mixture, DRAWS, axis=0)
        mask = masking.draw(jax.random.key(0), DRAWS, same).mask[..., None]
        hidden = unpatchify(np.repeat(mask, PATCH**2, axis=-1), PATCH, (2 * side, 2 * side))
        shown = np.where(hidden, 128, same).astype(np.uint8)
        for axis, picture in zip(row, [mixture[0].astype(np.uint8), *shown], strict=True):
            axis.imshow(picture)
            axis.set(xticks=[], yticks=[], frame_on=False)
        row[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
    axes[0, 0].set_title("mixture", fontsize=9)
    figure.tight_layout(pad=0.2, h_pad=0.1, w_pad=0.1)
    return figure


if __name__ == "__main__":
    mask_kinds().savefig(IMAGES / "mask_kinds.png", dpi=110, metadata={"Software": None})
