"""Pictures of validation images while a run trains, `log.pictures_every`."""

import dataclasses
import io
from typing import Any, Self

from PIL import Image

from imae_jax.data.eval_splits import decoded, part_indices
from imae_jax.evaluators.held_out import HeldOut
from imae_jax.report import figures
from imae_jax.training.predict import make_network
from imae_jax.training.setup import Setup

SPLIT = "validation"


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Draws what the parameters of a run in training reconstruct.

    Attributes:
      setup: components of the run.
      held_out: the few images that are drawn.
    """

    setup: Setup
    held_out: HeldOut

    @classmethod
    def of(cls, setup: Setup) -> Self:
        """Loads the images; nothing is compiled yet."""
        dataset, config = setup.dataset, setup.config
        limits = {"train": None, "test": None, SPLIT: figures.NUM_ROWS}
        published, indices = part_indices(dataset.sizes, limits)[SPLIT]
        images = decoded(dataset.splits[published], config.data.on_bad_image, indices)
        few = dataclasses.replace(dataset, splits={SPLIT: images})
        return cls(setup, HeldOut.of(config, setup.model, few))

    def __call__(self, params: Any) -> Image.Image:
        """Returns the grid of `figures.picture_columns`.

        With alpha, seed and columns of the pictures that `eval` draws of its own split.
        """
        setup, options = self.setup, self.setup.config.evals.reconstruction
        devices = setup.mesh.size
        columns = figures.picture_columns(
            make_network(setup.model, params, setup.mesh),
            self.held_out,
            split=SPLIT,
            batch_size=-(-figures.NUM_ROWS // devices) * devices,
            seed=options.seed,
            alpha=options.get("alpha"),
        )
        return Image.open(io.BytesIO(figures.as_png(figures.draw_grid(columns))))
