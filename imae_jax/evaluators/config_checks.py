"""What the `evals` sections of a config may say, checked before anything is compiled."""

import inspect
from collections.abc import Iterable, Mapping

from ml_collections import ConfigDict

from imae_jax.config.checks import check_batch
from imae_jax.data.eval_splits import part_indices
from imae_jax.errors import UserError, require
from imae_jax.evaluators.metric_names import at
from imae_jax.evaluators.registry import CHOOSING, EVALUATORS, OF_CLASSIFIERS, OF_MIXTURES
from imae_jax.models.classifier import Classifier
from imae_jax.models.imae import IMAE
from imae_jax.models.mae import MAE
from imae_jax.objectives.mae import check_mask_ratio

# They name other runs; the networks are loaded from them.
RUN_KEYS = ("teacher", "baseline_runs")
BASELINE_RUNS = ("without_distillation",)


def options_of(section: ConfigDict) -> dict:
    """The arguments of the evaluator itself."""
    return {key: value for key, value in section.items() if key not in RUN_KEYS}


def _check_names(section: ConfigDict, name: str) -> None:
    """Raises UserError unless the options are those of the evaluator, no more, no less."""
    parameters = inspect.signature(EVALUATORS[name]).parameters.values()
    known = {p.name: p.default is p.empty for p in parameters if p.kind is p.KEYWORD_ONLY}
    for key in options_of(section):
        allowed = f"one of {', '.join(known)}"
        require(key in known, f"evals.{name}", key, allowed)
    for key, needed in known.items():
        if needed and key not in section:
            raise UserError(f"evals.{name}.{key} is missing")


def check_alphas(alphas: Iterable[float], key: str) -> None:
    """Raises UserError unless all are weights with names of their own."""
    for alpha in alphas:
        in_range = isinstance(alpha, float | int) and 0 < alpha <= 0.5
        require(in_range, key, alpha, "in (0, 0.5]")
    _check_names_differ(alphas, key)


def _check_names_differ(numbers: Iterable[float], key: str) -> None:
    distinct = len({at(alpha=number) for number in numbers}) == len(tuple(numbers))
    require(distinct, key, tuple(numbers), "numbers that differ in their first two digits")


def check_mask_ratios(ratios: Iterable[float], key: str, model: MAE | IMAE) -> None:
    """Raises UserError unless all are possible, with names of their own."""
    for ratio in ratios:
        require(isinstance(ratio, float | int), key, ratio, "a number")
        check_mask_ratio(ratio, key, model.num_patches)
    _check_names_differ(ratios, key)


def _check_counts(section: ConfigDict, key: str, lows: dict[str, float]) -> None:
    for name, low in lows.items():
        require(section[name] >= low, f"{key}.{name}", section[name], f"at least {low}")


def _check_lars(lars: ConfigDict, key: str) -> None:
    _check_counts(lars, key, {"batch_size": 1, "epochs": 1, "warmup_epochs": 0})
    rates = len(lars.blrs) > 0
    rates = rates and all(isinstance(x, float | int) and x > 0 for x in lars.blrs)
    require(rates, f"{key}.blrs", lars.blrs, "one or more numbers above 0")
    require(
        lars.warmup_epochs < lars.epochs,
        f"{key}.warmup_epochs",
        lars.warmup_epochs,
        f"less than the {lars.epochs} epochs",
    )


def _check_classifier(classifier: ConfigDict, key: str) -> None:
    _check_counts(classifier, key, {"width": 1, "epochs": 1, "weight_decay": 0})
    check_batch(classifier.batch_size, f"{key}.batch_size", num_devices=1)
    require(classifier.blr > 0, f"{key}.blr", classifier.blr, "above 0")


def _check_split(split: str, key: str) -> None:
    require(split in ("validation", "test"), key, split, "'validation' or 'test'")


