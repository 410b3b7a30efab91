"""Trained models as compiled predict functions."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from imae_jax.distributed import sharding
from imae_jax.evaluators.networks import Network
from imae_jax.models.classifier import Classifier
from imae_jax.models.forward import predictors
from imae_jax.models.imae import IMAE
from imae_jax.models.mae import MAE


@functools.cache
def _compiled(function: Callable, model: MAE | IMAE | Classifier, mesh: Mesh) -> Callable:
    # Cached: networks of equal architecture, such as teacher and random, share it.
    # Outputs are copied to every device, so all processes compute with the same values.
    copies = sharding.replicated(mesh)
    return jax.jit(functools.partial(function, model), out_shardings=copies)


def _run(
    function: Callable,
    model: MAE | IMAE | Classifier,
    variables: Any,
    mesh: Mesh,
    *inputs: Any,
) -> Any:
    batch = sharding.batch_sharding(mesh)
    return jax.device_get(
        _compiled(function, model, mesh)(variables, *jax.device_put(inputs, batch))
    )


def make_network(
    model: MAE | IMAE | Classifier, params: Any, mesh: Mesh, batch_stats: Any = None
) -> Network:
    """Makes a model's predict functions; batches are split over the devices."""
    return Network(
        **{
            name: functools.partial(_run, function, model, variables, mesh)
            for name, (function, variables) in predictors(
                model, params, batch_stats
            ).items()
        }
    )
