"""Training state, and its initialization."""

import functools
from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from imae_jax.distributed import sharding
from imae_jax.models.classifier import Classifier
from imae_jax.models.imae import IMAE
from imae_jax.models.mae import MAE
from imae_jax.objectives.base import named_keys


@flax.struct.dataclass
class TrainState:
    """State of a training run. Random keys are derived from (seed, step), not stored.

    Attributes:
      seed: uint32, the run's seed. It is constant, but part of the state so that one
        compiled step serves every seed.
      step: number of steps made, including skipped ones.
      params, opt_state: pytrees.
      batch_stats: statistics of BatchNorms, which only a probe has; else empty.
      skipped: number of steps skipped because loss, gradient or result was not finite.
      skipped_in_a_row: number of steps skipped since the last good one.
    """

    seed: jax.Array
    step: jax.Array
    params: Any
    opt_state: Any
    batch_stats: Any
    skipped: jax.Array
    skipped_in_a_row: jax.Array

    @property
    def arrays(self) -> dict[str, Any]:
        """The non-empty pytrees that a checkpoint stores, by name."""
        trees = dict(
            params=self.params, opt_state=self.opt_state, batch_stats=self.batch_stats
        )
        return {name: tree for name, tree in trees.items() if jax.tree.leaves(tree)}


def init_variables(
    model: MAE | IMAE | Classifier, seed: int | jax.Array
) -> tuple[Any, Any]:
    """Returns random parameters, and initial statistics of BatchNorms (may be empty)."""
    key = named_keys(jax.random.key(seed), "init", "steps")["init"]
    variables = model.init(key, *model.example_inputs(key))
    return variables["params"], variables.get("batch_stats", {})


def init_params(model: MAE | IMAE | Classifier, seed: int | jax.Array) -> Any:
    """Returns random parameters, determined by seed and model."""
    return init_variables(model, seed)[0]


def random_params(model: MAE | IMAE | Classifier, seed: int, mesh: Mesh) -> Any:
    """Returns `init_params` with a copy on every device of a mesh."""
    init = functools.partial(init_params, model)
    # The seed is an argument: one program, stored on disk, serves all seeds.
    return jax.jit(init, out_shardings=sharding.replicated(mesh))(np.uint32(seed))


def fresh_state(
    model: MAE | IMAE | Classifier,
    optimizer: optax.GradientTransformation,
    seed: int | jax.Array,
    start: Mapping | None = None,
) -> TrainState:
    """Makes an initial state: random parameters, except for the modules in `start`."""
    params, batch_stats = init_variables(model, seed)
    params = params | (start or {})
    zero, opt_state = jnp.int32(0), optimizer.init(params)
    return TrainState(jnp.uint32(seed), zero, params, opt_state, batch_stats, zero, zero)


def init_state(
    model: MAE | IMAE | Classifier,
    optimizer: optax.GradientTransformation,
    seed: int,
    mesh: Mesh,
    start: Mapping | None = None,
) -> TrainState:
    """Makes an initial state directly on its devices, see `sharding.fsdp_shardings`."""
    init = functools.partial(fresh_state, model, optimizer)
    inputs = np.uint32(seed), start
    places = sharding.fsdp_shardings(jax.eval_shape(init, *inputs), mesh)
    return jax.jit(init, out_shardings=places)(*inputs)
