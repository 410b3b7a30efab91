"""Training objective of a classifier, and its initial encoder from another run."""

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any, Self

import jax
import optax
from ml_collections import ConfigDict

from imae_jax import optim
from imae_jax.data.augment import random_erasing
from imae_jax.data.dataset import Dataset
from imae_jax.data.randaugment import rand_augment
from imae_jax.errors import UserError, require
from imae_jax.models.classifier import Classifier
from imae_jax.models.mae import MAE
from imae_jax.objectives import losses
from imae_jax.objectives.base import Augmentation, Metrics, Objective, step_keys
from imae_jax.objectives.mixup import mixup_cutmix

logger = logging.getLogger(__name__)

# Keys required for full training, and not allowed for a linear probe.
OF_FULL_TRAINING = (
    "mixup",
    "augment.randaugment",
    "augment.erasing",
    "model.drop_path",
    "optim.betas",
    "optim.weight_decay",
    "optim.clip_norm",
    "optim.layer_decay",
    "optim.ema_decay",
)


@dataclasses.dataclass(frozen=True, eq=False)
class ClassificationObjective(Objective):
    """Supervised classification of whole, unmasked images.

    Augments in timm's order: crop, shift and flip, RandAugment, erasing, mixup.

    Attributes:
      model: the classifier.
      augmentation: crops and flips.
      randaugment, erasing: options of `rand_augment` and `random_erasing`, or None.
      mixup: options of `mixup_cutmix`, or None (no mixing, no label smoothing).
    """

    title = "a classifier"
    needs = frozenset({"model.mode"})
    is_labelled = True

    model: Classifier
    augmentation: Augmentation
    randaugment: Mapping | None = None
    erasing: Mapping | None = None
    mixup: Mapping | None = None

    @classmethod
    def from_config(
        cls,
        config: ConfigDict,
        model: Classifier,
        teacher: MAE | None,
        augmentation: Augmentation,
    ) -> Self:
        """See `Objective`."""
        section = config.augment
        return cls(
            model,
            augmentation,
            section.get("randaugment"),
            section.get("erasing"),
            config.get("mixup"),
        )

    def draw(self, batch: Any, step: jax.Array, seed: jax.Array) -> Any:
        """See `Objective`."""
        images, labels = batch
        names = ("augment", "randaugment", "erasing", "mixup", "drop_path")
        keys = step_keys(seed, step, *names)
        images = self.augmentation(keys["augment"], images)
        if self.randaugment and self.randaugment["num_ops"]:
            options = dict(self.randaugment, fill=self.augmentation.mean)
            images = rand_augment(keys["randaugment"], images, **options)
        images = self.augmentation.normalize(images)
        if self.erasing and self.erasing["probability"]:
            images = random_erasing(keys["erasing"], images, **self.erasing)
        num_classes = self.model.num_classes
        if self.mixup:
            options = dict(self.mixup, num_classes=num_classes)
            images, targets = mixup_cutmix(keys["mixup"], images, labels, **options)
        else:
            targets = jax.nn.one_hot(labels, num_classes)
        return images, targets, jax.random.split(keys["drop_path"], len(images))

    def loss(
        self, params: Any, batch_stats: Any, teacher_params: Any, examples: Any
    ) -> tuple[jax.Array, tuple[Metrics, Any]]:
        """See `Objective`."""
        images, targets, keys = examples
        logits, changed = self.model.apply(
            {"params": params, "batch_stats": batch_stats},
            images,
            is_training=True,
            rngs={"drop_path": keys[0]},  # differs between microbatches
            mutable=["batch_stats"],
        )
        total, metrics = losses.classification_losses(logits, targets)
        return total, (metrics, changed.get("batch_stats", {}))

    @staticmethod
    def check(config: ConfigDict, dataset: Dataset) -> None:
        """See `Objective`."""
        check_mode(config)
        count = len(dataset.class_names)
        if count < 2:
            raise UserError(
                f"data.name={config.data.name!r}: the images are of {count or 'no'} class; "
                "a classifier needs labels of at least two"
            )
        pools, mode = tuple(config.model.pools), config.model.mode
        require(bool(pools), "model.pools", pools, "one of class_token and mean, or both")
        fits = len(pools) == 1 or mode == "linear"
        require(fits, "model.pools", pools, "a single one where the encoder is trained too")
        if mode == "linear":
            allowed = "1: a probe's BatchNorm sees whole batches"
            accumulate = config.train.accumulate
            require(accumulate == 1, "train.accumulate", accumulate, allowed)
            return
        allowed = "False with model.drop_path: the blocks of a loop draw nothing"
        scan = config.compute.scan
        require(not (scan and config.model.drop_path), "compute.scan", scan, allowed)

    @staticmethod
    def optimizer(
        config: ConfigDict, model: Classifier, schedule: optax.Schedule
    ) -> optax.GradientTransformation:
        """Makes LARS for a probe's heads, else AdamW with layer decay."""
        section = config.optim
        if model.is_probe:
            return optim.heads_only(optim.lars(schedule))
        return optim.finetuning(
            Objective.optimizer(config, model, schedule),
            depth=model.encoder_size.depth,
            layer_decay=section.layer_decay,
            ema_decay=section.ema_decay,
        )

    @staticmethod
    def starting_params(like: Mapping, loaded: Mapping, source: str) -> Mapping:
        """Returns the encoder only, and logs which parameters are unused and new."""
        encoder = dict(loaded["encoder"])
        unused = sorted(loaded.keys() - {"encoder"})
        # Mean pooling precedes the final LayerNorm, which is then unused.
        blocks = encoder["transformer"]
        if "norm" not in like["encoder"]["transformer"] and "norm" in blocks:
            encoder["transformer"] = {k: v for k, v in blocks.items() if k != "norm"}
            unused.append("encoder/transformer/norm")
        found = Objective.starting_params(
            {"encoder": like["encoder"]}, {"encoder": encoder}, f"the encoder of {source}"
        )
        new = ", ".join(sorted(like.keys() - {"encoder"}))
        logger.info(f"{source}: encoder loaded; not used: {', '.join(unused)}; new: {new}")
        return found

    @staticmethod
    def may_accumulate(config: ConfigDict) -> bool:
        """True unless it is a probe, whose BatchNorm sees whole batches."""
        return config.model.mode != "linear"

    @staticmethod
    def needs_init(config: ConfigDict) -> bool:
        """True unless it is trained from scratch."""
        return config.model.mode != "scratch"


def _has(config: ConfigDict, key: str) -> bool:
    for part in key.split("."):
        if part not in config:
            return False
        config = config[part]
    return True


def check_mode(config: ConfigDict) -> None:
    """Raises UserError unless the keys and `init` fit `model.mode`."""
    mode = config.model.mode
    for key in OF_FULL_TRAINING:
        if _has(config, key) == (mode == "linear"):
            what = "has no use for" if mode == "linear" else "needs"
            raise UserError(
                f"model.mode={mode!r} {what} {key}; choose the mode where the config is "
                f"named: --config=configs/transfer.py:DATASET,{mode}"
            )
    if mode == "scratch":
        allowed = "empty: model.mode='scratch' starts from random weights"
        require(not config.init, "init", config.init, allowed)
    elif not config.init:
        raise UserError(
            f"init is empty, but model.mode={mode!r} needs an encoder: give the workdir of "
            "a MAE, i-MAE or classifier run"
        )
