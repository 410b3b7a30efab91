"""Training objectives by `model.name`."""

from ml_collections import ConfigDict

from imae_jax.models.branches import PAIR
from imae_jax.objectives.base import Objective
from imae_jax.objectives.classification import ClassificationObjective
from imae_jax.objectives.imae import IMAEObjective
from imae_jax.objectives.mae import MAEObjective

OBJECTIVES: dict[str, type[Objective]] = {
    "mae": MAEObjective,
    "imae": IMAEObjective,
    "classifier": ClassificationObjective,
}


def group_size(config: ConfigDict) -> int:
    """Returns the number of images that a run's batches hold together; see `Objective`."""
    return config.mix.sources if "mix" in config else PAIR
