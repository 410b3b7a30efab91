"""The jitted functions: initialise, train one step, predict."""

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
from imae_jax.evaluators.networks import ClassifyingNetwork, Network
from imae_jax.models.classifier import Classifier
from imae_jax.models.forward import classify, embed, forward
from imae_jax.models.imae import IMAE
from imae_jax.models.mae import MAE
from imae_jax.models.masking import random_mask
from imae_jax.objectives.base import Loss, named_keys


@flax.struct.dataclass
class TrainState:
    """All that changes while training; keys are derived from (seed, step), not kept.

    Attributes:
      seed: of the run, uint32. It does not change, but is no constant of a compiled step,
        which so serves every seed.
      step: steps made, those skipped included.
      params, opt_state: pytrees.
      batch_stats: the statistics of BatchNorms, which only a probe has; else empty.
      skipped: steps that changed nothing, since their loss or gradient was not finite.
      skipped_in_a_row: of these, up to now without a good one between them.
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
        """The pytrees that a checkpoint holds, by name; nothing that is empty."""
        trees = dict(
            params=self.params, opt_state=self.opt_state, batch_stats=self.batch_stats
        )
        return {name: tree for name, tree in trees.items() if jax.tree.leaves(tree)}


def init_variables(
    model: MAE | IMAE | Classifier, seed: int | jax.Array
) -> tuple[Any, Any]:
    """Random parameters, and fresh statistics of BatchNorms if there are any."""
    key = named_keys(jax.random.key(seed), "init", "steps")["init"]
    image = jnp.zeros((1, *model.image_size, model.channels))
    if isinstance(model, Classifier):
        variables = model.init(key, image, is_training=False)
    else:
        mask = random_mask(key, 1, model.num_patches, 0.5)
        variables = model.init(key, image, mask.ids_keep, mask.ids_restore)
    return variables["params"], variables.get("batch_stats", {})


def init_params(model: MAE | IMAE | Classifier, seed: int):
    """Random parameters, the same for the same seed and model."""
    return init_variables(model, seed)[0]


def fresh_state(
    model: MAE | IMAE | Classifier,
    optimiser: optax.GradientTransformation,
    seed: int | jax.Array,
    start: Mapping | None = None,
) -> TrainState:
    """Where training begins: random parameters, except for the modules in `start`."""
    params, batch_stats = init_variables(model, seed)
    params = params | (start or {})
    zero, opt_state = jnp.int32(0), optimiser.init(params)
    return TrainState(jnp.uint32(seed), zero, params, opt_state, batch_stats, zero, zero)


def init_state(
    model: MAE | IMAE | Classifier,
    optimiser: optax.GradientTransformation,
    seed: int,
    mesh: Mesh,
    start: Mapping | None = None,
) -> TrainState:
    """A fresh state, born where it stays, see `sharding.shares`."""
    init = functools.partial(fresh_state, model, optimiser)
    inputs = np.uint32(seed), start
    places = sharding.shares(jax.eval_shape(init, *inputs), mesh)
    return jax.jit(init, out_shardings=places)(*inputs)


def make_train_step(
    loss: Loss,
    optimiser: optax.GradientTransformation,
    mesh: Mesh,
    take,
    state: TrainState,
    *,
    looped: bool = False,
    accumulate: int = 1,
    max_skipped: int,
):
    """Compiles `step(state, teacher_params, inputs, num_steps) -> (state, metrics)`.

    The state is donated. The teacher's parameters are an argument: not closed over, not
    optimised, not donated. A step whose loss or gradient is not finite changes neither
    parameters nor statistics nor the optimiser's state. After `max_skipped` of these in a
    row no step changes them any more, so that the run can be ended there whenever that is
    noticed.

    Args:
      loss: as from `objectives.make_loss` or `transfer.make_loss`.
      optimiser: what turns gradients into updates.
      mesh: the devices.
      take: (inputs, number) -> the batch of the `number`-th step, see `data.feeds`.
      state: one that stays where it lies, or what it looks like there.
      looped: whether a call makes `num_steps` steps, in a loop on the device, or one. The
        metrics are the last step's.
      accumulate: in how many parts, one after the other, a batch is computed.
      max_skipped: steps in a row, at least 1.
    """

    def loss_of(params, batch_stats, teacher_params, examples):
        params = sharding.gather(params, mesh)
        teacher_params = sharding.gather(teacher_params, mesh)
        return loss.of(params, batch_stats, teacher_params, examples)

    def gradient_of(state, teacher_params, examples):
        fixed = state.params, state.batch_stats, teacher_params
        of = functools.partial(jax.value_and_grad(loss_of, has_aux=True), *fixed)
        if accumulate == 1:
            return of(examples)
        parts = sharding.in_parts(examples, accumulate, mesh)
        like = jax.eval_shape(of, jax.tree.map(lambda x: x[0], parts))
        sums, _ = jax.lax.scan(
            lambda sums, part: (jax.tree.map(jnp.add, sums, of(part)), None),
            jax.tree.map(jnp.zeros_like, like),
            parts,
        )
        return jax.tree.map(lambda x: x / accumulate, sums)

    def update(number, state, teacher_params, inputs):
        examples = loss.draw(take(inputs, number), state.step, state.seed)
        (total, (metrics, batch_stats)), grads = gradient_of(
            state, teacher_params, examples
        )
        norm = optax.tree.norm(grads)
        is_good = jnp.isfinite(total) & jnp.isfinite(norm)
        is_good &= state.skipped_in_a_row < max_skipped
        updates, opt_state = optimiser.update(grads, state.opt_state, state.params)
        new = optax.apply_updates(state.params, updates), opt_state, batch_stats
        old = state.params, state.opt_state, state.batch_stats
        kept = jax.tree.map(functools.partial(jnp.where, is_good), new, old)
        skipped = state.skipped + ~is_good
        in_a_row = jnp.where(is_good, 0, state.skipped_in_a_row + 1)
        metrics |= dict(grad_norm=norm, skipped_steps=skipped, skipped_in_a_row=in_a_row)
        return TrainState(state.seed, state.step + 1, *kept, skipped, in_a_row), metrics

    def step(state, teacher_params, inputs, num_steps):
        if not looped:
            return update(0, state, teacher_params, inputs)
        metrics = jax.eval_shape(update, 0, state, teacher_params, inputs)[1]
        return jax.lax.fori_loop(
            0,
            num_steps,
            lambda number, carry: update(number, carry[0], teacher_params, inputs),
            (state, jax.tree.map(jnp.zeros_like, metrics)),
        )

    copies = sharding.replicated(mesh)
    places = jax.tree.map(lambda x: x.sharding, state)
    return jax.jit(
        step,
        in_shardings=(places, None, None, copies),
        out_shardings=(places, copies),
        donate_argnums=0,
        compiler_options=sharding.compiler_options(mesh),
    )


@functools.cache
def _compiled(function, model: MAE | IMAE | Classifier, mesh: Mesh):
    # Cached: networks of the same form, such as a teacher and a random one, share it.
    # Copied to every device and process, which all go on with the same numbers.
    copies = sharding.replicated(mesh)
    return jax.jit(functools.partial(function, model), out_shardings=copies)


def _run(function, model, variables, mesh: Mesh, *inputs):
    batch = sharding.batch_sharding(mesh)
    return jax.device_get(
        _compiled(function, model, mesh)(variables, *jax.device_put(inputs, batch))
    )


def make_network(model: MAE | IMAE, params, mesh: Mesh) -> Network:
    """The model as evaluators see it; batches are split over the devices."""
    return Network(
        predict=functools.partial(_run, forward, model, params, mesh),
        embed=functools.partial(_run, embed, model, params, mesh),
    )


def make_classifying_network(
    model: Classifier, params, batch_stats, mesh: Mesh
) -> ClassifyingNetwork:
    """A classifier as evaluators see it."""
    variables = {"params": params, "batch_stats": batch_stats}
    return ClassifyingNetwork(
        classify=functools.partial(_run, classify, model, variables, mesh)
    )
