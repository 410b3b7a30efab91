"""Rules for single keys of a run's config.

`RULES` are applied once, before data are opened; `checks` has the conditions on several
keys. Rules for an evaluator's options are defined with the evaluator.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from imae_jax.data.augment import PAD_MODES
from imae_jax.data.encoded_images import parse_size
from imae_jax.data.pixel_formats import is_colour
from imae_jax.data.randaugment import MAX_MAGNITUDE
from imae_jax.errors import UserError, require
from imae_jax.models.branches import NUM_SOURCES
from imae_jax.models.classifier import MODES, POOLS
from imae_jax.models.layers import ATTENTIONS, AUTO, DTYPES, REMATS
from imae_jax.models.mae import DECODER_ATTENTIONS
from imae_jax.objectives.mask_kinds import MASK_KINDS
from imae_jax.objectives.select import OBJECTIVES
from imae_jax.storage.trackers import TRACKERS


class Rule(NamedTuple):
    """Allowed values of a key.

    Attributes:
      allows: returns True for allowed values; accepts any type.
      allowed: describes the allowed values, after "must be".
    """

    allows: Callable[[Any], bool]
    allowed: str


def is_number(value: Any) -> bool:
    """True for a finite real number that is not a bool."""
    if is_count(value):
        return abs(value) < 2**63  # a larger one may not even become a float
    return isinstance(value, float) and math.isfinite(value)


def is_count(value: Any) -> bool:
    """True for an int that is not a bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def at_least(low: float) -> Rule:
    """Allows finite numbers of at least `low`."""
    return Rule(lambda x: is_number(x) and x >= low, f"at least {low:g}")


def count_from(low: int) -> Rule:
    """Allows whole numbers of at least `low` that JAX's int32 holds."""
    allowed = f"a whole number below 2**31, at least {low}"
    return Rule(lambda x: is_count(x) and low <= x < 2**31, allowed)


def above(low: float) -> Rule:
    """Allows finite numbers above `low`."""
    return Rule(lambda x: is_number(x) and x > low, f"above {low:g} and finite")


def within(text: str) -> Rule:
    """Allows numbers in an interval, such as "[0, 1)" or "(0, 0.5]"."""
    low, high = map(float, text[1:-1].split(","))

    def allows(x: Any) -> bool:
        is_above = is_number(x) and (x > low or (x == low and text[0] == "["))
        return is_above and (x < high or (x == high and text[-1] == "]"))

    return Rule(allows, f"in {text}")


def one_of(*values: Any) -> Rule:
    """Allows the given values."""
    *first, last = map(repr, values)
    return Rule(lambda x: x in values, f"{', '.join(first)} or {last}")


def unset_or(rule: Rule) -> Rule:
    """Allows None and whatever `rule` allows."""
    return Rule(lambda x: x is None or rule.allows(x), f"{rule.allowed}, or unset")


def two_numbers(text: str, allows: Callable[[float, float], bool]) -> Rule:
    """Allows pairs of finite numbers for which `allows` holds; `text` describes them."""

    def is_pair(x: Any) -> bool:
        is_sequence = isinstance(x, list | tuple) and len(x) == 2
        return is_sequence and all(map(is_number, x)) and allows(*x)

    return Rule(is_pair, f"two numbers, {text}")


def some_of(*known: str) -> Rule:
    """Allows sequences of known names without repetition."""

    def allows(values: Any) -> bool:
        if not isinstance(values, list | tuple):
            return False
        return set(values) <= set(known) and len(set(values)) == len(values)

    return Rule(allows, f"some of {', '.join(known)}, each once")


def _is_size(value: Any) -> bool:
    try:
        return bool(parse_size(value, ""))
    except UserError:
        return False


flag = one_of(True, False)
text = Rule(lambda x: isinstance(x, str), "text")
folder = Rule(lambda x: isinstance(x, str) and x != "", "a folder; '.' is the current one")
fraction = within("[0, 1]")
_box = two_numbers("0 < low <= high <= 1", lambda low, high: 0 < low <= high <= 1)
_colour = "a colour, such as 'white', '#8080ff' or 'rgb(128, 128, 255)'"

