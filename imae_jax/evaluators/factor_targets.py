"""Targets of probes: what can be asked of a known factor, and of which images."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from imae_jax.errors import UserError


class Factor(NamedTuple):
    """One factor of both images of N mixtures.

    Attributes:
      targets: [N, S] int, a category; or [N, S, T] float, numbers.
      counted: [N, S] bool, the images that are asked for it.
    """

    targets: np.ndarray
    counted: np.ndarray

    @property
    def is_category(self) -> bool:
        """Whether it has no order, and is named rather than measured."""
        return self.targets.ndim == 2

    def of_image(self, s: int) -> np.ndarray:
        """The targets of image `s` wherever it is counted, [n] or [n, T]."""
        return self.targets[self.counted[:, s], s]


def as_factor(
    values: np.ndarray, labels: np.ndarray, symmetry: Sequence[int] | None
) -> Factor:
    """The targets of a factor.

    * A category (int): of mixtures whose two images differ in it. Where they agree, either
      branch would do.
    * A quantity (float): of all.
    * An angle a: as (cos n a, sin n a), which is the same for all angles that look the
      same; not of classes that look the same at any angle (n = 0).

    Args:
      values: [N, S].
      labels: [N, S] int, classes.
      symmetry: of an angle, n of each class, see `Dataset`; None of anything else.
    """
    if symmetry is not None:
        turns = np.asarray(symmetry)[labels]
        angle = turns * values
        return Factor(np.stack([np.cos(angle), np.sin(angle)], axis=-1), turns > 0)
    if np.issubdtype(values.dtype, np.integer):
        differ = values[:, :1] != values[:, 1:]
        return Factor(values, np.broadcast_to(differ, values.shape))
    return Factor(values[..., None], np.ones(values.shape, bool))


def factors_of(
    labels: np.ndarray,
    factors: Mapping[str, np.ndarray],
    symmetry: Mapping[str, Sequence[int]],
    where: str,
) -> dict[str, Factor]:
    """All that is known of both images of N mixtures: `label`, then the others by name.

    Args:
      labels: [N, S] int.
      factors: [N, S] each, by name.
      symmetry: see `Dataset`.
      where: they come from, for messages.
    Raises:
      UserError: if one is not finite, or the same for all images it is asked of.
    """
    known = {}
    # Sorted: in which order a data set gives them, is left to chance.
    for name, values in {"label": labels, **dict(sorted(factors.items()))}.items():
        factor = known[name] = as_factor(values, labels, symmetry.get(name))
        targets = factor.of_image(0)
        if not np.isfinite(targets).all():
            raise UserError(f"{where}: {name} is not finite")
        if not len(targets) or (targets == targets[0]).all():
            raise UserError(f"{where} has no mixtures whose images differ in {name}")
    return known
