"""Somebody else's encoder, held to its contract, and what it makes of mixtures."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from imae_jax.data.pair_sampler import epoch_pairs
from imae_jax.errors import UserError
from imae_jax.evaluators.separability_scores import Latents
from imae_jax.objectives.mixing import BRANCHES, mix
from imae_jax.probing.arrays import ROUNDING, as_array, as_features, as_text

# Features of one image may differ from call to call by these fractions of how far images'
# features lie apart, and of their size: float16 and bfloat16 do, by less.
SPREAD, SIZE = 0.05, 0.005

READINGS = (
    "tokens of two branches are [B, S, T, D], said by branches=True; a map of features "
    "is [B, T, D], its places in one axis"
)


class Encoder:
    """A function from images to features, whose every answer is checked."""

    def __init__(self, function: Callable[[np.ndarray], Any], name: str, branches: bool):
        """Takes a function, or a PyTorch module.

        Args:
          function: float32 [B, H, W, C], of its own and to be written to -> an array or
            tensor, see `__call__`.
          name: what messages call it.
          branches: whether its features have an axis S, 1 or 2 long, after B.
        """
        if not callable(function):
            raise UserError(f"{name} is {type(function).__name__}; it must be a function")
        self.function, self.name, self.branches = function, name, branches
        self.shape: tuple[int, ...] | None = None  # of one image's features, once seen

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """[B, H, W, C] images -> [B, T, D] tokens, T = 1 of [B, D]; or [B, S, T, D].

        Raises:
          UserError: for another number of rows than of images, for another shape than
            before, and for numbers that are not finite or no real numbers.
        """
        # A copy each way: neither what it writes to nor what it reuses is shared.
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
        """What the function gives."""
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
        """Them as an array of its own, of the right number of axes."""
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
        if self.branches and array.shape[1] not in (1, 2):
            raise UserError(
                f"{name} is {as_text(array)}; with branches=True its second axis is the "
                "branches, subordinate and dominant: 2, or 1 of the first alone"
            )
        return np.array(as_features(array, name, known[array.ndim]))

    def check_alone(self, images: np.ndarray) -> None:
        """Asks for the first few images again, in another order and other company.

        Finds what would make the features noise: dropout and batch statistics of a network
        that is still in training mode, masks drawn anew, rows in another order.

        Raises:
          UserError: if an image's features are not its own.
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
    """Whether it is a PyTorch module, told without PyTorch."""
    kinds = type(function).__mro__
    return any(
        (k.__module__, k.__name__) == ("torch.nn.modules.module", "Module") for k in kinds
    )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:100]


@dataclasses.dataclass
class EncodedMixtures:
    """Streams what encoders make of pairs of images, for `separability_scores.measure`.

    Attributes:
      of_mixture, of_image: give the features and their targets.
      splits: [N, H, W, C] images, by name.
      alpha: weight of the subordinate image.
      batch_size: images given to an encoder at a time.
      seed: of the pairs.
      origin: [D] and [E], subtracted from all features and targets, so that sums of squares
        in float64 lose nothing of features that lie far from zero.
    """

    of_mixture: Encoder
    of_image: Encoder
    splits: Mapping[str, np.ndarray]
    alpha: float
    batch_size: int
    seed: int
    origin: tuple[np.ndarray, np.ndarray] | None = None

    def __call__(self, split: str) -> Iterator[Latents]:
        """The latents of a split, batch by batch.

        Raises:
          UserError: see `Encoder`; and if features and targets differ in tokens.
        """
        images = self.splits[split]
        pairs = epoch_pairs(len(images), self.seed, epoch=0)
        own, partner = pairs.reshape(-1), pairs[:, ::-1].reshape(-1)
        for start in range(0, len(own), self.batch_size):
            part = slice(start, start + self.batch_size)
            sources = np.stack([images[own[part]], images[partner[part]]], axis=1)
            latents, targets = self._encoded(sources.astype(np.float32))
            tokens = np.broadcast_to(np.arange(latents.shape[2]), latents.shape[::2][:2])
            yield Latents({"": latents}, targets, tokens)

    def _encoded(self, sources: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sources [B, S, H, W, C] -> latents [B, S, T, D] and targets [B, S, T, E]."""
        mixtures = np.asarray(mix(sources, np.full(len(sources), self.alpha, np.float32)))
        for encoder, images in (
            (self.of_mixture, mixtures),
            (self.of_image, sources[:, 0]),
        ):
            if encoder.shape is None:
                encoder.check_alone(images)
        latents = self.of_mixture(mixtures)
        targets = np.stack(
            [self.of_image(x) for x in (sources[:, 0], sources[:, 1])], axis=1
        )
        if latents.ndim == 3:  # no heads: the same for both branches
            latents = np.stack([latents] * len(BRANCHES), axis=1)
        if latents.shape[2] != targets.shape[2]:
            raise UserError(
                f"encode gave {latents.shape[2]} tokens, target {targets.shape[2]}: they "
                "do not fit; target must give [B, E], or [B, T, E] with encode's T"
            )
        if self.origin is None:
            ends = [x.mean(axis=(0, 1, 2), dtype=np.float64) for x in (latents, targets)]
            # One for both where they can be compared as they are.
            self.origin = ends[len(ends[0]) == len(ends[1])], ends[1]
        return tuple(map(_less, (latents, targets), self.origin))


def _less(features: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """[..., D] features - origin [D]; 0 where nothing but rounding is left."""
    found = features - origin
    found[np.abs(found) <= ROUNDING * np.abs(origin)] = 0
    return found