# Keys that a config does not have are skipped.
RULES = {
    "augment.crop_scale": Rule(
        lambda x: x in ((), []) or _box.allows(x), f"() or {_box.allowed}"
    ),
    "augment.erasing.area": _box,
    "augment.erasing.probability": fraction,
    "augment.erasing.ratio": two_numbers("0 < low <= high", lambda a, b: 0 < a <= b),
    "augment.flip": flag,
    "augment.pad": count_from(0),
    "augment.pad_mode": one_of(*PAD_MODES),
    "augment.randaugment.magnitude": within(f"[0, {MAX_MAGNITUDE:g}]"),
    "augment.randaugment.magnitude_std": at_least(0),
    "augment.randaugment.num_ops": count_from(0),
    "augment.randaugment.probability": fraction,
    "checkpoint.every_minutes": at_least(0),
    "checkpoint.every_steps": count_from(0),
    "checkpoint.keep": count_from(1),
    "checkpoint.keep_best": count_from(0),
    "compute.attention": one_of(*ATTENTIONS),
    "compute.dtype": one_of(AUTO, *DTYPES),
    "compute.remat": one_of(*REMATS),
    "compute.scan": flag,
    "data.dir": folder,
    "data.evaluate_on.test": unset_or(count_from(2)),
    "data.evaluate_on.train": unset_or(count_from(2)),
    "data.evaluate_on.validation": unset_or(count_from(2)),
    "data.feed": one_of("auto", "resident", "streaming"),
    "data.files.background": unset_or(
        Rule(lambda x: isinstance(x, str) and is_colour(x), _colour)
    ),
    "data.files.centre": within("(0, 1]"),
    "data.files.channels": Rule((1, 3).__contains__, "1 (grey) or 3 (RGB)"),
    "data.files.image_size": Rule(_is_size, "HEIGHT or HEIGHTxWIDTH, each at least 1"),
    "data.files.label_maps": text,
    "data.name": text,
    "data.on_bad_image": one_of("raise", "skip"),
    "data.prefetch": count_from(1),
    "data.resident_gb": at_least(0),
    "data.sharded": flag,
    "init": text,
    "log.every_steps": count_from(1),
    "log.pictures_every": at_least(0),
    "log.to": some_of(*TRACKERS),
    "loss.branches": one_of("both", "subordinate"),
    "loss.contrast_temperature": above(0),
    "loss.contrast_weight": at_least(0),
    "loss.distill_weight": at_least(0),
    "loss.norm_pix": flag,
    "loss.predict_fraction": within("(0, 1]"),
    "loss.uniformity_weight": at_least(0),
    "mask.content_weight": Rule(is_number, "a finite number"),
    "mask.kind": one_of(*MASK_KINDS),
    "mask.ratio": within("[0, 1)"),
    "mesh.fsdp": Rule(is_count, "a whole number"),
    "mix.alpha": unset_or(within("(0, 0.5]")),
    "mix.clean_fraction": within("[0, 1)"),
    "mix.per_batch": flag,
    "mix.same_class_rate": unset_or(fraction),
    "mix.shared_mask": flag,
    "mix.sources": one_of(*NUM_SOURCES),
    "mixup.cutmix_alpha": at_least(0),
    "mixup.mixup_alpha": at_least(0),
    "mixup.smoothing": fraction,
    "mixup.switch_probability": fraction,
    "model.decoder.attention": one_of(*DECODER_ATTENTIONS),
    "model.decoder.depth": count_from(1),
    "model.decoder.heads": count_from(1),
    "model.decoder.width": count_from(1),
    "model.drop_path": within("[0, 1)"),
    "model.encoder.depth": unset_or(count_from(1)),
    "model.encoder.heads": unset_or(count_from(1)),
    "model.encoder.width": unset_or(count_from(1)),
    "model.mode": one_of(*MODES),
    "model.name": one_of(*OBJECTIVES),
    "model.pools": some_of(*POOLS),
    "model.variant": text,
    "optim.betas": two_numbers("in [0, 1)", lambda a, b: 0 <= min(a, b) <= max(a, b) < 1),
    "optim.blr": above(0),
    "optim.clip_norm": unset_or(above(0)),
    "optim.ema_decay": unset_or(within("(0, 1)")),
    "optim.layer_decay": within("(0, 1]"),
    "optim.max_skipped": count_from(1),
    "optim.min_lr": at_least(0),
    "optim.warmup_epochs": unset_or(at_least(0)),
    "optim.warmup_examples": unset_or(at_least(0)),
    "optim.warmup_fraction": unset_or(at_least(0)),
    "optim.warmup_steps": unset_or(count_from(0)),
    "optim.weight_decay": at_least(0),
    "seed": Rule(lambda x: is_count(x) and 0 <= x < 2**32, "at least 0, and below 2**32"),
    "teacher.init": text,
    "teacher.input": one_of("image", "mixture"),
    "train.accumulate": count_from(1),
    "train.batch_size": count_from(2),
    "train.steps_per_dispatch": count_from(1),
    "train.total_epochs": unset_or(at_least(0)),
    "train.total_examples": unset_or(at_least(0)),
    "train.total_steps": unset_or(count_from(0)),
}


def hold(config: ConfigDict, rules: Mapping[str, Rule], prefix: str = "") -> None:
    """Checks the keys that exist against their rules.

    Args:
      config: a run's config, or a section of it.
      rules: by dotted key, such as `optim.blr`.
      prefix: put before the key in messages.
    Raises:
      UserError: for the first key that breaks its rule.
    """
    for key, rule in rules.items():
        value = config
        for part in key.split("."):
            if not hasattr(value, "keys") or part not in value:
                break
            value = value[part]
        else:
            require(rule.allows(value), prefix + key, value, rule.allowed)
