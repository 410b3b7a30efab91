"""Training objectives: random draws for the whole batch first, then a deterministic loss.

So a batch computed in microbatches gives the same sum.
"""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import jax
import optax
from ml_collections import ConfigDict

from imae_jax import optim
from imae_jax.data import augment
from imae_jax.data.dataset import Dataset
from imae_jax.models.branches import PAIR
from imae_jax.models.mae import MAE
from imae_jax.storage import pytrees

Metrics = dict[str, jax.Array]


def named_keys(key: jax.Array, *names: str) -> dict[str, jax.Array]:
    """Splits a key into one per name."""
    return dict(zip(names, jax.random.split(key, len(names)), strict=True))


def step_keys(seed: jax.Array, step: jax.Array, *names: str) -> dict[str, jax.Array]:
    """Returns a step's keys, one per name, derived from (seed, step) alone."""
    key = named_keys(jax.random.key(seed), "init", "steps")["steps"]
    return named_keys(jax.random.fold_in(key, step), *names)


@dataclasses.dataclass(frozen=True, eq=False)
class Augmentation:
    """Random crops and flips on the device, and normalization.

    Attributes:
      mean, std: [C], statistics of pixels in 0..255.
      pad, pad_mode, flip, crop_scale: see `augment.augment`.
    """

    mean: Any
    std: Any
    pad: int = 0
    pad_mode: str = "constant"
    flip: bool = False
    crop_scale: tuple[float, float] | tuple[()] = ()

    def __call__(self, key: jax.Array, images: jax.Array) -> jax.Array:
        """Crops and flips [B, H, W, C] uint8 images."""
        options = self.pad, self.pad_mode, self.flip, self.crop_scale
        return augment.augment(key, images, *options)

    def normalize(self, images: jax.Array) -> jax.Array:
        """Normalizes [B, H, W, C] uint8 images: (x - mean) / std."""
        return augment.normalize(images, self.mean, self.std)


class Objective(abc.ABC):
    """A kind of run: its training loss, and everything else that differs between kinds.

    Attributes:
      title: name in messages.
      needs: keys by which a config of this kind of run is known.
      is_labelled: True if batches have labels.
    """

    title: ClassVar[str]
    needs: ClassVar[frozenset[str]]
    is_labelled: ClassVar[bool] = False

    @property
    def group_size(self) -> int:
        """Number of adjacent images of a batch that belong together, in one shard."""
        return PAIR

    @abc.abstractmethod
    def draw(self, batch: Any, step: jax.Array, seed: jax.Array) -> Any:
        """Makes all random draws of a step and augments its batch.

        Args:
          batch: images [B, H, W, C] uint8, with groups adjacent; if `is_labelled`, images
            and labels [B] int.
          step, seed: determine all draws.
        Returns:
          Examples, a pytree whose leaves are [B, ...].
        """

    @abc.abstractmethod
    def loss(
        self, params: Any, batch_stats: Any, teacher_params: Any, examples: Any
    ) -> tuple[jax.Array, tuple[Metrics, Any]]:
        """Returns (total, (metrics, batch_stats)); the first two are averaged over B."""

    def __call__(
        self,
        params: Any,
        batch_stats: Any,
        teacher_params: Any,
        batch: Any,
        step: jax.Array,
        seed: jax.Array,
    ) -> tuple[jax.Array, tuple[Metrics, Any]]:
        """Draws, then computes the loss of a batch from the input pipeline."""
        examples = self.draw(batch, step, seed)
        return self.loss(params, batch_stats, teacher_params, examples)

    @classmethod
    @abc.abstractmethod
    def from_config(
        cls, config: ConfigDict, model: Any, teacher: MAE | None, augmentation: Augmentation
    ) -> Self:
        """Makes the objective of a checked config; `teacher` is a MAE or None."""

    @staticmethod
    @abc.abstractmethod
    def check(config: ConfigDict, dataset: Dataset) -> None:
        """Checks that the keys of a config fit each other and the data set.

        Raises:
          UserError: naming the key, its value and what is allowed.
        """

    @staticmethod
    def optimizer(
        config: ConfigDict, model: Any, schedule: optax.Schedule
    ) -> optax.GradientTransformation:
        """Makes the optimizer of a checked config: AdamW."""
        section = config.optim
        settings = section.betas, section.weight_decay, section.clip_norm
        return optim.adamw(schedule, *settings)

    @staticmethod
    def starting_params(like: Mapping, loaded: Mapping, source: str) -> Mapping:
        """Returns initial parameters taken from another run: all of its own.

        Args:
          like: the model's own parameters, or their shapes.
          loaded: the other run's parameters.
          source: the other run, for messages.
        Returns:
          Copies, by module: the state is donated, and the other run may be a teacher.
        Raises:
          UserError: if they do not fit, listing the differences.
        """
        pytrees.check_same_tree(like, loaded, source)
        return jax.tree.map(lambda x: x.copy(), loaded)

    @staticmethod
    def is_distilled(config: ConfigDict) -> bool:
        """True if training uses a teacher."""
        return False

    @staticmethod
    def may_accumulate(config: ConfigDict) -> bool:
        """True if a batch can be computed in microbatches, see `train.accumulate`."""
        return True

    @staticmethod
    def needs_init(config: ConfigDict) -> bool:
        """True if training must start from another run's parameters."""
        return False
