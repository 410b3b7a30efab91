"""Probe targets of known factors, and the images that have them."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from imae_jax.errors import UserError


class Factor(NamedTuple):
    """Probe targets of one factor, for all images of N mixtures.

    Attributes:
      targets: [N, S] int for a category; [N, S, T] float for T numbers.
      counted: [N, S] bool, True for the images to probe.
    """

    targets: np.ndarray
    counted: np.ndarray

    @property
    def is_category(self) -> bool:
        """True for a category, False for numbers."""
        return self.targets.ndim == 2

    def of_image(self, s: int) -> np.ndarray:
        """Returns the targets of image `s` where it is counted, [n] or [n, T]."""
        return self.targets[self.counted[:, s], s]


def all_differ(values: np.ndarray) -> np.ndarray:
    """Returns [N] bool, True where no two of a row's values [N, S] are equal."""
    return (np.diff(np.sort(values, axis=1), axis=1) != 0).all(axis=1)


def as_factor(
    values: np.ndarray, labels: np.ndarray, symmetry: Sequence[int] | None
) -> Factor:
    """Returns the probe targets of a factor.

    * A category (int): counted for mixtures whose images all differ in it. Where two
      agree, either's branch would do.
    * A quantity (float): counted for all.
    * An angle a: as (cos n a, sin n a), which is equal for all angles that look the same;
      not counted for classes that look the same at any angle (n = 0).

    Args:
      values: [N, S].
      labels: [N, S] int, classes.
      symmetry: n of each class for an angle, see `Dataset`; None for other factors.
    """
    if symmetry is not None:
        turns = np.asarray(symmetry)[labels]
        angle = turns * values
        return Factor(np.stack([np.cos(angle), np.sin(angle)], axis=-1), turns > 0)
    if np.issubdtype(values.dtype, np.integer):
        return Factor(values, np.broadcast_to(all_differ(values)[:, None], values.shape))
    return Factor(values[..., None], np.ones(values.shape, bool))


def factors_of(
    labels: np.ndarray,
    factors: Mapping[str, np.ndarray],
    symmetry: Mapping[str, Sequence[int]],
    where: str,
) -> dict[str, Factor]:
    """Returns the targets of all factors: `label`, then the others sorted by name.

    Args:
      labels: [N, S] int.
      factors: [N, S] each, by name.
      symmetry: see `Dataset`.
      where: source of the factors, for messages.
    Raises:
      UserError: if a factor is not finite, or constant over the counted images.
    """
    known = {}
    # Sorted, since data sets give factors in no particular order.
    for name, values in {"label": labels, **dict(sorted(factors.items()))}.items():
        factor = known[name] = as_factor(values, labels, symmetry.get(name))
        targets = factor.of_image(0)
        if not np.isfinite(targets).all():
            raise UserError(f"{where}: {name} is not finite")
        if not len(targets) or (targets == targets[0]).all():
            raise UserError(f"{where} has no mixtures whose images differ in {name}")
    return known
