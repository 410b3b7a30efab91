"""Training objective of an i-MAE: mix, mask, reconstruct both images, distil.

The paper's algorithm (section 3), composed of `mixing`, `models.masking`, `models.imae`,
`distillation` and `losses`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

import jax
from ml_collections import ConfigDict

from imae_jax.data.dataset import Dataset
from imae_jax.errors import UserError, require
from imae_jax.models.forward import forward
from imae_jax.models.imae import IMAE
from imae_jax.models.mae import MAE
from imae_jax.models.masking import first_masked
from imae_jax.objectives import losses
from imae_jax.objectives.base import Augmentation, Metrics, Objective
from imae_jax.objectives.contrast import contrast_loss, uniformity_loss
from imae_jax.objectives.distillation import teacher_latents
from imae_jax.objectives.mae import MAEObjective
from imae_jax.objectives.mask_kinds import Masking
from imae_jax.objectives.mixing import (
    draw_mixtures,
    make_mixtures,
    num_clean_groups,
    role_weights,
)


def check_terms_between_images(config: ConfigDict) -> None:
    """Raises UserError unless masks, roles and batches fit contrast and uniformity."""
    loss, mix = config.loss, config.mix
    accumulate = config.train.accumulate
    for name in ("contrast_weight", "uniformity_weight"):
        require(
            not loss[name] or accumulate == 1,
            "train.accumulate",
            accumulate,
            f"1 with loss.{name}: a microbatch lacks the other images of the batch",
        )
    if not loss.contrast_weight:
        return
    allowed = "'both' with loss.contrast_weight, which compares an image's two roles"
    require(loss.branches == "both", "loss.branches", loss.branches, allowed)
    allowed = "False with loss.contrast_weight: each role of an image needs its own mask"
    require(not mix.shared_mask, "mix.shared_mask", mix.shared_mask, allowed)
    clean = mix.clean_fraction
    allowed = "0 with loss.contrast_weight: an image shown alone has only one role"
    require(not clean, "mix.clean_fraction", clean, allowed)


def check_clean_fraction(config: ConfigDict) -> None:
    """Raises UserError for a fraction that leaves no group mixed, or has no effect."""
    mix = config.mix
    fraction = mix.clean_fraction
    if not fraction:
        return
    groups = config.train.batch_size // mix.sources
    what = "pairs" if mix.sources == 2 else f"groups of {mix.sources}"
    allowed = f"0, or a fraction of a batch's {groups} {what} that is one at least, not all"
    is_some = 0 < num_clean_groups(groups, fraction) < groups
    require(is_some, "mix.clean_fraction", fraction, allowed)
    allowed = "0 with loss.branches='subordinate': an image shown alone is the dominant one"
    is_learnt = config.loss.branches != "subordinate"
    require(is_learnt, "mix.clean_fraction", fraction, allowed)


def check_more_sources(config: ConfigDict) -> None:
    """Raises UserError for terms that more than two images in a mixture do not have."""
    count = config.mix.sources
    if count == 2:
        return
    rate, branches = config.mix.same_class_rate, config.loss.branches
    allowed = f"unset with mix.sources={count}: it is the classes of pairs that it controls"
    require(rate is None, "mix.same_class_rate", rate, allowed)
    allowed = f"'both', which is all {count} of mix.sources={count}"
    require(branches == "both", "loss.branches", branches, allowed)
    weight = config.loss.contrast_weight
    allowed = f"0 with mix.sources={count}: it contrasts the two roles of a pair's images"
    require(weight == 0, "loss.contrast_weight", weight, allowed)


@dataclasses.dataclass(frozen=True, eq=False)
class IMAEObjective(MAEObjective):
    """Reconstruction of both images from their mixture, and distillation of their latents.

    Attributes:
      sources: number of images in a mixture, S.
      alpha, per_batch, shared_mask, clean_fraction: see `mixing.draw_mixtures`.
      teacher: the frozen MAE, or None.
      teacher_input: see `distillation.teacher_latents`.
      distill_weight: weight of the distillation terms; 0 trains without a teacher.
      contrast_weight, contrast_temperature: see `contrast.contrast_loss`; a weight of 0
        leaves the term out of the program.
      uniformity_weight: the same for `contrast.uniformity_loss`.
    """

    title = "an i-MAE"
    needs = MAEObjective.needs | {"mix.alpha"}

    model: IMAE
    sources: int
    alpha: float | None
    per_batch: bool
    shared_mask: bool
    clean_fraction: float
    teacher: MAE | None
    teacher_input: str
    distill_weight: float
    contrast_weight: float
    contrast_temperature: float
    uniformity_weight: float

    @property
    def group_size(self) -> int:
        """See `Objective`: the images that are mixed."""
        return self.sources

    @classmethod
    def from_config(
        cls,
        config: ConfigDict,
        model: Any,
        teacher: MAE | None,
        augmentation: Augmentation,
    ) -> Self:
        """See `Objective`."""
        # The input pipeline handles `same_class_rate`.
        mix = {k: v for k, v in config.mix.items() if k != "same_class_rate"}
        return cls(
            model,
            augmentation,
            Masking(**config.mask, grid=model.grid),
            config.loss.norm_pix,
            config.loss.predict_fraction,
            **mix,
            teacher=teacher,
            teacher_input=config.teacher.input,
            distill_weight=config.loss.distill_weight,
            contrast_weight=config.loss.contrast_weight,
            contrast_temperature=config.loss.contrast_temperature,
            uniformity_weight=config.loss.uniformity_weight,
        )

    def draw_masks(self, key: jax.Array, images: jax.Array) -> Any:
        """Draws alphas and masks of B mixtures, and weights if some are not mixed."""
        alpha, mask = draw_mixtures(
            key,
            len(images),
            masking=self.masking,
            alpha=self.alpha,
            per_batch=self.per_batch,
            shared_mask=self.shared_mask,
            clean_fraction=self.clean_fraction,
            sources=self.sources,
            images=self.images_for_masks(images),
        )
        return alpha, mask, role_weights(alpha) if self.clean_fraction else None

    def loss_of(
        self, params: Any, teacher_params: Any, images: jax.Array, draws: Any
    ) -> tuple[jax.Array, Metrics]:
        """Returns (total, metrics) of normalized images [B, H, W, C], groups adjacent."""
        alpha, mask, weights = draws
        mixtures = make_mixtures(images, alpha, mask)
        out = forward(self.model, params, mixtures.mixture, mask, self.num_predicted)
        latents = None
        if self.distill_weight:
            assert self.teacher is not None, "see `is_distilled`"
            latents = teacher_latents(
                self.teacher,
                teacher_params,
                mixtures,
                teacher_input=self.teacher_input,
                shared_mask=self.shared_mask,
                num_sources=self.model.num_sources,
            )
        sources = mixtures.sources[:, : self.model.num_sources]
        target = losses.target_patches(sources, self.model.patch_size, self.norm_pix)
        predicted = first_masked(mask, self.num_predicted)
        total, metrics = losses.imae_losses(
            out, target, predicted, latents, self.distill_weight, weights
        )
        if self.contrast_weight:
            term, accuracy = contrast_loss(out["latents"], self.contrast_temperature)
            total += self.contrast_weight * term
            metrics |= {"loss/contrast": term, "contrast/accuracy": accuracy}
        if self.uniformity_weight:
            term = uniformity_loss(out["tokens"])
            total += self.uniformity_weight * term
            metrics |= {"loss/uniformity": term}
        return total, metrics | {"loss/total": total}

    @staticmethod
    def check(config: ConfigDict, dataset: Dataset) -> None:
        """See `Objective`."""
        MAEObjective.check(config, dataset)
        mix = config.mix
        require(
            mix.alpha is None or not mix.per_batch,
            "mix.per_batch",
            mix.per_batch,
            f"False where mix.alpha is fixed (it is {mix.alpha})",
        )
        require(
            not mix.shared_mask or config.mask.kind != "content",
            "mix.shared_mask",
            mix.shared_mask,
            "False with mask.kind='content': the mixtures of a pair differ in content",
        )
        check_clean_fraction(config)
        check_more_sources(config)
        check_terms_between_images(config)
        if config.loss.distill_weight and not config.teacher.init:
            raise UserError(
                "teacher.init is empty, but distillation needs a teacher: give the workdir "
                "of a run of configs/mae.py, or set loss.distill_weight=0"
            )
        allowed = (
            "'image' with loss.distill_weight=0: a teacher that is not used sees nothing"
        )
        is_used = bool(config.loss.distill_weight) or config.teacher.input == "image"
        require(is_used, "teacher.input", config.teacher.input, allowed)
        if mix.same_class_rate is not None and not dataset.class_names:
            raise UserError(
                f"mix.same_class_rate={mix.same_class_rate}: the images have no classes"
            )

    @staticmethod
    def starting_params(like: Mapping, loaded: Mapping, source: str) -> Mapping:
        """Returns a MAE's parameters, its `decoder_embed` as each head (released code)."""
        if "decoder_embed" in loaded:
            heads = [name for name in like if name.startswith("disentangle_")]
            embed = loaded["decoder_embed"]
            others = {k: v for k, v in loaded.items() if k != "decoder_embed"}
            loaded = others | {head: embed for head in heads}
        return Objective.starting_params(like, loaded, source)

    @staticmethod
    def is_distilled(config: ConfigDict) -> bool:
        """True if the weight of distillation is above 0."""
        return config.loss.distill_weight > 0

    @staticmethod
    def may_accumulate(config: ConfigDict) -> bool:
        """True unless images of a batch are compared with each other."""
        return not (config.loss.contrast_weight or config.loss.uniformity_weight)
