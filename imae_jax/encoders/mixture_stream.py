"""Streams of encoded mixtures, with controls made of the same pixels."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from imae_jax.data.group_sampler import epoch_groups
from imae_jax.encoders.encoder import Encoder
from imae_jax.errors import UserError
from imae_jax.evaluators import external_encoder
from imae_jax.evaluators.separability_scores import Latents
from imae_jax.models.branches import PAIR
from imae_jax.objectives.mixing import mix, rotate

FEATURES = ("pooled", "tokens")
# Side in pixels to which an image, or an image's patch, is reduced for `raw pixels`: its
# moments are of 768 and 192 numbers in colour.
WHOLE_SIDE, PATCH_SIDE = 16, 8
# Most numbers of a feature: moments hold its square for every row and alpha.
MAX_WIDTH = 8192


@dataclasses.dataclass(frozen=True)
class LazyImages:
    """Images that are read when they are needed.

    Attributes:
      shape: (N, H, W, C).
      read: [n] int indices -> [n, H, W, C] numbers in 0..255.
    """

    shape: tuple[int, int, int, int]
    read: Callable[[np.ndarray], np.ndarray]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        return self.read(indices)


class Features:
    """An encoder whose features are checked, and pooled unless tokens are wanted."""

    def __init__(self, encoder: Encoder, features: str):
        """Wraps an encoder; `features` is one of `FEATURES`."""
        self.encoder, self.is_pooled = encoder, features == "pooled"
        self.checked = external_encoder.Encoder(encoder, encoder.name, encoder.branches)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Encodes [B, H, W, C] images as [B, S, T, D]; S is 1 without branches.

        Raises:
          UserError: see `external_encoder.Encoder`; and for features
            without a token of a patch, or too wide.
        """
        if self.checked.shape is None:
            self.checked.check_alone(images)
        found = self.checked(images)
        found = found if self.encoder.branches else found[:, None]
        num_tokens, prefix = found.shape[2], self.encoder.num_prefix
        if self.is_pooled and num_tokens > 1:
            if num_tokens <= prefix:
                raise UserError(f"{self.encoder.name} gave no token of a patch")
            found = found[:, :, prefix:].mean(axis=2, keepdims=True, dtype=np.float64)
        if found.shape[-1] > MAX_WIDTH:
            raise UserError(
                f"features of {self.encoder.name} are of {found.shape[-1]} numbers; at "
                f"most {MAX_WIDTH} are possible: pool them"
            )
        return found


