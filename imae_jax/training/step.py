"""The jitted training step: gradients accumulated over microbatches, and the update."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jax.typing import ArrayLike

from imae_jax.distributed import sharding
from imae_jax.objectives.base import Metrics, Objective
from imae_jax.storage import pytrees
from imae_jax.training.state import TrainState


def accumulate_gradients(
    gradient_of: Callable, examples: Any, accumulate: int, group_size: int, mesh: Mesh
) -> Any:
    """Returns the mean of `gradient_of` over microbatches, computed one after another.

    Args:
      gradient_of: examples -> a pytree of means over them.
      examples: a pytree whose leaves are [B, ...].
      accumulate: number of microbatches.
      group_size: see `Objective`.
      mesh: the devices that examples are split over.
    """
    if accumulate == 1:
        return gradient_of(examples)
    parts = sharding.split_microbatches(examples, accumulate, group_size, mesh)
    like = jax.eval_shape(gradient_of, jax.tree.map(lambda x: x[0], parts))
    sums, _ = jax.lax.scan(
        lambda sums, part: (jax.tree.map(jnp.add, sums, gradient_of(part)), None),
        jax.tree.map(jnp.zeros_like, like),
        parts,
    )
    return jax.tree.map(lambda x: x / accumulate, sums)


def apply_if_finite(
    state: TrainState,
    optimizer: optax.GradientTransformation,
    total: jax.Array,
    grads: Any,
    batch_stats: Any,
    max_skipped: int,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Returns the next state and the update's metrics.

    A step whose loss, gradient or result is not finite changes neither parameters nor
    statistics nor optimizer state; nor does any step after `max_skipped` of these in a row.
    """
    norm = optax.tree.norm(grads)
    is_good = jnp.isfinite(total) & jnp.isfinite(norm)
    is_good &= state.skipped_in_a_row < max_skipped
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    new = optax.apply_updates(state.params, updates), opt_state, batch_stats
    is_good &= pytrees.all_finite(new)
    old = state.params, state.opt_state, state.batch_stats
    kept: tuple[Any, Any, Any]
    kept = jax.tree.map(functools.partial(jnp.where, is_good), new, old)
    skipped = state.skipped + ~is_good
    in_a_row = jnp.where(is_good, 0, state.skipped_in_a_row + 1)
    metrics = dict(grad_norm=norm, skipped_steps=skipped, skipped_in_a_row=in_a_row)
    return TrainState(state.seed, state.step + 1, *kept, skipped, in_a_row), metrics


# All that is fixed when a step is compiled.
def make_train_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    take: Callable,
    state: TrainState,
    *,
    looped: bool = False,
    accumulate: int = 1,
    max_skipped: int,
) -> jax.stages.Wrapped:
    """Makes the jitted training step.

    It is called as step(state, teacher_params, inputs, num_steps) -> (state, metrics).

    The state is donated. The teacher's parameters are an argument: not closed over, not
    optimized, not donated. Steps that are not finite are skipped, see `apply_if_finite`;
    after too many in a row the state no longer changes, so the run can be ended there even
    if that is noticed later.

    Args:
      objective: provides `draw` and `loss`.
      optimizer: turns gradients into updates.
      mesh: the devices.
      take: (inputs, number) -> batch of the `number`-th step, see `data.input_pipeline`.
      state: a state, or its shapes and types, with the sharding to keep.
      looped: True to make `num_steps` steps per call, in a loop on the device, and return
        the last step's metrics; False to make one.
      accumulate: number of microbatches per batch.
      max_skipped: most skipped steps in a row, at least 1.
    """

    def loss_of(
        params: Any, batch_stats: Any, teacher_params: Any, examples: Any
    ) -> tuple[jax.Array, tuple[Metrics, Any]]:
        params = sharding.all_gather_params(params, mesh)
        teacher_params = sharding.all_gather_params(teacher_params, mesh)
        return objective.loss(params, batch_stats, teacher_params, examples)

    def update(
        number: ArrayLike, state: TrainState, teacher_params: Any, inputs: Any
    ) -> tuple[TrainState, Metrics]:
        examples = objective.draw(take(inputs, number), state.step, state.seed)
        fixed = state.params, state.batch_stats, teacher_params
        gradient_of = functools.partial(jax.value_and_grad(loss_of, has_aux=True), *fixed)
        (total, (metrics, batch_stats)), grads = accumulate_gradients(
            gradient_of, examples, accumulate, objective.group_size, mesh
        )
        state, found = apply_if_finite(
            state, optimizer, total, grads, batch_stats, max_skipped
        )
        return state, metrics | found

    def step(
        state: TrainState, teacher_params: Any, inputs: Any, num_steps: ArrayLike
    ) -> tuple[TrainState, Metrics]:
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
