"""The objective of an i-MAE: mix, mask, predict both images, distil."""

from ml_collections import ConfigDict

from imae_jax.errors import UserError, require
from imae_jax.models.forward import forward
from imae_jax.models.imae import IMAE
from imae_jax.models.mae import MAE
from imae_jax.objectives import losses
from imae_jax.objectives.base import Objective
from imae_jax.objectives.distillation import teacher_latents
from imae_jax.objectives.mixing import draw_mixtures, make_mixtures


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

    def draw(key, batch_size):
        return draw_mixtures(
            key,
            batch_size,
            num_patches=model.num_patches,
            mask_ratio=mask_ratio,
            alpha=alpha,
            per_batch=per_batch,
            shared_mask=shared_mask,
        )

    def loss(params, teacher_params, images, draws):
        mixtures = make_mixtures(images, *draws)
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

    return Objective(draw, loss)


def check_mixtures(config: ConfigDict) -> None:
    """What only i-MAE has: mixing, branches, teacher."""
    mix, loss, teacher = config.mix, config.loss, config.teacher
    in_range = mix.alpha is None or 0 < mix.alpha <= 0.5
    require(in_range, "mix.alpha", mix.alpha, "in (0, 0.5], or unset to draw it")
    require(
        mix.alpha is None or not mix.per_batch,
        "mix.per_batch",
        mix.per_batch,
        f"False where mix.alpha is fixed (it is {mix.alpha})",
    )
    rate = mix.same_class_rate
    in_range = rate is None or 0 <= rate <= 1
    require(in_range, "mix.same_class_rate", rate, "in [0, 1], or unset to ignore classes")
    choices = "'image' or 'mixture'"
    valid = teacher.input in ("image", "mixture")
    require(valid, "teacher.input", teacher.input, choices)
    choices = "'both' or 'subordinate'"
    valid = loss.branches in ("both", "subordinate")
    require(valid, "loss.branches", loss.branches, choices)
    weight = loss.distill_weight
    require(weight >= 0, "loss.distill_weight", weight, "0 or more")
    if weight and not teacher.init:
        raise UserError(
            "teacher.init is empty, but distillation needs a teacher: give the workdir of "
            "a run of configs/mae.py, or set loss.distill_weight=0"
        )
