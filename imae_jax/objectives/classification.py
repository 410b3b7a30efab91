"""Training a classifier: its augmentation and loss, and the encoder it starts from."""

from collections.abc import Iterable, Mapping

import jax
from ml_collections import ConfigDict

from imae_jax.data import augment
from imae_jax.data.load import Dataset
from imae_jax.data.randaugment import MAX_MAGNITUDE, rand_augment
from imae_jax.errors import UserError, require
from imae_jax.models.classifier import MODES, POOLS, Classifier
from imae_jax.objectives import losses
from imae_jax.objectives.base import Loss, step_keys
from imae_jax.objectives.mixup import mixup_cutmix
from imae_jax.storage import pytrees

# What a linear probe has no use for, and full training needs.
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


def make_loss(
    model: Classifier,
    *,
    mean: jax.Array,
    std: jax.Array,
    pad: int,
    flip: bool,
    crop_scale: tuple[float, float] | tuple[()],
    randaugment: Mapping | None = None,
    erasing: Mapping | None = None,
    mixup: Mapping | None = None,
) -> Loss:
    """The loss of a classifier, on images [B, H, W, C] uint8 with their labels [B].

    Everything is drawn with keys that are a function of (seed, step) alone, in timm's
    order: crop, shift and flip, RandAugment, erasing, mixup.

    Args:
      model: the classifier; it sees all patches.
      mean, std, pad, flip, crop_scale: see `base.make_loss`.
      randaugment, erasing: options of `rand_augment` and `augment.random_erasing`; without
        them, or where they would do nothing, not done.
      mixup: options of `mixup_cutmix`; without them labels are neither mixed nor smoothed.
    """

    def draw(batch, step, seed):
        images, labels = batch
        names = ("augment", "randaugment", "erasing", "mixup", "drop_path")
        keys = step_keys(seed, step, *names)
        images = augment.augment(keys["augment"], images, pad, flip, crop_scale)
        if randaugment and randaugment["num_ops"]:
            options = dict(randaugment, fill=mean)
            images = rand_augment(keys["randaugment"], images, **options)
        images = augment.standardise(images, mean, std)
        if erasing and erasing["probability"]:
            images = augment.random_erasing(keys["erasing"], images, **erasing)
        if mixup:
            images, targets = mixup_cutmix(
                keys["mixup"], images, labels, num_classes=model.num_classes, **mixup
            )
        else:
            targets = jax.nn.one_hot(labels, model.num_classes)
        return images, targets, jax.random.split(keys["drop_path"], len(images))

    def of(params, batch_stats, teacher_params, examples):
        del teacher_params
        images, targets, keys = examples
        logits, changed = model.apply(
            {"params": params, "batch_stats": batch_stats},
            images,
            is_training=True,
            rngs={"drop_path": keys[0]},  # each part of a batch has another first one
            mutable=["batch_stats"],
        )
        total, metrics = losses.classification_losses(logits, targets)
        return total, (metrics, changed.get("batch_stats", {}))

    return Loss(draw, of)


def pretrained_encoder(like: Mapping, loaded: Mapping, source: str) -> dict:
    """The encoder of a run, for a classifier; says what is not used and what is new.

    Args:
      like: the classifier's parameters, or what they look like.
      loaded: those of a MAE, an i-MAE or a classifier.
      source: which run they are of, for messages.
    Returns:
      `{"encoder": ...}`, copied: the state will be donated.
    Raises:
      UserError: if it does not fit, with each difference.
    """
    encoder = dict(loaded["encoder"])
    unused = sorted(loaded.keys() - {"encoder"})
    # A mean of tokens before the final LayerNorm has no use for it.
    if "norm" not in like["encoder"]["transformer"] and "norm" in encoder["transformer"]:
        blocks = {k: v for k, v in encoder["transformer"].items() if k != "norm"}
        encoder["transformer"] = blocks
        unused.append("encoder/transformer/norm")
    pytrees.check_same_tree(
        {"encoder": like["encoder"]}, {"encoder": encoder}, f"the encoder of {source}"
    )
    new = ", ".join(sorted(like.keys() - {"encoder"}))
    print(
        f"{source}: encoder loaded; not used: {', '.join(unused)}; new: {new}", flush=True
    )
    return {"encoder": jax.tree.map(lambda x: x.copy(), encoder)}


