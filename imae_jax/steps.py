"""The jitted functions: initialise, train one step, predict."""

import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from imae_jax import augment, losses, sharding
from imae_jax.distill import teacher_latents
from imae_jax.evaluators.inputs import Network
from imae_jax.mixing import make_mixtures
from imae_jax.model import IMAE, MAE, embed, forward
from imae_jax.patches import random_mask


@flax.struct.dataclass
class TrainState:
    """All that changes while training; keys are derived from (seed, step), not kept.

    Attributes:
      step: steps made, those skipped included.
      params, opt_state: pytrees.
      skipped: steps that changed nothing, since their loss or gradient was not finite.
      skipped_in_a_row: of these, up to now without a good one between them.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    skipped: jax.Array
    skipped_in_a_row: jax.Array


def named_keys(key: jax.Array, *names: str) -> dict[str, jax.Array]:
    """Splits a key into one for each purpose."""
    return dict(zip(names, jax.random.split(key, len(names)), strict=True))


def init_params(model: MAE | IMAE, seed: int):
    """Random parameters, the same for the same seed and model."""
    key = named_keys(jax.random.key(seed), "init", "steps")["init"]
    image = jnp.zeros((1, *model.image_size, model.channels))
    mask = random_mask(key, 1, model.num_patches, 0.5)
    return model.init(key, image, mask.ids_keep, mask.ids_restore)["params"]


def init_state(
    model: MAE | IMAE, optimiser: optax.GradientTransformation, seed: int, mesh: Mesh
) -> TrainState:
    """A fresh state, born on the devices it stays on."""

    def init():
        params = init_params(model, seed)
        zero = jnp.int32(0)
        return TrainState(zero, params, optimiser.init(params), zero, zero)

    return jax.jit(init, out_shardings=sharding.replicated(mesh))()


# (params, teacher_params, images [B, H, W, C] standardised, key) -> (loss, metrics)
Objective = Callable[[Any, Any, jax.Array, jax.Array], tuple[jax.Array, dict]]


def mae_objective(model: MAE, *, mask_ratio: float, norm_pix: bool) -> Objective:
    """Each image alone: rebuild its removed patches."""

    def objective(params, teacher_params, images, key):
        del teacher_params
        mask = random_mask(key, images.shape[0], model.num_patches, mask_ratio)
        out = forward(model, params, images, mask)
        target = losses.target_patches(images, model.patch_size, norm_pix)
        return losses.mae_losses(out, target, mask.mask)

    return objective


def imae_objective(
    model: IMAE,
    teacher: MAE | None,
    *,
    mask_ratio: float,
    norm_pix: bool,
    alpha: float | None,
    per_batch: bool,
    shared_mask: bool,
    teacher_input: str,
    distill_weight: float,
) -> Objective:
    """Pairs of images: rebuild both from their mixture, like the teacher sees each."""

    def objective(params, teacher_params, images, key):
        mixtures = make_mixtures(
            key,
            images,
            num_patches=model.num_patches,
            mask_ratio=mask_ratio,
            alpha=alpha,
            per_batch=per_batch,
            shared_mask=shared_mask,
        )
        mask = mixtures.mask
        out = forward(model, params, mixtures.mixture, mask)
        latents = None
        if distill_weight:
            latents = teacher_latents(
                teacher,
                teacher_params,
                mixtures,
                teacher_input=teacher_input,
                shared_mask=shared_mask,
                num_sources=model.num_sources,
            )
        sources = mixtures.sources[:, : model.num_sources]
        return losses.imae_losses(
            out,
            losses.target_patches(sources, model.patch_size, norm_pix),
            mask.mask,
            latents,
            distill_weight,
        )

    return objective


def make_loss(
    objective: Objective,
    *,
    seed: int,
    mean: jax.Array,
    std: jax.Array,
    pad: int,
    flip: bool,
    crop_scale: tuple[float, float] | tuple[()],
):
    """Returns `loss(params, teacher_params, images, step) -> (loss, metrics)`.

    `images` are raw pixels, [B, H, W, C] uint8, lying in pairs; augmentation, mixing and
    masking happen inside, with keys that are a function of (seed, step) alone.
    """

    def loss(params, teacher_params, images, step):
        key = named_keys(jax.random.key(seed), "init", "steps")["steps"]
        keys = named_keys(jax.random.fold_in(key, step), "augment", "objective")
        images = augment.augment(keys["augment"], images, pad, flip, crop_scale)
        images = augment.standardise(images, mean, std)
        return objective(params, teacher_params, images, keys["objective"])

    return loss


def make_train_step(
    loss,
    optimiser: optax.GradientTransformation,
    mesh: Mesh,
    take,
    *,
    looped: bool,
    max_skipped: int,
):
    """Compiles `step(state, teacher_params, inputs, num_steps) -> (state, metrics)`.

    The state is donated. The teacher's parameters are an argument: not closed over, not
    optimised, not donated. A step whose loss or gradient is not finite changes neither
    parameters nor the optimiser's state. After `max_skipped` of these in a row no step
    changes them any more, so that the run can be ended there whenever that is noticed.

    Args:
      loss: as from `make_loss`.
      optimiser: what turns gradients into updates.
      mesh: the devices.
      take: (inputs, number) -> the images of the `number`-th step, see `data.feeds`.
      looped: whether a call makes `num_steps` steps, in a loop on the device, or one. The
        metrics are the last step's.
      max_skipped: steps in a row, at least 1.
    """

    def update(number, state, teacher_params, inputs):
        images = take(inputs, number)
        (total, metrics), grads = jax.value_and_grad(loss, has_aux=True)(
            state.params, teacher_params, images, state.step
        )
        norm = optax.tree.norm(grads)
        is_good = jnp.isfinite(total) & jnp.isfinite(norm)
        is_good &= state.skipped_in_a_row < max_skipped
        updates, opt_state = optimiser.update(grads, state.opt_state, state.params)
        new = optax.apply_updates(state.params, updates), opt_state
        old = state.params, state.opt_state
        params, opt_state = jax.tree.map(functools.partial(jnp.where, is_good), new, old)
        skipped = state.skipped + ~is_good
        in_a_row = jnp.where(is_good, 0, state.skipped_in_a_row + 1)
        metrics |= dict(grad_norm=norm, skipped_steps=skipped, skipped_in_a_row=in_a_row)
        return TrainState(state.step + 1, params, opt_state, skipped, in_a_row), metrics

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
    return jax.jit(
        step,
        in_shardings=(copies, copies, None, copies),
        out_shardings=(copies, copies),
        donate_argnums=0,
    )


@functools.cache
def _compiled(function, model: MAE | IMAE, mesh: Mesh):
    # Cached: networks of the same form, such as a teacher and a random one, share it.
    # Copied to every device and process, which all go on with the same numbers.
    copies = sharding.replicated(mesh)
    return jax.jit(functools.partial(function, model), out_shardings=copies)


def make_network(model: MAE | IMAE, params, mesh: Mesh) -> Network:
    """The model as evaluators see it; batches are split over the devices."""

    def run(function, *inputs):
        batch = sharding.batch_sharding(mesh)
        return jax.device_get(
            _compiled(function, model, mesh)(params, *jax.device_put(inputs, batch))
        )

    return Network(
        predict=functools.partial(run, forward), embed=functools.partial(run, embed)
    )
