"""Training objectives: random draws for the whole batch first, then a deterministic loss.

So that a batch can be computed in microbatches and their sum be the same.
"""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import jax
import optax
from ml_collections import ConfigDict

from imae_jax.data import augment
from imae_jax.data.dataset import Dataset

Metrics = dict[str, jax.Array]


def named_keys(key: jax.Array, *names: str) -> dict[str, jax.Array]:
    """Splits a key into one for each purpose."""
    return dict(zip(names, jax.random.split(key, len(names)), strict=True))


def step_keys(seed: jax.Array, step: jax.Array, *names: str) -> dict[str, jax.Array]:
    """A step's keys, one for each purpose: functions of (seed, step) alone."""
    key = named_keys(jax.random.key(seed), "init", "steps")["steps"]
    return named_keys(jax.random.fold_in(key, step), *names)


@dataclasses.dataclass(frozen=True, eq=False)
class Augmentation:
    """Random crops and flips on the device, and the statistics of pixels.

    Attributes:
      mean, std: [C], of pixels in 0..255.
      pad, flip, crop_scale: see `augment.augment`.
    """

    mean: Any
    std: Any
    pad: int = 0
    flip: bool = False
    crop_scale: tuple[float, float] | tuple[()] = ()

    def __call__(self, key: jax.Array, images: jax.Array) -> jax.Array:
        """[B, H, W, C] uint8 images, cropped and flipped."""
        return augment.augment(key, images, self.pad, self.flip, self.crop_scale)

    def normalize(self, images: jax.Array) -> jax.Array:
        """[B, H, W, C] uint8 images in units of std, about the mean."""
        return augment.standardise(images, self.mean, self.std)


class Objective(abc.ABC):
    """A kind of run: its training loss, and all that differs between kinds of run.

    Attributes:
      title: its name in messages.
      is_labelled: whether a batch has labels.
    """

    title: ClassVar[str]
    is_labelled: ClassVar[bool] = False

    @abc.abstractmethod
    def draw(self, batch, step: jax.Array, seed: jax.Array) -> Any:
        """Everything random of a step, and the augmented batch.

        Args:
          batch: images [B, H, W, C] uint8, pairs side by side; with `is_labelled` images
            and labels [B] int.
          step, seed: all draws are functions of these.
        Returns:
          Examples, a pytree whose leaves are [B, ...].
        """

    @abc.abstractmethod
    def loss(
        self, params, batch_stats, teacher_params, examples
    ) -> tuple[jax.Array, tuple[Metrics, Any]]:
        """(total, (metrics, batch_stats)), the first two means over the examples."""

    def __call__(self, params, batch_stats, teacher_params, batch, step, seed):
        """Draw and loss in one, of a batch as the input pipeline gives it."""
        examples = self.draw(batch, step, seed)
        return self.loss(params, batch_stats, teacher_params, examples)

    @classmethod
    @abc.abstractmethod
    def from_config(
        cls, config: ConfigDict, model, teacher, augmentation: Augmentation
    ) -> Self:
        """The objective of a checked config; `teacher` is a MAE or None."""

    @staticmethod
    @abc.abstractmethod
    def check(config: ConfigDict, dataset: Dataset) -> None:
        """Checks that keys of a config fit each other and the data set.

        Raises:
          UserError: naming the key, its value and what is allowed.
        """

    @staticmethod
    @abc.abstractmethod
    def optimizer(
        config: ConfigDict, model, schedule: optax.Schedule
    ) -> optax.GradientTransformation:
        """The optimizer of a checked config."""

    @staticmethod
    @abc.abstractmethod
    def starting_params(like: Mapping, loaded: Mapping, source: str) -> Mapping:
        """Parameters to start from, out of another run's.

        Args:
          like: the model's own parameters, or their shapes.
          loaded: the other run's.
          source: which run they are of, for messages.
        Returns:
          Copies, by module: the state is donated, the other run may be a teacher.
        Raises:
          UserError: if they do not fit, with each difference.
        """

    @staticmethod
    def is_distilled(config: ConfigDict) -> bool:
        """Whether a teacher takes part in training."""
        return False

    @staticmethod
    def needs_init(config: ConfigDict) -> bool:
        """Whether training starts from another run's parameters, always."""
        return False
