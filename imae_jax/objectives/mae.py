"""The objective of a MAE."""

from imae_jax.models.forward import forward
from imae_jax.models.mae import MAE
from imae_jax.models.masking import random_mask
from imae_jax.objectives import losses
from imae_jax.objectives.base import Objective


def mae_objective(model: MAE, *, mask_ratio: float, norm_pix: bool) -> Objective:
    """Each image alone: rebuild its removed patches."""

    def draw(key, batch_size):
        return random_mask(key, batch_size, model.num_patches, mask_ratio)

    def loss(params, teacher_params, images, mask):
        del teacher_params
        out = forward(model, params, images, mask)
        target = losses.target_patches(images, model.patch_size, norm_pix)
        return losses.mae_losses(out, target, mask.mask)

    return Objective(draw, loss)
