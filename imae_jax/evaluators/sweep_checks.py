"""Checks of sweeps over alpha and mask ratio, for evaluators and the report."""

from collections.abc import Iterable

from imae_jax.config.rules import is_number, within
from imae_jax.errors import require
from imae_jax.evaluators.metric_names import at
from imae_jax.models.classifier import Classifier
from imae_jax.models.imae import IMAE
from imae_jax.models.mae import MAE
from imae_jax.objectives.mae import check_mask_ratio

ALPHA = within("(0, 0.5]")


def check_alphas(alphas: Iterable[float], key: str) -> None:
    """Raises UserError unless all are in (0, 0.5] with distinct metric names."""
    for alpha in alphas:
        require(ALPHA.allows(alpha), key, alpha, ALPHA.allowed)
    check_names_differ(alphas, key)


def check_mask_ratios(
    ratios: Iterable[float], key: str, model: MAE | IMAE | Classifier
) -> None:
    """Raises UserError unless all are valid mask ratios with distinct metric names."""
    for ratio in ratios:
        require(is_number(ratio), key, ratio, "a number")
        check_mask_ratio(ratio, key, model.num_patches)
    check_names_differ(ratios, key)


def check_names_differ(numbers: Iterable[float], key: str) -> None:
    """Raises UserError if two values of a sweep would share a metric name."""
    distinct = len({at(alpha=number) for number in numbers}) == len(tuple(numbers))
    require(distinct, key, tuple(numbers), "numbers that differ in their first two digits")
