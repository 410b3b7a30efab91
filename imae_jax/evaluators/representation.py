"""How alike two networks' representations are, and how many directions they use."""

from collections.abc import Iterator, Mapping

import numpy as np

from imae_jax.errors import UserError
from imae_jax.evaluators.arrays import as_features, as_numbers, as_text, centred, check_rows
from imae_jax.evaluators.inputs import HeldOut, Network
from imae_jax.evaluators.linear import Moments
from imae_jax.mixing import BRANCHES

# Of a covariance's size, how far rounding in float32 may take it from being one.
TOLERANCE = 1e-5


def linear_cka(x: np.ndarray, y: np.ndarray) -> float:
    """Linear centred kernel alignment of [N, D1] and [N, D2] features, in [0, 1].

    ||Y'X||^2 / (||X'X|| ||Y'Y||) after centring (Kornblith et al. 2019): 1 for features
    that are equal up to rotation and scale.

    Raises:
      UserError: for arrays that are not finite [N, D], rows that do not match or are fewer
        than three (of which any two features are alike), and features that do not vary.
    """
    x, y = as_features(x, "x", ("N", "D1")), as_features(y, "y", ("N", "D2"))
    check_rows(y, "y", x, "x")
    if len(x) < 3:
        raise UserError(f"x and y have {len(x)} rows; at least 3 are needed")
    (x,), (y,) = centred(x), centred(y)
    for name, array in (("x", x), ("y", y)):
        if not array.any():
            raise UserError(f"{name} does not vary: all its rows are equal")
    both = np.square(y.T @ x).sum()
    return float(both / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)))


def effective_rank(covariance: np.ndarray) -> float:
    """exp of the entropy of a [D, D] covariance's normalized eigenvalues, in [1, D].

    Roy and Vetterli 2007, on variances: D for white features, 1 where a single direction
    varies.

    Raises:
      UserError: for numbers that are not finite, and for what is no covariance: not square
        and symmetric, with negative eigenvalues, or zero.
    """
    given = as_numbers(covariance, "covariance")
    matrix = given.astype(np.float64)
    if matrix.ndim != 2 or len(matrix) != matrix.shape[1]:
        raise UserError(
            f"covariance is {as_text(given)}; it must be [D, D]: np.cov(features, "
            "rowvar=False)"
        )
    size = np.abs(matrix).max()
    if np.abs(matrix - matrix.T).max() > TOLERANCE * size:
        raise UserError(f"covariance is {as_text(given)}, but not symmetric; it must be")
    values = np.linalg.eigvalsh(matrix)
    if not size or values[0] < -TOLERANCE * values[-1]:
        raise UserError(
            f"covariance has eigenvalues from {values[0]:.3g} to {values[-1]:.3g}; none "
            "may be negative, and one must be positive"
        )
    values = np.maximum(values, 0)
    fractions = values[values > 0] / values.sum()
    return float(np.exp(-np.sum(fractions * np.log(fractions))))


def layers(network: Network, held_out: HeldOut, split: str, batch_size: int) -> np.ndarray:
    """Each image's mean patch token after each block, [N, depth, D]."""
    parts = [
        network.embed(images)["layers"][valid]
        for images, valid in held_out.images(split, batch_size=batch_size)
    ]
    return np.concatenate(parts)


def evaluate(
    networks: Mapping[str, Network],
    held_out: HeldOut,
    *,
    split: str,
    alpha: float,
    batch_size: int,
    seed: int,
) -> Iterator[tuple[str, float]]:
    """CKA with the teacher layer by layer, and effective ranks.

    Args:
      networks: `student`, `teacher`, and any of `without_distillation` and `random`.
      held_out: gives images and mixtures.
      split, batch_size, seed: see `HeldOut.batches`.
      alpha: weight of the subordinate image.
    Yields:
      `cka/layer_<number>` and, for baselines, `baselines/<name>/cka/layer_<number>`: the
      network's layer beside the teacher's of the same number, on whole images alone, as
      far as both have one. `effective_rank/<branch>` of the latents of mixtures and
      `baselines/teacher_on_image/effective_rank` of the teacher's latents of images alone,
      over tokens, each position about its mean.
    """
    target = layers(networks["teacher"], held_out, split, batch_size)
    for name in ("student", "without_distillation", "random"):
        if name not in networks:
            continue
        prefix = "" if name == "student" else f"baselines/{name}/"
        own = layers(networks[name], held_out, split, batch_size)
        for layer in range(min(own.shape[1], target.shape[1])):
            value = linear_cka(own[:, layer], target[:, layer])
            yield f"{prefix}cka/layer_{layer + 1:02d}", value
    moments: dict[str, Moments] = {}

    def add(name, latents, batch):
        """Latents [B, 1 + K, E]."""
        tokens = latents[batch.valid].reshape(-1, latents.shape[-1])
        empty = Moments.zeros(1 + held_out.num_patches, latents.shape[-1], 0)
        position = batch.position[batch.valid].reshape(-1)
        moments.setdefault(name, empty).add(tokens, tokens[:, :0], position)

    for batch in held_out.batches(split, batch_size=batch_size, seed=seed):
        mixtures = networks["student"].predict(batch.mixture(alpha), batch.mask)["latents"]
        for s in range(mixtures.shape[1]):
            add(f"effective_rank/{BRANCHES[s]}", mixtures[:, s], batch)
        images = networks["teacher"].predict(batch.sources[:, 0], batch.mask)["latents"]
        add("baselines/teacher_on_image/effective_rank", images, batch)
    for name, found in moments.items():
        yield name, effective_rank(found.centred(*found.position_means()).zz)
