"""Masks of training: which patches are visible, by kind, at a fixed number of them."""

import dataclasses

import jax
import jax.numpy as jnp

from imae_jax.models.masking import Mask, mask_from_noise, num_visible, random_mask
from imae_jax.models.patches import patchify

MASK_KINDS = ("random", "block", "grid", "content")

# BEiT's blocks (masking_generator.py): at least 16 of 196 patches, of these proportions.
SMALLEST_BLOCK = 16 / 196
LARGEST_ASPECT = 1 / 0.3
# Drawn blocks. What the last leave uncovered, mostly corners, is masked at random.
NUM_BLOCKS = 32


@dataclasses.dataclass(frozen=True)
class Masking:
    """Draws the masks of training.

    Attributes:
      ratio: fraction of masked patches, in [0, 1).
      kind: "random" (MAE); "block", rectangles (BEiT); "grid", as regular as the ratio
        allows; "content", by how much a patch varies.
      content_weight: of "content", how much the rank of a patch's variance counts beside
        chance: above 0, detailed patches are masked more often, below 0 flat ones.
      grid: (rows, columns) of an image's patches, L = rows * columns.
    """

    ratio: float
    kind: str
    content_weight: float
    grid: tuple[int, int]

    @property
    def needs_images(self) -> bool:
        """True if `draw` looks at the images."""
        return self.kind == "content"

    def draw(
        self, key: jax.Array, batch_size: int, images: jax.Array | None = None
    ) -> Mask:
        """Draws an independent mask for each of B images.

        The order of the visible and that of the masked patches are uniform in every kind.

        Args:
          key: PRNG key.
          batch_size: B.
          images: [B, H, W, C] float, what the encoder will see; only if `needs_images`.
        """
        rows, columns = self.grid
        if self.kind == "random":
            return random_mask(key, batch_size, rows * columns, self.ratio)
        score_key, tie_key, order_key = jax.random.split(key, 3)
        if self.kind == "block":
            scores = block_scores(score_key, batch_size, self.grid, self.ratio)
        elif self.kind == "grid":
            scores = grid_scores(score_key, batch_size, self.grid)
        else:
            assert images is not None, "see `needs_images`"
            variance = patchify(images, images.shape[1] // rows).var(axis=-1)
            scores = content_scores(score_key, variance, self.content_weight)
        ties = jax.random.uniform(tie_key, scores.shape)
        masked = _ranks(scores, ties) >= num_visible(rows * columns, self.ratio)
        order = jax.random.uniform(order_key, scores.shape)  # [0, 1)
        return mask_from_noise(masked + order, self.ratio)


def _ranks(scores: jax.Array, ties: jax.Array) -> jax.Array:
    """Returns [B, L] int, each score's place in its row; equal ones by `ties`."""
    return jnp.argsort(jnp.lexsort((ties, scores), axis=-1), axis=-1)


def block_scores(
    key: jax.Array, batch_size: int, grid: tuple[int, int], ratio: float
) -> jax.Array:
    """Draws scores [B, L] whose largest are rectangles of patches, the last of them partly.

    Sizes and proportions are drawn as in BEiT; a block covers at least one patch and at
    most as many as are masked. BEiT draws the last blocks small enough to fit; here the
    last one is cut to what is left around its centre.
    """
    num_patches = grid[0] * grid[1]
    keys = jax.random.split(key, 4)
    shape = (batch_size, NUM_BLOCKS)
    most = num_patches - num_visible(num_patches, ratio)
    least = min(SMALLEST_BLOCK * num_patches, most)
    area = jax.random.uniform(keys[0], shape, minval=least, maxval=most)
    limit = jnp.log(LARGEST_ASPECT)
    aspect = jnp.exp(jax.random.uniform(keys[1], shape, minval=-limit, maxval=limit))
    sides = jnp.stack([jnp.sqrt(area * aspect), jnp.sqrt(area / aspect)], axis=-1)
    size = jnp.array(grid)
    sides = jnp.clip(jnp.round(sides), 1, size)  # [B, blocks, 2]
    place = jnp.stack([jax.random.uniform(k, shape) for k in keys[2:]], axis=-1)
    return scores_of_blocks(jnp.floor(place * (size - sides + 1)), sides, grid)


def scores_of_blocks(
    corners: jax.Array, sides: jax.Array, grid: tuple[int, int]
) -> jax.Array:
    """Returns scores [B, L]: the earlier a block covers a patch, the larger.

    Within a block they fall from the centre to the edges.

    Args:
      corners: [B, N, 2] float, (row, column) of each block's first patch.
      sides: [B, N, 2] float, its (rows, columns).
      grid: (rows, columns) of patches.
    """
    index = jnp.arange(grid[0] * grid[1])
    patches = jnp.stack([index // grid[1], index % grid[1]], axis=-1) + 0.5  # [L, 2]
    centres = corners + sides / 2
    offset = jnp.abs(patches - centres[:, :, None]) / (sides[:, :, None] / 2)
    distance = offset.max(axis=-1)  # [B, N, L], below 1 within a block
    count = corners.shape[1]
    reached = jnp.arange(count)[:, None] + distance
    return -jnp.where(distance < 1, reached, count).min(axis=1)


def grid_scores(key: jax.Array, batch_size: int, grid: tuple[int, int]) -> jax.Array:
    """Draws scores [B, L] that rank the four cosets of every second row and column.

    At a ratio of 0.75 one patch of every 2x2 is visible, the same of each (MAE's "grid");
    other ratios take part of a coset, at random.
    """
    index = jnp.arange(grid[0] * grid[1])
    coset = 2 * (index // grid[1] % 2) + index % grid[1] % 2
    return jax.random.uniform(key, (batch_size, 4))[:, coset]


def content_scores(key: jax.Array, variance: jax.Array, weight: float) -> jax.Array:
    """Draws scores [B, L], uniform plus `weight` times the rank of the variance [B, L].

    Ranks are in [0, 1), those of equal variances in random order.
    """
    tie_key, score_key = jax.random.split(key)
    ranks = _ranks(variance, jax.random.uniform(tie_key, variance.shape))
    chance = jax.random.uniform(score_key, variance.shape)
    return chance + weight * ranks / variance.shape[1]
