"""Pictures of validation images, before a run trains and while it does."""

import dataclasses
import io
from typing import Any, Self

from matplotlib.figure import Figure
from ml_collections import ConfigDict
from PIL import Image

from imae_jax.data.eval_splits import decoded, part_indices
from imae_jax.data.load import Dataset
from imae_jax.evaluators.held_out import HeldOut
from imae_jax.models.classifier import Classifier
from imae_jax.models.factory import build_model
from imae_jax.models.imae import IMAE
from imae_jax.models.mae import MAE
from imae_jax.report import figures
from imae_jax.training.predict import make_network
from imae_jax.training.setup import Setup

SPLIT = "validation"


def few_images(
    config: ConfigDict, dataset: Dataset, model: MAE | IMAE | Classifier
) -> HeldOut:
    """Returns as many validation images as a picture has rows."""
    limits = {"train": None, "test": None, SPLIT: figures.NUM_ROWS}
    published, indices = part_indices(dataset.sizes, limits)[SPLIT]
    split = dataset.splits[published].without_label_maps()
    images = decoded(split, config.data.on_bad_image, indices)
    few = dataclasses.replace(dataset, splits={SPLIT: images})
    return HeldOut.of(config, model, few)


def draw_task(config: ConfigDict, dataset: Dataset) -> Figure:
    """Draws mixtures of an i-MAE's validation images, as its encoder will see them."""
    options = config.evals.reconstruction
    model = build_model(config, dataset.image_shape, len(dataset.class_names))
    held_out = few_images(config, dataset, model)
    rows = held_out.count(SPLIT)
    batch = next(held_out.batches(SPLIT, batch_size=rows, seed=options.seed))
    return figures.draw_grid(figures.task_columns(held_out, batch, options.alpha))


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Draws what the parameters of a run in training reconstruct, `log.pictures_every`.

    Attributes:
      setup: components of the run.
      held_out: the few images that are drawn.
    """

    setup: Setup
    held_out: HeldOut

    @classmethod
    def of(cls, setup: Setup) -> Self:
        """Loads the images; nothing is compiled yet."""
        return cls(setup, few_images(setup.config, setup.dataset, setup.model))

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
