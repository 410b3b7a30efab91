"""What the config of a classifier may say, checked before anything is compiled."""

from collections.abc import Iterable

from ml_collections import ConfigDict

from imae_jax.data.load import Dataset
from imae_jax.data.randaugment import MAX_MAGNITUDE
from imae_jax.errors import UserError, require
from imae_jax.models.classifier import MODES, POOLS

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
