"""Linear separability of mixtures, for any encoder and any images."""

from collections.abc import Callable
from typing import Any

import numpy as np

from imae_jax.errors import UserError
from imae_jax.evaluators.external_encoder import EncodedMixtures, Encoder
from imae_jax.evaluators.mlp_separability import measure_mlp
from imae_jax.evaluators.separability_scores import measure
from imae_jax.models.branches import NUM_SOURCES
from imae_jax.probing.arrays import as_count, as_images, as_number, as_text
from imae_jax.probing.linear_separability import VALIDATION_SHARE

# Options of the MLP, as in `configs/imae.py`.
MLP = dict(width=256, epochs=30, batch_size=512, lr=1e-3)


def mixture_separability(
    encode: Callable[[np.ndarray], np.ndarray],
    train_images: np.ndarray,
    test_images: np.ndarray,
    *,
    target: Callable[[np.ndarray], np.ndarray] | None = None,
    branches: bool = False,
    map: str = "linear",
    sources: int = 2,
    alpha: float = 0.3,
    batch_size: int = 256,
    seed: int = 0,
) -> dict[str, float]:
    """Measures how well features of mixtures linearly predict features of each image alone.

    Args:
      encode: images -> features. The input is a NumPy array [B, H, W, C] float32 in the
        range of the images (uint8 as 0..255), holding single images or mixtures; it may be
        modified. The output is [B, D] features or [B, T, D] tokens (centred token by token,
        so a mask must be the same in every call), as a NumPy or JAX array or a PyTorch
        tensor on any device. It must be deterministic and treat images independently, which
        is checked on one batch.
      train_images, test_images: [N, H, W, C] real numbers in the encoder's units, or lists
        of pictures or arrays; the axes after N are passed on unchanged. Images are paired
        at random; each pair makes two mixtures. A random fifth of the training images is
        used to choose the ridge strength.
      target: images -> target features of a single image, with the input and output of
        `encode` and as many tokens; by default `encode` itself.
      branches: True if `encode` returns S branches, [B, S, D] or [B, S, T, D]; `target` is
        then required.
      map: "linear", or "mlp" for the scores of a small MLP besides, whose training takes a
        minute or so: far above linear, the images are told apart, but not linearly.
      sources: number of images in a mixture, S: 2, 3 or 4. Groups of S images then stand in
        place of pairs, and each makes S mixtures in which its images change roles.
      alpha: weight of the subordinate image, in (0, 0.5): at 0.5 nothing tells which image
        is which. Of more than two images see `mixing.weights_at`.
      batch_size: images per call of `encode`; the last batch may be smaller.
      seed: random seed of the pairs and the validation fifth.
    Returns:
      The metrics of `separability_scores.measure`, such as `subordinate/r2`, its
      `subordinate/r2_null` (pure superposition) and `gain`; with an MLP, also those of
      `mlp_separability.measure_mlp`.
    Raises:
      UserError: for numbers out of range, for images or features of a wrong shape or type
        or that are not finite, for fewer than five images for each of a mixture, for an
        encoder that is not as described, and for constant targets.
    """
    allowed = "in (0, 0.5): at 0.5 nothing tells which image is which"
    alpha = as_number(alpha, "alpha", allowed, lambda alpha: 0 < alpha < 0.5)
    if map not in ("linear", "mlp"):
        raise UserError(f"invalid map={map!r}: must be 'linear' or 'mlp'")
    if sources not in NUM_SOURCES:
        raise UserError(f"invalid sources={sources!r}: must be 2, 3 or 4")
    batch_size, seed = as_count(batch_size, "batch_size", 1), as_count(seed, "seed", 0)
    train, test = _image_splits(train_images, test_images, 5 * sources)
    _check_branches(branches, target)
    order = np.random.default_rng(seed).permutation(len(train))
    first = round(len(train) * (1 - VALIDATION_SHARE))
    splits = {
        "train": train[order[:first]],
        "validation": train[order[first:]],
        "test": test,
    }
    of_mixture = Encoder(encode, "encode", bool(branches), sources)
    of_image = of_mixture if target is None else Encoder(target, "target", False)
    fixed = alpha, sources, batch_size, seed
    stream = EncodedMixtures(of_mixture, of_image, splits, *fixed)
    num_positions = next(stream("test")).position.shape[1]
    found = [*measure(stream, num_positions)]
    if map == "mlp":
        found += measure_mlp(stream, num_positions, MLP | {"seed": seed})
    return {name: value for _, name, value in found}


def _check_branches(branches: Any, target: Any) -> None:
    """Raises UserError unless `branches` is a bool, and comes with a target if True."""
    if not isinstance(branches, bool | np.bool_):
        raise UserError(f"invalid branches={branches!r}: must be True or False")
    if branches and target is None:
        raise UserError("branches=True needs target: what an image alone should be told as")


def _image_splits(
    train_images: Any, test_images: Any, fewest: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns both as [N, H, W, C], checked for equal image shapes and for size."""
    train = as_images(train_images, "train_images")
    test = as_images(test_images, "test_images")
    if train.shape[1:] != test.shape[1:]:
        raise UserError(
            f"train_images is {as_text(train)}, test_images {as_text(test)}; the images "
            "must be of one shape"
        )
    if min(len(train), len(test)) < fewest:
        raise UserError(
            f"{len(train)} train_images and {len(test)} test_images are too few: at least "
            f"{fewest} of each are needed"
        )
    return train, test
