"""What a config may say, checked before anything is compiled."""

import math

from ml_collections import ConfigDict

from imae_jax.data.encoded_images import parse_size
from imae_jax.data.load import Dataset
from imae_jax.data.pixel_formats import is_colour
from imae_jax.errors import UserError, require
from imae_jax.models.layers import ATTENTIONS, AUTO, DTYPES, REMATS
from imae_jax.models.masking import num_visible
from imae_jax.models.patches import grid_size
from imae_jax.models.transformer import decode_variant
from imae_jax.objectives.imae import check_mixtures
from imae_jax.optim import run_steps
from imae_jax.storage.local_paths import check_paths


def _check_transformer(size, section: str) -> None:
    for name in ("width", "depth", "heads"):
        key, value = f"model.{section}.{name}", size[name]
        require(value >= 1, key, value, "at least 1")
    width, heads = size["width"], size["heads"]
    require(
        width % heads == 0 and width % 4 == 0,
        f"model.{section}.width",
        width,
        f"divisible by 4 (positions) and by the number of heads, {heads}",
    )


def patch_size(config: ConfigDict) -> int:
    """p; raises UserError for an unknown variant."""
    try:
        return decode_variant(config.model.variant)[1]
    except ValueError as error:
        raise UserError(f"model.variant: {error}") from None


def check_data(config: ConfigDict) -> None:
    """What is said about the data set, before it is opened."""
    data = config.data
    choices = "'auto', 'resident' or 'streaming'"
    known = data.feed in ("auto", "resident", "streaming")
    require(known, "data.feed", data.feed, choices)
    known = data.on_bad_image in ("raise", "skip")
    require(known, "data.on_bad_image", data.on_bad_image, "'raise' or 'skip'")
    gigabytes = data.resident_gb
    require(gigabytes >= 0, "data.resident_gb", gigabytes, "0 or more")
    require(data.prefetch >= 1, "data.prefetch", data.prefetch, "at least 1")
    for part, limit in data.evaluate_on.items():
        possible = limit is None or limit >= 2
        require(possible, f"data.evaluate_on.{part}", limit, "at least 2, or unset")
    check_crop_scale(config.augment.crop_scale)
    if "files" not in data:
        return
    parse_size(data.files.image_size, "data.files.image_size")
    channels = data.files.channels
    require(channels in (1, 3), "data.files.channels", channels, "1 (grey) or 3 (RGB)")
    centre = data.files.centre
    require(0 < centre <= 1, "data.files.centre", centre, "in (0, 1]")
    colour = data.files.get("background")  # runs made before there was one have none
    allowed = "a colour, such as 'white', '#8080ff' or 'rgb(128, 128, 255)'"
    known = colour is None or is_colour(colour)
    require(known, "data.files.background", colour, allowed)


def check_model(config: ConfigDict, image_shape: tuple[int, int, int]) -> None:
    """Sizes: variant, widths, and whether patches fit the image."""
    patch = patch_size(config)
    size, _ = decode_variant(config.model.variant)
    given = {k: v for k, v in config.model.encoder.items() if v is not None}
    _check_transformer(size._asdict() | given, "encoder")
    try:
        rows, columns = grid_size(image_shape[:2], patch)
    except ValueError as error:
        raise UserError(
            f"model.variant={config.model.variant!r} does not fit "
            f"{config.data.name}: {error}"
        ) from None
    if config.model.name == "classifier":
        return
    _check_transformer(config.model.decoder, "decoder")
    check_mask_ratio(config.mask.ratio, "mask.ratio", rows * columns)
    values = patch**2 * image_shape[2]
    require(
        values > 1 or not config.loss.norm_pix,
        "loss.norm_pix",
        config.loss.norm_pix,
        "False where a patch has one value: it has no variance",
    )


def check_compute(config: ConfigDict, platform: str) -> None:
    """Whether the platform ("cpu", "gpu", "tpu") can compute as it is told to."""
    section = config.compute
    types = (AUTO, *DTYPES)
    for name, known in (("dtype", types), ("attention", ATTENTIONS), ("remat", REMATS)):
        choices = " or ".join(map(repr, known))
        require(section[name] in known, f"compute.{name}", section[name], choices)
    if section.attention == "cudnn":
        possible = platform == "gpu" and section.dtype == "bfloat16"
        allowed = "'xla', except on an NVIDIA GPU in bfloat16"
        require(possible, "compute.attention", section.attention, allowed)


def check_mask_ratio(ratio: float, key: str, num_patches: int) -> None:
    """Raises UserError unless it leaves a patch and removes one."""
    require(0 <= ratio < 1, key, ratio, "in [0, 1)")
    try:
        visible = num_visible(num_patches, ratio)
    except ValueError as error:
        raise UserError(f"{key}={ratio!r}: {error}") from None
    require(
        visible < num_patches,
        key,
        ratio,
        f"large enough to remove at least one of {num_patches} patches",
    )


def check_mesh(fsdp: int, num_devices: int) -> None:
    """Raises UserError unless equal groups of devices can share a copy."""
    divisors = [n for n in range(1, num_devices + 1) if num_devices % n == 0]
    allowed = f"-1 (all), or a divisor of the {num_devices} devices: "
    allowed += ", ".join(map(str, divisors))
    require(fsdp == -1 or fsdp in divisors, "mesh.fsdp", fsdp, allowed)