def check_explorer(options: ConfigDict, model: IMAE, num_devices: int) -> None:
    """Checks the section of the report's interactive panel.

    Raises:
      UserError: naming the key, its value and what is allowed.
    """
    _check_split(options.split, "explorer.split")
    check_batch(options.batch_size, "explorer.batch_size", num_devices)
    most = options.batch_size // 2
    allowed = f"1 to {most}: one batch holds them all"
    require(1 <= options.pairs <= most, "explorer.pairs", options.pairs, allowed)
    require(options.seed >= 0, "explorer.seed", options.seed, "at least 0")
    for key in ("alphas", "mask_ratios"):
        values = options[key]
        is_range = all(isinstance(value, float | int) for value in values)
        is_range = is_range and list(values) == sorted(set(values)) and values
        require(is_range, f"explorer.{key}", values, "one or more increasing numbers")
    check_alphas(options.alphas, "explorer.alphas")
    check_mask_ratios(options.mask_ratios, "explorer.mask_ratios", model)


def _check_fits(name: str, model: MAE | IMAE | Classifier) -> None:
    """Raises UserError if the model cannot be measured in this way."""
    is_classifier = isinstance(model, Classifier)
    if name in OF_CLASSIFIERS and not is_classifier:
        raise UserError(
            f"evals.{name} is about named classes: only a run of configs/transfer.py has it"
        )
    if is_classifier and name not in OF_CLASSIFIERS:
        known = ", ".join(sorted(OF_CLASSIFIERS))
        raise UserError(f"evals.{name} is not for a classifier, which only has {known}")
    if name in OF_MIXTURES and not isinstance(model, IMAE):
        raise UserError(f"evals.{name} is about mixtures: only an i-MAE run has it")


def check_evals(
    config: ConfigDict,
    model: MAE | IMAE | Classifier,
    sizes: Mapping[str, int],
    num_devices: int,
) -> None:
    """Checks every section of `config.evals`, and that of the report's panel.

    Args:
      config: the run's.
      model: its network.
      sizes: images in each published split.
      num_devices: that a batch is split over.
    Raises:
      UserError: naming the key, its value and what is allowed.
    """
    parts = part_indices(sizes, config.data.evaluate_on)
    for part, (split, indices) in parts.items():
        if len(indices) < 2:
            raise UserError(
                f"evaluation needs at least 2 images to be its {part} part, but "
                f"{split} gives {len(indices)}"
            )
    for name, section in config.evals.items():
        key = f"evals.{name}"
        require(name in EVALUATORS, "evals", name, f"one of {', '.join(EVALUATORS)}")
        _check_fits(name, model)
        _check_names(section, name)
        for baseline in section.get("baseline_runs") or ():
            allowed = f"one of {', '.join(BASELINE_RUNS)}"
            require(baseline in BASELINE_RUNS, f"{key}.baseline_runs", baseline, allowed)
        _check_split(section.split, f"{key}.split")
        check_batch(section.batch_size, f"{key}.batch_size", num_devices)
        seed = section.get("seed")
        require(seed is None or seed >= 0, f"{key}.seed", seed, "at least 0")
        if name in OF_CLASSIFIERS:
            is_held_out = parts[section.split][0] != "train"
            allowed = "'test': this data set's validation part is taken from train"
            require(is_held_out, f"{key}.split", section.split, allowed)
        if name in CHOOSING:
            allowed = "another one: on validation, ridges and rates are chosen"
            chosen = section.split != "validation"
            require(chosen, f"{key}.split", section.split, allowed)
        if name == "reconstruction":
            weight, is_imae = section.get("alpha"), isinstance(model, IMAE)
            allowed = "a weight for an i-MAE, absent for a MAE"
            require(is_imae == (weight is not None), f"{key}.alpha", weight, allowed)
        alphas = section.get("alphas", ())
        check_alphas(alphas, f"{key}.alphas")
        if section.get("alpha") is not None:
            check_alphas((section.alpha,), f"{key}.alpha")
            _check_names_differ({section.alpha, *alphas}, f"{key}.alpha with alphas")
        check_mask_ratios(section.get("mask_ratios", ()), f"{key}.mask_ratios", model)
        if "neighbours" in section:
            _check_counts(section, key, {"neighbours": 1})
            heat = section.temperature
            require(heat > 0, f"{key}.temperature", heat, "above 0")
        if "lars" in section:
            _check_lars(section.lars, f"{key}.lars")
        if "classifier" in section:
            _check_classifier(section.classifier, f"{key}.classifier")
    if "explorer" in config:
        check_explorer(config.explorer, model, num_devices)