def patch_pixels(
    images: np.ndarray, num_tokens: int, num_prefix: int, size: tuple[int, int] | None
) -> np.ndarray | None:
    """Returns the pixels of each token's patch, smaller; None without a grid.

    Args:
      images: [B, H, W, C].
      num_tokens: T; with 1, the whole image is one patch.
      num_prefix: number of tokens before the patches', which get the patches' mean.
      size: height and width that the encoder sees, which its grid has the proportions of;
        None: those of the images.
    Returns:
      [B, T, P] float32.
    """
    prefix = num_prefix if num_tokens > 1 else 0
    grid = _grid(num_tokens - prefix, size or images.shape[1:3])
    if grid is None:
        return None
    side = WHOLE_SIDE if grid == (1, 1) else PATCH_SIDE
    axes = [_averaging(n, m, side) for n, m in zip(images.shape[1:3], grid, strict=True)]
    small = np.einsum("ih,jw,bhwc->bijc", *axes, images, optimize=True)
    rows, columns = (len(axis) // m for axis, m in zip(axes, grid, strict=True))
    small = small.reshape(len(images), grid[0], rows, grid[1], columns, -1)
    patches = small.transpose(0, 1, 3, 2, 4, 5).reshape(len(images), math.prod(grid), -1)
    before = np.repeat(patches.mean(axis=1, keepdims=True), prefix, axis=1)
    return np.concatenate([before, patches], axis=1).astype(np.float32)


def _grid(count: int, size: Sequence[int]) -> tuple[int, int] | None:
    """Returns rows and columns of `count` square patches of an image; None if none fit.

    One patch is the whole image, whatever its proportions.
    """
    if count == 1:
        return 1, 1
    height, width = size
    rows = math.isqrt(count * height // width)
    if rows and count % rows == 0 and rows * width == count // rows * height:
        return rows, count // rows
    return None


def _averaging(size: int, grid: int, side: int) -> np.ndarray:
    """Returns the matrix that averages `size` pixels to at most `grid * side` [n, size]."""
    count = grid * max(1, min(side, round(size / grid)))
    edges = np.linspace(0, size, count + 1)
    covered = np.clip(
        np.minimum(edges[1:, None], np.arange(size) + 1)
        - np.maximum(edges[:-1, None], np.arange(size)),
        0,
        None,
    )
    return covered / covered.sum(axis=1, keepdims=True)


def random_features(pixels: np.ndarray, width: int) -> np.ndarray:
    """Returns max(0, x W + b) of [B, T, P] pixels in 0..255, [B, T, width]; W is fixed."""
    random = np.random.default_rng(0)
    weights = random.normal(size=(pixels.shape[-1], width)) / np.sqrt(pixels.shape[-1])
    return np.maximum((pixels / 255 - 0.5) @ weights + 0.1 * random.normal(size=width), 0)


RAW, RANDOM, UNTRAINED = "raw pixels", "random features", "untrained"
SUPERPOSED = "superposition, fitted"


@dataclasses.dataclass
class MixtureStream:
    """Streams features of mixtures and controls, with targets of each image alone.

    Attributes:
      encode: features of mixtures.
      target: features of single images; None: pixels.
      untrained: the encoder with random weights, or None.
      splits: [N, H, W, C] images in 0..255, by name.
      alphas: weights of the subordinate image.
      batch_size: images per call of an encoder.
      seed: random seed of the pairs.
      controls: False leaves out superposition, raw pixels and random features.
      origins: [D] by row, subtracted so that float64 sums of squares stay exact for
        features far from zero.
    """

    encode: Features
    target: Features | None
    untrained: Features | None
    splits: Mapping[str, np.ndarray | LazyImages]
    alphas: Sequence[float]
    batch_size: int
    seed: int
    controls: bool = True
    origins: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def __call__(self, split: str) -> Iterator[Latents]:
        """Yields the latents of a split, batch by batch and alpha by alpha.

        Both mixtures of a pair are adjacent, so each image is encoded alone once.
        """
        images = self.splits[split]
        order = epoch_groups(len(images), self.seed, epoch=0).reshape(-1)
        step = max(2, self.batch_size // 2 * 2)
        for start in range(0, len(order), step):
            own = np.asarray(images[order[start : start + step]], np.float32)
            sources, alone = np.stack([own, rotate(own, PAIR, 1)], axis=1), None
            for alpha in self.alphas:
                weights = np.full(len(own), alpha, np.float32)
                mixtures = np.asarray(mix(sources, weights))
                rows = self._rows(mixtures)
                if alone is None:
                    alone = self._targets(own, rows[""].shape[2])
                if self.controls:
                    # What the null of infinitely many images is with these images.
                    sum_of_both = alpha * alone[:, 0] + (1 - alpha) * alone[:, 1]
                    rows[SUPERPOSED] = sum_of_both[:, None]
                positions = np.arange(alone.shape[2])
                yield Latents(
                    {(alpha, row): self._less(x, row) for row, x in rows.items()},
                    alone,
                    np.broadcast_to(positions, (len(own), len(positions))),
                )

    def _rows(self, mixtures: np.ndarray) -> dict[str, np.ndarray]:
        """Encodes mixtures by every row of the table, [B, S, T, D] each."""
        rows = {"": self.encode(mixtures)}
        if not self.controls:
            return rows
        num_tokens, width = rows[""].shape[2:]
        pixels = self._patch_pixels(mixtures, num_tokens)
        if pixels is not None:
            rows[RAW] = pixels[:, None]
            rows[RANDOM] = random_features(pixels, width)[:, None]
        if self.untrained is not None:
            rows[UNTRAINED] = self.untrained(mixtures)
        return rows

    def _targets(self, images: np.ndarray, num_tokens: int) -> np.ndarray:
        """Encodes single images, pairs adjacent: [B, S, T, E]."""
        name = self.encode.encoder.name
        if self.target is None:
            found = self._patch_pixels(images, num_tokens)
            if found is None:
                raise UserError(
                    f"target=pixels: the {num_tokens} tokens of {name} form no grid "
                    "of square patches; take features=pooled"
                )
        else:
            found = self.target(images)
            found = found[:, 0]
            if found.shape[-2] != num_tokens:
                raise UserError(
                    f"{name} gave {num_tokens} tokens, target "
                    f"{self.target.encoder.name} {found.shape[-2]}; take features=pooled"
                )
        found = self._less(found, "target")
        return np.stack([found, rotate(found, PAIR, 1)], axis=1)

    def _patch_pixels(self, images: np.ndarray, num_tokens: int) -> np.ndarray | None:
        """Returns `patch_pixels` of the patches that the encoder's tokens are of."""
        encoder, kept = self.encode.encoder, None
        prefix, size = encoder.num_prefix, encoder.preprocessing.size
        if encoder.kept is not None and num_tokens > 1:
            kept = [*range(prefix), *(prefix + encoder.kept)]
            num_tokens = prefix + encoder.num_patches
        found = patch_pixels(images, num_tokens, prefix, size)
        return found if found is None or kept is None else found[:, kept]

    def _less(self, features: np.ndarray, row: str) -> np.ndarray:
        """Subtracts the first batch's mean."""
        if row not in self.origins:
            axes = tuple(range(features.ndim - 1))
            self.origins[row] = features.mean(axis=axes, dtype=np.float64)
        return features - self.origins[row]
