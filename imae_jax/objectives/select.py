"""The kinds of run by `model.name`."""

import optax
from ml_collections import ConfigDict

from imae_jax import optim
from imae_jax.models.classifier import Classifier
from imae_jax.models.imae import IMAE
from imae_jax.models.mae import MAE

# What the runs of each `model.name` are called in messages.
KINDS = {"mae": "a MAE", "imae": "an i-MAE", "classifier": "a classifier"}


def make_optimiser(
    config: ConfigDict, network: MAE | IMAE | Classifier, schedule: optax.Schedule
) -> optax.GradientTransformation:
    """The optimiser of a config that has been checked."""
    section = config.optim
    if isinstance(network, Classifier) and network.is_probe:
        return optim.heads_only(optim.lars(schedule))
    update = optim.adamw(schedule, section.betas, section.weight_decay, section.clip_norm)
    if not isinstance(network, Classifier):
        return update
    return optim.finetuning(
        update,
        depth=network.encoder_size.depth,
        layer_decay=section.layer_decay,
        ema_decay=section.ema_decay,
    )
