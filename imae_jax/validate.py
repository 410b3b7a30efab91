"""What a config may say, checked before anything is compiled."""

import math

from ml_collections import ConfigDict

from imae_jax.data.sources import Dataset
from imae_jax.errors import UserError
from imae_jax.evaluators import EVALUATORS
from imae_jax.optim import duration_steps
from imae_jax.patches import grid_size, num_visible
from imae_jax.transformer import decode_variant


def _require(ok: bool, key: str, value, allowed: str) -> None:
    if not ok:
        raise UserError(f"{key}={value!r} is not possible: it must be {allowed}")


def _check_transformer(size, section: str) -> None:
    for name in ("width", "depth", "heads"):
        key, value = f"model.{section}.{name}", size[name]
        _require(value >= 1, key, value, "at least 1")
    width, heads = size["width"], size["heads"]
    _require(
        width % heads == 0 and width % 4 == 0,
        f"model.{section}.width",
        width,
        f"divisible by 4 (positions) and by the number of heads, {heads}",
    )


def check_model(config: ConfigDict, image_shape: tuple[int, int, int]) -> None:
    """Sizes: variant, widths, and whether patches fit the image."""
    try:
        size, patch_size = decode_variant(config.model.variant)
    except ValueError as error:
        raise UserError(f"model.variant: {error}") from None
    given = {k: v for k, v in config.model.encoder.items() if v is not None}
    _check_transformer(size._asdict() | given, "encoder")
    _check_transformer(config.model.decoder, "decoder")
    try:
        rows, columns = grid_size(image_shape[:2], patch_size)
    except ValueError as error:
        raise UserError(
            f"model.variant={config.model.variant!r} does not fit "
            f"{config.data.name}: {error}"
        ) from None
    values = patch_size**2 * image_shape[2]
    _require(
        values > 1 or not config.loss.norm_pix,
        "loss.norm_pix",
        config.loss.norm_pix,
        "False where a patch has one value: it has no variance",
    )
    _check_mask_ratio("mask.ratio", config.mask.ratio, rows * columns)


def _check_mask_ratio(key: str, ratio: float, num_patches: int) -> None:
    _require(0 <= ratio < 1, key, ratio, "in [0, 1)")
    try:
        visible = num_visible(num_patches, ratio)
    except ValueError as error:
        raise UserError(f"{key}={ratio!r}: {error}") from None
    _require(
        visible < num_patches,
        key,
        ratio,
        f"large enough to remove at least one of {num_patches} patches",
    )


def check_mixtures(config: ConfigDict) -> None:
    """What only i-MAE has: mixing, branches, teacher."""
    mix, loss, teacher = config.mix, config.loss, config.teacher
    in_range = mix.alpha is None or 0 < mix.alpha <= 0.5
    _require(in_range, "mix.alpha", mix.alpha, "in (0, 0.5], or unset to draw it")
    _require(
        mix.alpha is None or not mix.per_batch,
        "mix.per_batch",
        mix.per_batch,
        f"False where mix.alpha is fixed (it is {mix.alpha})",
    )
    choices = "'image' or 'mixture'"
    valid = teacher.input in ("image", "mixture")
    _require(valid, "teacher.input", teacher.input, choices)
    choices = "'both' or 'subordinate'"
    valid = loss.branches in ("both", "subordinate")
    _require(valid, "loss.branches", loss.branches, choices)
    weight = loss.distill_weight
    _require(weight >= 0, "loss.distill_weight", weight, "0 or more")
    if weight and not teacher.init:
        raise UserError(
            "teacher.init is empty, but distillation needs a teacher: give the workdir of "
            "a run of configs/mae.py, or set loss.distill_weight=0"
        )


def run_steps(config: ConfigDict, num_examples: int) -> tuple[int, int]:
    """Returns (total_steps, warmup_steps)."""
    batch_size = config.train.batch_size
    sizes = dict(batch_size=batch_size, num_examples=num_examples)
    total = duration_steps(config.train, "total", **sizes)
    _require(total >= 1, "train.total", total, "at least one step")
    warmup = duration_steps(config.optim, "warmup", **sizes, total_steps=total)
    _require(
        0 <= warmup < total,
        "optim.warmup",
        warmup,
        f"shorter than the run's {total} steps",
    )
    return total, warmup


