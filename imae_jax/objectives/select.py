"""Training objectives by `model.name`."""

from imae_jax.objectives.base import Objective
from imae_jax.objectives.classification import ClassificationObjective
from imae_jax.objectives.imae import IMAEObjective
from imae_jax.objectives.mae import MAEObjective

OBJECTIVES: dict[str, type[Objective]] = {
    "mae": MAEObjective,
    "imae": IMAEObjective,
    "classifier": ClassificationObjective,
}
