"""Checks of a run's config across keys, before anything is compiled."""

from ml_collections import ConfigDict

from imae_jax.config.rules import RULES, hold
from imae_jax.data.dataset import Dataset
from imae_jax.errors import UserError, require
from imae_jax.models.branches import PAIR
from imae_jax.models.patches import grid_size
from imae_jax.models.transformer import check_size, decode_variant
from imae_jax.objectives.select import OBJECTIVES, group_size
from imae_jax.optim import run_steps
from imae_jax.storage import pytrees
from imae_jax.storage.local_paths import check_paths


def check_keys(config: ConfigDict) -> None:
    """Checks every key of a run's config against its rule.

    Raises:
      UserError: for the first key that breaks its rule, for a URL in place of a path, and
        if the config does not describe a run (such as a demo's).
    """
    for section in ("data", "model", "train", "optim"):
        if section not in config:
            raise UserError(f"--config describes no run: it has no section {section!r}")
    check_paths(config)
    hold(config, RULES)
    patch_size(config)
    _check_kind(config)


def _check_kind(config: ConfigDict) -> None:
    """Raises UserError unless `model.name` is the kind of run that the keys describe."""
    keys, name = pytrees.flatten(config.to_dict()), config.model.name
    needs = {name: kind.needs for name, kind in OBJECTIVES.items()}
    if lacking := [key for key in sorted(needs[name]) if key not in keys]:
        raise UserError(
            f"invalid model.name={name!r}: the config has no {' and no '.join(lacking)}; "
            "take the config file of that kind of run"
        )
    # An i-MAE's config has all that a MAE's has, and more.
    fits = [name for name in needs if needs[name] <= keys.keys()]
    kind = max(fits, key=lambda name: len(needs[name]))
    require(name == kind, "model.name", name, f"{kind!r}: the config's keys are its")


def patch_size(config: ConfigDict) -> int:
    """Returns the patch size p; raises UserError for an unknown variant."""
    try:
        return decode_variant(config.model.variant)[1]
    except ValueError as error:
        raise UserError(f"model.variant: {error}") from None


def check_model(config: ConfigDict, image_shape: tuple[int, int, int]) -> None:
    """Raises UserError unless the encoder's size is valid and patches fit the image."""
    size, patch = decode_variant(config.model.variant)
    given = {k: v for k, v in config.model.encoder.items() if v is not None}
    check_size(size._asdict() | given, "model.encoder")
    try:
        grid_size(image_shape[:2], patch)
    except ValueError as error:
        raise UserError(
            f"model.variant={config.model.variant!r} does not fit "
            f"{config.data.name}: {error}"
        ) from None


def check_compute(config: ConfigDict, platform: str) -> None:
    """Raises UserError unless `compute` fits the platform ("cpu", "gpu" or "tpu")."""
    section = config.compute
    if section.attention == "cudnn":
        possible = platform == "gpu" and section.dtype == "bfloat16"
        allowed = "'xla', except on an NVIDIA GPU in bfloat16"
        require(possible, "compute.attention", section.attention, allowed)


def check_mesh(fsdp: int, num_devices: int) -> None:
    """Raises UserError unless the devices divide into groups of `fsdp`."""
    divisors = [n for n in range(1, num_devices + 1) if num_devices % n == 0]
    allowed = f"-1 (all), or a divisor of the {num_devices} devices: "
    allowed += ", ".join(map(str, divisors))
    require(fsdp == -1 or fsdp in divisors, "mesh.fsdp", fsdp, allowed)


def check_batch(
    batch_size: int, key: str, num_devices: int, parts: int = 1, group_size: int = PAIR
) -> None:
    """Raises UserError unless every device gets whole groups in every microbatch.

    Args:
      batch_size: B.
      key: config key, for messages.
      num_devices: number of devices that a batch is split over.
      parts: number of microbatches.
      group_size: number of images that stay together.
    """
    pairs, multiple = "pairs", "even and at least 2"
    if group_size != PAIR:
        pairs, multiple = f"groups of {group_size}", f"a multiple of {group_size}"
    require(
        batch_size >= group_size and batch_size % group_size == 0,
        key,
        batch_size,
        f"{multiple}: images are fed in {pairs}",
    )
    in_each = f", in each of {parts} parts (train.accumulate)" if parts > 1 else ""
    divisor = group_size * num_devices * parts
    require(
        batch_size % divisor == 0,
        key,
        batch_size,
        f"divisible by {divisor}: whole {pairs} on each of {num_devices} devices{in_each}",
    )


def check_enough(batch_size: int, num_examples: int, least: int) -> None:
    """Raises UserError if a batch exceeds the train split.

    Args:
      batch_size: B.
      num_examples: number of images in the train split.
      least: smallest batch, a group on each device in each microbatch.
    """
    largest = num_examples // least * least
    allowed = f"at most {largest}: the train split holds {num_examples:,} images"
    if not largest:
        allowed = (
            f"at least {least}, and the train split holds {num_examples:,} images: "
            "take fewer devices, a smaller train.accumulate, or more images"
        )
    require(batch_size <= num_examples, "train.batch_size", batch_size, allowed)


def check_training(config: ConfigDict, num_examples: int, num_devices: int) -> None:
    """Raises UserError unless batch, number of steps and learning rates fit each other."""
    batch_size, accumulate = config.train.batch_size, config.train.accumulate
    size = group_size(config)
    check_batch(batch_size, "train.batch_size", num_devices, accumulate, size)
    check_enough(batch_size, num_examples, size * num_devices * accumulate)
    run_steps(config, num_examples)
    peak, min_lr = config.optim.blr * batch_size / 256, config.optim.min_lr
    below = f"0 or more, and less than the peak rate of {peak:g}"
    require(min_lr < peak, "optim.min_lr", min_lr, below)


def check_pictures(config: ConfigDict) -> None:
    """Raises UserError unless pictures, if wanted, have an alpha and a place to go."""
    every = config.log.get("pictures_every") or 0.0  # a classifier has none
    key, to = "log.pictures_every", tuple(config.log.to)
    require(not every or bool(to), key, every, f"0 with log.to={to}: they go only there")
    allowed = "0 without the section evals.reconstruction, whose alpha and seed they have"
    require(not every or "reconstruction" in config.evals, key, every, allowed)


def check(config: ConfigDict, dataset: Dataset, num_devices: int, platform: str) -> None:
    """Checks that the keys of a config fit each other, its data set and its devices.

    Args:
      config: a run's config, whose single keys have been checked.
      dataset: its data set.
      num_devices: number of devices.
      platform: "cpu", "gpu" or "tpu".
    Raises:
      UserError: naming the key, its value and what is allowed.
    """
    check_model(config, dataset.image_shape)
    check_compute(config, platform)
    OBJECTIVES[config.model.name].check(config, dataset)
    has_teacher = "teacher" in config and config.teacher.init
    if config.init == "teacher" and not has_teacher:
        raise UserError(
            "init='teacher' needs an i-MAE and teacher.init, the workdir of a MAE run"
        )
    check_training(config, dataset.sizes["train"], num_devices)
    check_pictures(config)