def _check_batch(batch_size: int, key: str, num_devices: int) -> None:
    _require(
        batch_size >= 2 and batch_size % 2 == 0,
        key,
        batch_size,
        "even and at least 2: images are fed in pairs",
    )
    _require(
        batch_size % (2 * num_devices) == 0,
        key,
        batch_size,
        f"divisible by {2 * num_devices}: whole pairs on each of {num_devices} devices",
    )


def check_training(config: ConfigDict, num_examples: int, num_devices: int) -> None:
    """Batch, optimiser and everything that only says how a run is kept and logged."""
    _check_batch(config.train.batch_size, "train.batch_size", num_devices)
    run_steps(config, num_examples)
    optim = config.optim
    _require(0 < optim.blr < math.inf, "optim.blr", optim.blr, "above 0 and finite")
    betas = len(optim.betas) == 2 and all(
        isinstance(beta, float | int) and 0 <= beta < 1 for beta in optim.betas
    )
    _require(betas, "optim.betas", optim.betas, "two numbers in [0, 1)")
    decay = optim.weight_decay
    _require(decay >= 0, "optim.weight_decay", decay, "0 or more")
    for key, low in (
        ("seed", 0),
        ("augment.pad", 0),
        ("checkpoint.every_minutes", 0),
        ("checkpoint.every_steps", 0),
        ("checkpoint.keep", 1),
        ("log.every_steps", 1),
    ):
        value = config
        for part in key.split("."):
            value = value[part]
        _require(value >= low, key, value, f"at least {low}")


def check_sections(config: ConfigDict) -> None:
    """Raises UserError if the config is not a run's, such as that of a demo."""
    for section in ("data", "model", "train", "optim"):
        if section not in config:
            raise UserError(f"--config describes no run: it has no section {section!r}")


def check_evals(config: ConfigDict, dataset: Dataset, num_devices: int) -> None:
    """Splits, batches and weights of the evaluators and of the report's panel."""
    for name, options in config.evals.items():
        _require(name in EVALUATORS, "evals", name, f"one of {', '.join(EVALUATORS)}")
        _check_split(options.split, f"evals.{name}.split", dataset)
        _check_batch(options.batch_size, f"evals.{name}.batch_size", num_devices)
        if "alpha" in options:
            alpha = options.alpha
            _require(0 < alpha <= 0.5, f"evals.{name}.alpha", alpha, "in (0, 0.5]")
    if "explorer" in config:
        _check_explorer(config, dataset, num_devices)


def _check_split(split: str, key: str, dataset: Dataset) -> None:
    held_out = [name for name in dataset.splits if name != "train"]
    _require(split in held_out, key, split, f"one of {', '.join(held_out)}")


def _check_explorer(config: ConfigDict, dataset: Dataset, num_devices: int) -> None:
    options = config.explorer
    _check_split(options.split, "explorer.split", dataset)
    _check_batch(options.batch_size, "explorer.batch_size", num_devices)
    num_images = min(options.batch_size, len(dataset.splits[options.split].images))
    _require(
        1 <= options.pairs <= num_images // 2,
        "explorer.pairs",
        options.pairs,
        f"1 to {num_images // 2}: one batch of the split holds them all",
    )
    _require(options.seed >= 0, "explorer.seed", options.seed, "at least 0")
    for key in ("alphas", "mask_ratios"):
        values = options[key]
        is_range = all(isinstance(value, float | int) for value in values)
        is_range = is_range and list(values) == sorted(set(values)) and values
        _require(is_range, f"explorer.{key}", values, "one or more increasing numbers")
    for alpha in options.alphas:
        _require(0 < alpha <= 0.5, "explorer.alphas", alpha, "in (0, 0.5]")
    _, patch_size = decode_variant(config.model.variant)
    rows, columns = grid_size(dataset.image_shape[:2], patch_size)
    for ratio in options.mask_ratios:
        _check_mask_ratio("explorer.mask_ratios", ratio, rows * columns)


def check(config: ConfigDict, dataset: Dataset, num_devices: int) -> None:
    """Checks a whole config against its data set.

    Raises:
      UserError: naming the key, its value and what is allowed.
    """
    check_model(config, dataset.image_shape)
    is_imae = config.model.name == "imae"
    if is_imae:
        check_mixtures(config)
    if config.init == "teacher" and not (is_imae and config.teacher.init):
        raise UserError(
            "init='teacher' needs an i-MAE and teacher.init, the workdir of a MAE run"
        )
    num_examples = len(dataset.splits["train"].images)
    check_training(config, num_examples, num_devices)
    check_evals(config, dataset, num_devices)
