"""What a step minimises: first all that is random is drawn, then the loss follows.

In two parts, so that a batch can be computed piece by piece and the sum be the same: the
draws are made for the whole batch.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from imae_jax.data import augment

Metrics = dict[str, jax.Array]


class Objective(NamedTuple):
    """Of a MAE or an i-MAE, on standardised images [B, H, W, C] lying in pairs.

    Attributes:
      draw: (key, B) -> draws, a pytree whose leaves are [B, ...].
      loss: (params, teacher_params, images, draws) -> (total, metrics), both means over
        the batch.
    """

    draw: Callable[[jax.Array, int], Any]
    loss: Callable[[Any, Any, jax.Array, Any], tuple[jax.Array, Metrics]]


@dataclasses.dataclass(frozen=True)
class Loss:
    """What a step minimises, from raw pixels on.

    Attributes:
      draw: (batch, step, seed) -> examples, a pytree whose leaves are [B, ...], pairs side
        by side: the augmented batch and all else that is random.
      of: (params, batch_stats, teacher_params, examples) -> (total, (metrics,
        batch_stats)); total and metrics are means over the examples.
    """

    draw: Callable[[Any, jax.Array, jax.Array], Any]
    of: Callable[[Any, Any, Any, Any], tuple[jax.Array, tuple[Metrics, Any]]]

    def __call__(self, params, batch_stats, teacher_params, batch, step, seed):
        """Both at once, for a batch as the feed's `take` or `take_labelled` gives it."""
        examples = self.draw(batch, step, seed)
        return self.of(params, batch_stats, teacher_params, examples)


def named_keys(key: jax.Array, *names: str) -> dict[str, jax.Array]:
    """Splits a key into one for each purpose."""
    return dict(zip(names, jax.random.split(key, len(names)), strict=True))


def step_keys(seed: jax.Array, step: jax.Array, *names: str) -> dict[str, jax.Array]:
    """A step's keys, one for each purpose: functions of (seed, step) alone."""
    key = named_keys(jax.random.key(seed), "init", "steps")["steps"]
    return named_keys(jax.random.fold_in(key, step), *names)


def make_loss(
    objective: Objective,
    *,
    mean: jax.Array,
    std: jax.Array,
    pad: int,
    flip: bool,
    crop_scale: tuple[float, float] | tuple[()],
) -> Loss:
    """The loss of a MAE or an i-MAE, on images [B, H, W, C] uint8, lying in pairs.

    Args:
      objective: on standardised images.
      mean, std: [C], of pixels in 0..255.
      pad, flip, crop_scale: see `augment.augment`.
    """

    def draw(images, step, seed):
        keys = step_keys(seed, step, "augment", "objective")
        draws = objective.draw(keys["objective"], len(images))
        return augment.augment(keys["augment"], images, pad, flip, crop_scale), draws

    def of(params, batch_stats, teacher_params, examples):
        images, draws = examples
        images = augment.standardise(images, mean, std)
        total, metrics = objective.loss(params, teacher_params, images, draws)
        return total, (metrics, batch_stats)

    return Loss(draw, of)
