"""Checks of a config's `evals` and `explorer` sections."""

import inspect
from collections.abc import Mapping

from ml_collections import ConfigDict

from imae_jax.config.checks import check_batch
from imae_jax.config.rules import count_from, hold, is_count, is_number, one_of, unset_or
from imae_jax.data.eval_splits import part_indices
from imae_jax.errors import UserError, require
from imae_jax.evaluators.evaluator import Evaluator
from imae_jax.evaluators.registry import all_evaluators
from imae_jax.evaluators.sweep_checks import (
    ALPHA,
    check_alphas,
    check_mask_ratios,
    check_names_differ,
)
from imae_jax.models.branches import PAIR
from imae_jax.models.classifier import Classifier
from imae_jax.models.imae import IMAE
from imae_jax.models.mae import MAE

# Rules for the options shared by several evaluators.
RULES = {
    "split": one_of("validation", "test"),
    "batch_size": count_from(2),
    "seed": count_from(0),
    "alpha": unset_or(ALPHA),
}


def images_mixed(model: MAE | IMAE | Classifier) -> int:
    """Returns the number of images in the mixtures that a network is measured on."""
    return model.sources if isinstance(model, IMAE) else PAIR


def check_evals(
    config: ConfigDict,
    model: MAE | IMAE | Classifier,
    sizes: Mapping[str, int],
    num_devices: int,
) -> None:
    """Checks every section of `config.evals`, and `config.explorer`.

    Args:
      config: the run's config.
      model: the run's network.
      sizes: number of images in each published split.
      num_devices: number of devices that a batch is split over.
    Raises:
      UserError: naming the key, its value and what is allowed.
    """
    parts = part_indices(sizes, config.data.evaluate_on)
    least = images_mixed(model)
    for part, (split, indices) in parts.items():
        if len(indices) < least:
            raise UserError(
                f"evaluation needs at least {least} images to be its {part} part, but "
                f"{split} gives {len(indices)}"
            )
    published = {part: split for part, (split, _) in parts.items()}
    known = all_evaluators()
    for name, section in config.evals.items():
        require(name in known, "evals", name, f"one of {', '.join(known)}")
        key, evaluator = f"evals.{name}", known[name]
        _check_model(evaluator, key, model)
        _check_names(evaluator, key, section)
        hold(section, {**RULES, **evaluator.rules}, f"{key}.")
        _check_split(evaluator, key, section.split, published)
        _check_shared_options(section, key, model, num_devices)
        evaluator.check(section, key, model)
        if evaluator.is_in_training and section.every_epochs:
            count = len(parts[section.split][1])
            allowed = f"of a part of at least {2 * least} images, not {count}: it is halved"
            require(count >= 2 * least, f"{key}.split", section.split, allowed)
    if "explorer" in config:
        _check_is_held_out("explorer.split", config.explorer.split, published)
        check_explorer(config.explorer, model, num_devices)


def _check_model(evaluator: Evaluator, key: str, model: MAE | IMAE | Classifier) -> None:
    """Raises UserError if the evaluator does not apply to the model."""
    is_classifier = not model.has_decoder
    if evaluator.needs_classifier and not is_classifier:
        raise UserError(
            f"{key} is about named classes: only a run of configs/transfer.py has it"
        )
    if is_classifier and not evaluator.needs_classifier:
        known = (name for name, e in all_evaluators().items() if e.needs_classifier)
        raise UserError(f"{key} is not for a classifier, which only has {', '.join(known)}")
    if evaluator.needs_mixtures and not model.is_fed_mixtures:
        raise UserError(f"{key} is about mixtures: only an i-MAE run has it")


def _check_names(evaluator: Evaluator, key: str, section: ConfigDict) -> None:
    """Raises UserError for unknown or missing options."""
    parameters = inspect.signature(evaluator.evaluate).parameters.values()
    needed = {p.name: p.default is p.empty for p in parameters if p.kind is p.KEYWORD_ONLY}
    for option in evaluator.options(section):
        require(option in needed, key, option, f"one of {', '.join(needed)}")
    for option, is_needed in needed.items():
        if is_needed and option not in section:
            raise UserError(f"{key}.{option} is missing")


def _check_split(
    evaluator: Evaluator, key: str, split: str, published: Mapping[str, str]
) -> None:
    """Raises UserError unless the split can be scored.

    Args:
      published: part -> the published split that it is taken from.
    """
    key = f"{key}.split"
    if not evaluator.is_in_training:
        _check_is_held_out(key, split, published)
    if evaluator.chooses_on_validation:
        allowed = "another one: on validation, ridges and rates are chosen"
        require(split != "validation", key, split, allowed)


def _check_is_held_out(key: str, split: str, published: Mapping[str, str]) -> None:
    """Raises UserError if a run is trained on the split's images."""
    allowed = "'test': this data set's validation part is taken from train"
    require(published.get(split) != "train", key, split, allowed)


def _check_shared_options(
    section: ConfigDict, key: str, model: MAE | IMAE | Classifier, num_devices: int
) -> None:
    """Checks the options shared by several evaluators, beyond `RULES`."""
    check_batch(section.batch_size, f"{key}.batch_size", num_devices)
    alpha, alphas = section.get("alpha"), section.get("alphas", ())
    check_alphas(alphas, f"{key}.alphas")
    if "alpha" in section and isinstance(model, IMAE):
        require(alpha is not None, f"{key}.alpha", alpha, ALPHA.allowed)
    if alpha is not None:
        check_names_differ({alpha, *alphas}, f"{key}.alpha with alphas")
    check_mask_ratios(section.get("mask_ratios", ()), f"{key}.mask_ratios", model)


def check_explorer(
    options: ConfigDict, model: MAE | IMAE | Classifier, num_devices: int
) -> None:
    """Checks `config.explorer`, the report's interactive panel.

    Raises:
      UserError: naming the key, its value and what is allowed.
    """
    hold(options, RULES, "explorer.")
    check_batch(options.batch_size, "explorer.batch_size", num_devices)
    most = options.batch_size // images_mixed(model)
    allowed = f"1 to {most}: one batch holds them all"
    fits = is_count(options.pairs) and 1 <= options.pairs <= most
    require(fits, "explorer.pairs", options.pairs, allowed)
    for key in ("alphas", "mask_ratios"):
        values = options[key]
        is_range = all(is_number(value) for value in values)
        is_range = is_range and list(values) == sorted(set(values)) and values
        require(is_range, f"explorer.{key}", values, "one or more increasing numbers")
    check_alphas(options.alphas, "explorer.alphas")
    check_mask_ratios(options.mask_ratios, "explorer.mask_ratios", model)