def _has(config: ConfigDict, key: str) -> bool:
    for part in key.split("."):
        if part not in config:
            return False
        config = config[part]
    return True


def check_mode(config: ConfigDict) -> None:
    """The mode, the keys that come with it, and where the weights start."""
    mode = config.model.mode
    require(mode in MODES, "model.mode", mode, f"one of {', '.join(MODES)}")
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


def check_classes(config: ConfigDict, dataset: Dataset) -> None:
    """Raises UserError unless there are classes to tell apart."""
    count = len(dataset.class_names)
    if count < 2:
        raise UserError(
            f"data.name={config.data.name!r}: the images are of {count or 'no'} class; a "
            "classifier needs labels of at least two"
        )


def check_pools(config: ConfigDict) -> None:
    """One or more for a probe, else one."""
    pools = tuple(config.model.pools)
    known = bool(pools) and set(pools) <= set(POOLS) and len(set(pools)) == len(pools)
    require(known, "model.pools", pools, f"one or both of {', '.join(POOLS)}")
    fits = len(pools) == 1 or config.model.mode == "linear"
    require(fits, "model.pools", pools, "a single one where the encoder is trained too")


def _check_share(section: ConfigDict, key: str, name: str) -> None:
    value = section[name]
    require(0 <= value <= 1, f"{key}.{name}", value, "in [0, 1]")


def _check_range(values: Iterable[float], key: str, most: float, allowed: str) -> None:
    values = tuple(values)
    fits = len(values) == 2 and all(isinstance(x, float | int) for x in values)
    fits = fits and 0 < values[0] <= values[1] <= most
    require(fits, key, values, f"two numbers, {allowed}")


def check_full_training(config: ConfigDict) -> None:
    """What regularises the training of a whole network, and its optimiser."""
    drop = config.model.drop_path
    require(0 <= drop < 1, "model.drop_path", drop, "in [0, 1)")
    allowed = "False with model.drop_path: the blocks of a loop draw nothing"
    scan = config.compute.scan
    require(not (scan and drop), "compute.scan", scan, allowed)
    decay = config.optim.layer_decay
    require(0 < decay <= 1, "optim.layer_decay", decay, "in (0, 1]")
    ema = config.optim.ema_decay
    require(ema is None or 0 < ema < 1, "optim.ema_decay", ema, "in (0, 1), or unset")

    mixup = config.mixup
    for name in ("mixup_alpha", "cutmix_alpha"):
        require(mixup[name] >= 0, f"mixup.{name}", mixup[name], "0 or more")
    for name in ("switch_probability", "smoothing"):
        _check_share(mixup, "mixup", name)

    operations, key = config.augment.randaugment, "augment.randaugment"
    for name in ("num_ops", "magnitude_std"):
        require(operations[name] >= 0, f"{key}.{name}", operations[name], "0 or more")
    size, largest = operations.magnitude, MAX_MAGNITUDE
    require(0 <= size <= largest, f"{key}.magnitude", size, f"in [0, {largest:g}]")
    _check_share(operations, key, "probability")

    erasing, key = config.augment.erasing, "augment.erasing"
    _check_share(erasing, key, "probability")
    _check_range(erasing.area, f"{key}.area", 1, "0 < low <= high <= 1")
    _check_range(erasing.ratio, f"{key}.ratio", float("inf"), "0 < low <= high")


def check(config: ConfigDict, dataset: Dataset) -> None:
    """Checks what only the config of a classifier has.

    Raises:
      UserError: naming the key, its value and what is allowed.
    """
    check_mode(config)
    check_classes(config, dataset)
    check_pools(config)
    if config.model.mode != "linear":
        check_full_training(config)
    else:
        parts, allowed = (
            config.train.accumulate,
            "1: a probe's BatchNorm sees whole batches",
        )
        require(parts == 1, "train.accumulate", parts, allowed)