def check_batch(batch_size: int, key: str, num_devices: int, parts: int = 1) -> None:
    """Raises UserError unless whole pairs of every part fall on every device."""
    require(
        batch_size >= 2 and batch_size % 2 == 0,
        key,
        batch_size,
        "even and at least 2: images are fed in pairs",
    )
    in_parts = f", in each of {parts} parts (train.accumulate)" if parts > 1 else ""
    divisor = 2 * num_devices * parts
    require(
        batch_size % divisor == 0,
        key,
        batch_size,
        f"divisible by {divisor}: whole pairs on each of {num_devices} devices{in_parts}",
    )


def check_enough(batch_size: int, num_examples: int, parts: int) -> None:
    """Raises UserError if a batch, of `parts` of whole pairs, exceeds the train split."""
    largest = num_examples // (2 * parts) * (2 * parts)
    allowed = f"at most {largest}: the train split holds {num_examples:,} images"
    if not largest:
        allowed = (
            f"at least {2 * parts}, and the train split holds {num_examples:,} images: "
            "take fewer devices, a smaller train.accumulate, or more images"
        )
    require(batch_size <= num_examples, "train.batch_size", batch_size, allowed)


def check_crop_scale(scale: tuple) -> None:
    """Raises UserError unless it is empty or a range of shares of the area."""
    numbers = all(isinstance(share, float | int) for share in scale)
    in_order = numbers and len(scale) == 2 and 0 < scale[0] <= scale[1] <= 1
    allowed = "() or two numbers, 0 < low <= high <= 1"
    require(not scale or in_order, "augment.crop_scale", scale, allowed)


def check_training(config: ConfigDict, num_examples: int, num_devices: int) -> None:
    """Batch, optimiser and everything that only says how a run is kept and logged."""
    accumulate = config.train.accumulate
    require(accumulate >= 1, "train.accumulate", accumulate, "at least 1")
    batch_size = config.train.batch_size
    check_batch(batch_size, "train.batch_size", num_devices, accumulate)
    check_enough(batch_size, num_examples, num_devices * accumulate)
    run_steps(config, num_examples)
    optim = config.optim
    require(0 < optim.blr < math.inf, "optim.blr", optim.blr, "above 0 and finite")
    peak = optim.blr * batch_size / 256
    below = f"0 or more, and less than the peak rate of {peak:g}"
    require(0 <= optim.min_lr < peak, "optim.min_lr", optim.min_lr, below)
    if "betas" in optim:  # LARS has none
        _check_adamw(optim)
    is_seed = 0 <= config.seed < 2**32
    require(is_seed, "seed", config.seed, "at least 0, and below 2**32")
    for key, low in (
        ("augment.pad", 0),
        ("checkpoint.every_minutes", 0),
        ("checkpoint.every_steps", 0),
        ("checkpoint.keep", 1),
        ("checkpoint.keep_best", 0),
        ("log.every_steps", 1),
        ("optim.max_skipped", 1),
        ("train.steps_per_dispatch", 1),
    ):
        value = config
        for part in key.split("."):
            value = value[part]
        require(value >= low, key, value, f"at least {low}")


def _check_adamw(optim: ConfigDict) -> None:
    betas = len(optim.betas) == 2 and all(
        isinstance(beta, float | int) and 0 <= beta < 1 for beta in optim.betas
    )
    require(betas, "optim.betas", optim.betas, "two numbers in [0, 1)")
    decay = optim.weight_decay
    require(decay >= 0, "optim.weight_decay", decay, "0 or more")
    clip = optim.clip_norm
    require(clip is None or clip > 0, "optim.clip_norm", clip, "above 0, or unset")


def check_sections(config: ConfigDict) -> None:
    """Raises UserError if the config is not a run's, such as that of a demo.

    Or if it names a file or folder by an address with a scheme.
    """
    for section in ("data", "model", "train", "optim"):
        if section not in config:
            raise UserError(f"--config describes no run: it has no section {section!r}")
    check_paths(config)


def check(config: ConfigDict, dataset: Dataset, num_devices: int, platform: str) -> None:
    """Checks a config against its data set; `objectives.classification` has a classifier's.

    Args:
      config: of a run.
      dataset: what it is trained on.
      num_devices, platform: and where; "cpu", "gpu" or "tpu".
    Raises:
      UserError: naming the key, its value and what is allowed.
    """
    check_model(config, dataset.image_shape)
    check_compute(config, platform)
    is_imae = config.model.name == "imae"
    if is_imae:
        check_mixtures(config)
    if config.init == "teacher" and not (is_imae and config.teacher.init):
        raise UserError(
            "init='teacher' needs an i-MAE and teacher.init, the workdir of a MAE run"
        )
    num_examples = dataset.sizes["train"]
    check_training(config, num_examples, num_devices)
    if is_imae and config.mix.same_class_rate is not None and not dataset.class_names:
        raise UserError(
            f"mix.same_class_rate={config.mix.same_class_rate}: the images have no classes"
        )
