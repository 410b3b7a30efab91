"""External encoders: checked calls, and features of mixtures for separability."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from imae_jax.data.group_sampler import epoch_groups
from imae_jax.errors import UserError, one_line
from imae_jax.evaluators.separability_scores import Latents
from imae_jax.models.branches import PAIR, branch_names
from imae_jax.objectives.mixing import fixed_alpha, mix, rotate
from imae_jax.probing.arrays import ROUNDING, as_array, as_features, as_text

# Tolerated difference between two calls on one image, as fractions of the spread of
# features over images and of their size; float16 and bfloat16 differ by less.
SPREAD, SIZE = 0.05, 0.005

READINGS = (
    "tokens of two branches are [B, S, T, D], said by branches=True; a map of features "
    "is [B, T, D], its places in one axis"
)


class Encoder:
    """A function from images to features, whose outputs are checked."""

    def __init__(
        self,
        function: Callable[[np.ndarray], Any],
        name: str,
        branches: bool,
        num_sources: int = PAIR,
    ):
        """Wraps a function or PyTorch module.

        Args:
          function: float32 [B, H, W, C] (a copy, which may be modified) -> an array or
            tensor, see `__call__`.
          name: its name in messages.
          branches: True if its features have an axis S, of size 1 or S, after B.
          num_sources: number of images in a mixture, S.
        """
        if not callable(function):
            raise UserError(f"{name} is {type(function).__name__}; it must be a function")
        self.function, self.name, self.branches = function, name, branches
        self.num_sources = num_sources
        self.shape: tuple[int, ...] | None = None  # of one image's features, once seen

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Encodes [B, H, W, C] images as [B, T, D] (T = 1 for [B, D]) or [B, S, T, D].

        Raises:
          UserError: for a wrong number of rows, for a shape other than in earlier calls,
            and for values that are not finite real numbers.
        """
        # Copied both ways: the function may modify its input or reuse its output buffer.
        features = self._features(self._call(np.array(images, np.float32)))
        if len(features) != len(images):
            raise UserError(
                f"{self.name} gave {list(features.shape)} for {len(images)} images; it "
                f"must give a row for each: [{len(images)}, ...]"
            )
        if self.shape is None:
            self.shape = features.shape[1:]
        if features.shape[1:] != self.shape:
            raise UserError(
                f"{self.name} gave {list(features.shape)}, but {list(self.shape)} a row "
                "before; that must be the same in every call"
            )
        is_pooled = features.ndim == 2 + self.branches
        return np.expand_dims(features, -2) if is_pooled else features

    def _call(self, images: np.ndarray) -> Any:
        """Calls the function; explains its error if it is a PyTorch module."""
        try:
            return self.function(images)
        except (TypeError, AttributeError) as error:
            if not _is_module(self.function):
                raise
            raise UserError(
                f"{self.name} is a PyTorch module that does not take NumPy's [B, H, W, C]; "
                "give a function that says its layout, such as lambda x: "
                f"module(torch.from_numpy(x).permute(0, 3, 1, 2)) ({_line(error)})"
            ) from error

    def _features(self, given: Any) -> np.ndarray:
        """Returns the function's output as a new array, checked for its number of axes."""
        if given is None or isinstance(given, dict | tuple | str):
            raise UserError(
                f"{self.name} gave {type(given).__name__}; it must give one array, the "
                "features"
            )
        name = f"what {self.name} gave"
        array = as_array(given, name)
        known = {2: "BD", 3: "BTD"} if not self.branches else {3: "BSD", 4: "BSTD"}
        if array.ndim not in known:
            wanted = " or ".join(f"[{', '.join(axes)}]" for axes in known.values())
            hint = f": {READINGS}" if array.ndim == 4 else ""
            raise UserError(f"{name} is {as_text(array)}; it must be {wanted}{hint}")
        if self.branches and array.shape[1] not in (1, self.num_sources):
            *first, last = branch_names(self.num_sources)
            raise UserError(
                f"{name} is {as_text(array)}; with branches=True its second axis is the "
                f"branches, {', '.join(first)} and {last}: {self.num_sources}, or 1 of the "
                "first alone"
            )
        return np.array(as_features(array, name, known[array.ndim]))

    def check_alone(self, images: np.ndarray) -> None:
        """Checks that an image's features do not depend on the rest of its batch.

        Encodes the first few images twice, in different batches. Detects dropout and batch
        statistics of a network in training mode, random masks, and reordered rows.

        Raises:
          UserError: if an image's features differ.
        """
        few = max(2, len(images) // 8)
        order = np.zeros(len(images), int)
        order[:few] = np.arange(min(few, len(images)))[::-1]
        first, again = self(images), self(images[order])
        first, again = (x.reshape(len(x), -1).astype(np.float64) for x in (first, again))
        spread = np.sqrt(np.square(first - first.mean(axis=0)).mean())
        allowed = SPREAD * spread + SIZE * np.sqrt(np.square(first).mean())
        found = np.sqrt(np.square(again - first[order]).mean(axis=1).max())
        if found > allowed:
            raise UserError(
                f"{self.name} gave other features for the same image in another batch (off "
                f"by {found:.3g}, where images differ by {spread:.3g}); it must be "
                "deterministic and take each image by itself: a PyTorch model needs .eval()"
            )


def _is_module(function: Any) -> bool:
    """True for a PyTorch module; does not import PyTorch."""
    kinds = type(function).__mro__
    return any(
        (k.__module__, k.__name__) == ("torch.nn.modules.module", "Module") for k in kinds
    )


def _line(error: Exception) -> str:
    return one_line(error)[:100]


@dataclasses.dataclass
class EncodedMixtures:
    """Streams encoded mixtures and their targets, for `separability_scores.measure`.

    Attributes:
      of_mixture, of_image: encoders of mixtures (features) and of single images (targets).
      splits: [N, H, W, C] images, by name.
      alpha: weight of the subordinate image of two, see `mixing.weights_at` for more.
      num_sources: number of images in a mixture, S.
      batch_size: images per call of an encoder.
      seed: random seed of the groups.
      origin: [D] and [E], subtracted from all features and targets, so that float64 sums of
        squares stay exact for features far from zero.
    """

    of_mixture: Encoder
    of_image: Encoder
    splits: Mapping[str, np.ndarray]
    alpha: float
    num_sources: int
    batch_size: int
    seed: int
    origin: tuple[np.ndarray, np.ndarray] | None = None

    def __call__(self, split: str) -> Iterator[Latents]:
        """Yields the latents of a split, batch by batch.

        Raises:
          UserError: see `Encoder`; and if features and targets differ in their number of
            tokens.
        """
        images = self.splits[split]
        count = self.num_sources
        order = epoch_groups(len(images), self.seed, epoch=0, size=count).reshape(-1)
        turned = [rotate(order, count, s) for s in range(count)]
        for start in range(0, len(order), self.batch_size):
            part = slice(start, start + self.batch_size)
            sources = np.stack([images[ids[part]] for ids in turned], axis=1)
            latents, targets = self._encoded(sources.astype(np.float32))
            tokens = np.broadcast_to(np.arange(latents.shape[2]), latents.shape[::2][:2])
            yield Latents({(self.alpha, ""): latents}, targets, tokens)

    def _encoded(self, sources: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Encodes sources [B, S, H, W, C]: latents [B, S, T, D], targets [B, S, T, E]."""
        weights = fixed_alpha(self.alpha, len(sources), self.num_sources)
        mixtures = np.asarray(mix(sources, weights))
        for encoder, images in (
            (self.of_mixture, mixtures),
            (self.of_image, sources[:, 0]),
        ):
            if encoder.shape is None:
                encoder.check_alone(images)
        latents = self.of_mixture(mixtures)
        targets = np.stack(
            [self.of_image(sources[:, s]) for s in range(self.num_sources)], axis=1
        )
        if latents.ndim == 3:  # no heads: the same for all branches
            latents = np.stack([latents] * self.num_sources, axis=1)
        if latents.shape[2] != targets.shape[2]:
            raise UserError(
                f"encode gave {latents.shape[2]} tokens, target {targets.shape[2]}: they "
                "do not fit; target must give [B, E], or [B, T, E] with encode's T"
            )
        if self.origin is None:
            ends = [x.mean(axis=(0, 1, 2), dtype=np.float64) for x in (latents, targets)]
            # Features and targets of equal width share one origin, to stay comparable.
            self.origin = ends[len(ends[0]) == len(ends[1])], ends[1]
        return _less(latents, self.origin[0]), _less(targets, self.origin[1])


def _less(features: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """Returns [..., D] features - origin [D]; 0 where only rounding is left."""
    found = features - origin
    found[np.abs(found) <= ROUNDING * np.abs(origin)] = 0
    return found
