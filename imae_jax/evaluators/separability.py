"""Linear separability: does an affine map take a mixture's latents to each image's own?

The target is what a frozen MAE teacher makes of one image *alone*, under the same mask;
the input is what a network makes of the mixture. A position says much by itself, so the
train split's mean of each position is subtracted from both first.

`linear_separability` is the metric on plain arrays, `mixture_separability` measures any
encoder, `evaluate` a trained run with all its baselines and controls.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from imae_jax.data.pairs import epoch_pairs
from imae_jax.errors import UserError
from imae_jax.evaluators import linear
from imae_jax.evaluators.inputs import (
    Batch,
    HeldOut,
    Network,
    latents_of_images,
    rows_of,
)
from imae_jax.evaluators.latents import TOKENS, Latents, measure
from imae_jax.evaluators.linear import RIDGES, Moments
from imae_jax.evaluators.names import at
from imae_jax.mixing import BRANCHES, mix, pair_sources

# Rows beside the i-MAE's own, and the network each shows the mixture to.
BASELINES = {
    "without_distillation": "without_distillation",
    "mae_on_mixture": "teacher",
    "random": "random",
}

# Share of the training examples that choose the ridge where no validation split is given.
VALIDATION_SHARE = 0.2


def linear_separability(
    train_features: np.ndarray,
    train_targets: np.ndarray,
    test_features: np.ndarray,
    test_targets: np.ndarray,
    *,
    ridges: Sequence[float] = RIDGES,
) -> dict[str, float]:
    """How well an affine map of the features predicts the targets; any encoder's.

    M_ls = mean ||W z + b - h||^2 and R2 = 1 - M_ls / Var(h), on the test arrays, the
    variance about the training mean. Positions are not told apart (`evaluate` does).

    Args:
      train_features, test_features: [N, D], such as tokens of mixtures.
      train_targets, test_targets: [N, E], such as tokens of one of the images alone.
      ridges: strengths, relative to the features' mean variance; where there are several,
        the last fifth of the training rows chooses, then all rows are fitted.
    Returns:
      `mse` (M_ls, per row and channel), `r2`, and the `ridge` that was taken.
    Raises:
      UserError: for arrays that are not 2-D or do not match, for too few rows, for numbers
        that are not finite, and for targets that do not vary.
    """
    arrays = [train_features, train_targets, test_features, test_targets]
    arrays = [np.asarray(array) for array in arrays]
    shapes = [array.shape for array in arrays]
    (train_z, train_h, test_z, test_h) = arrays
    if any(len(shape) != 2 for shape in shapes) or not (
        len(train_z) == len(train_h)
        and len(test_z) == len(test_h) > 0
        and train_z.shape[1] == test_z.shape[1]
        and train_h.shape[1] == test_h.shape[1]
    ):
        raise UserError(
            f"linear separability takes features [N, D] and targets [N, E] of a train and "
            f"a test split, got {', '.join(map(str, shapes))}"
        )
    if not len(ridges):
        raise UserError("linear separability needs at least one ridge")
    first = round(len(train_z) * (1 - VALIDATION_SHARE))
    fitted = Moments.of(train_z[:first], train_h[:first])
    held = Moments.of(train_z[first:], train_h[first:])
    ridge = linear.fit(fitted, held, ridges).ridge if len(ridges) > 1 else ridges[0]
    everything = fitted + held
    chosen = linear.fit(everything, everything, [ridge])
    return {**chosen.score(Moments.of(test_z, test_h)), "ridge": ridge}


def mixture_separability(
    encode: Callable[[np.ndarray], np.ndarray],
    train_images: np.ndarray,
    test_images: np.ndarray,
    *,
    target: Callable[[np.ndarray], np.ndarray] | None = None,
    alpha: float = 0.3,
    batch_size: int = 256,
    seed: int = 0,
) -> dict[str, float]:
    """How well any encoder's features of mixtures tell its features of each image alone.

    Args:
      encode: [B, H, W, C] images -> [B, D] features, [B, T, D] tokens (centred token by
        token, so a mask must be the same in every call), or [B, S, T, D] latents of a
        model with two branches.
      train_images, test_images: [N, H, W, C] in the encoder's units, paired at random;
        each pair makes two mixtures. A random fifth of the training images chooses the
        ridge.
      target: what an image alone should be told as, [B, E] or [B, T, E]; by default
        `encode` itself.
      alpha: weight of the subordinate image, in (0, 0.5].
      batch_size: images given to `encode` at a time; the last batch may be smaller.
      seed: of the pairs, and of that fifth.
    Returns:
      The numbers of `latents.measure`, such as `subordinate/r2` and
      `assignment_accuracy`.
    Raises:
      UserError: for an impossible alpha, for shapes that do not fit, and as
        `linear_separability`.
    """
    if not 0 < alpha <= 0.5:
        raise UserError(f"alpha={alpha} is not possible: it must be in (0, 0.5]")
    if min(len(train_images), len(test_images)) < 10:
        raise UserError(
            f"{len(train_images)} training and {len(test_images)} test images are too few: "
            "at least 10 of each are needed"
        )
    order = np.random.default_rng(seed).permutation(len(train_images))
    first = round(len(train_images) * (1 - VALIDATION_SHARE))
    splits = {
        "train": train_images[order[:first]],
        "validation": train_images[order[first:]],
        "test": test_images,
    }

    def as_tokens(features: np.ndarray) -> np.ndarray:
        """[B, D] -> [B, 1, D]; tokens stay as they are."""
        features = np.asarray(features)
        return features[:, None] if features.ndim == 2 else features

    def checked(latents: np.ndarray, targets: list[np.ndarray]) -> None:
        shapes = latents.shape, targets[0].shape
        if latents.ndim != 4 or targets[0].ndim != 3 or latents.shape[2] != shapes[1][1]:
            raise UserError(
                f"features of mixtures {shapes[0]} and targets {shapes[1]} do not fit: "
                "targets are [B, E] or [B, T, E], with as many tokens as the features; "
                "an encoder with two branches needs `target`"
            )

    def stream(split: str) -> Iterator[Latents]:
        images = splits[split]
        indices = epoch_pairs(len(images), seed, epoch=0).reshape(-1)
        for start in range(0, len(indices), batch_size):
            own = indices[start : start + batch_size]
            sources = np.asarray(pair_sources(images[own]))
            mixtures = np.asarray(mix(sources, np.full(len(own), alpha, np.float32)))
            targets = [as_tokens((target or encode)(sources[:, s])) for s in (0, 1)]
            latents = as_tokens(encode(mixtures))
            if latents.ndim == 3:  # no heads: the same for both branches
                latents = np.stack([latents] * len(BRANCHES), axis=1)
            checked(latents, targets)
            tokens = np.broadcast_to(np.arange(latents.shape[2]), latents.shape[::2][:2])
            yield Latents({"": latents}, np.stack(targets, axis=1), tokens)

    num_tokens = next(stream("test")).position.shape[1]
    return dict(measure(stream, num_tokens))


def rows(
    networks: Mapping[str, Network], batch: Batch, alpha: float
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields each row of the table: its prefix and its features [B, S, 1 + K, D or E].

    A network without heads offers one embedding to both branches: what its
    `decoder_embed` gives and, as a row of its own, its tokens.
    """
    mixture = batch.mixture(alpha)
    for row, network in rows_of(networks, BASELINES).items():
        out = network.predict(mixture, batch.mask)
        if out["latents"].ndim == 4:
            yield row, out["latents"]
            continue
        for name, features in (
            (row, out["latents"]),
            (row.removesuffix("/") + TOKENS, out["tokens"]),
        ):
            yield name, np.stack([features] * len(BRANCHES), axis=1)


def evaluate(
    networks: Mapping[str, Network],
    held_out: HeldOut,
    *,
    split: str,
    alpha: float,
    alphas: Sequence[float],
    batch_size: int,
    seed: int,
) -> Iterator[tuple[str, float]]:
    """Scores every row and branch, at `alpha` and over a sweep.

    Args:
      networks: `student` (an i-MAE) and `teacher` (a MAE), and any of the baselines
        `without_distillation` (an i-MAE) and `random` (a MAE of random weights).
      held_out: makes the mixtures.
      split: what is scored; the map is fitted on `train`, its ridge on `validation`.
      alpha: weight of the subordinate image.
      alphas: weights of the sweep, below `alpha_<weight>/`.
      batch_size, seed: see `HeldOut.batches`.
    Yields:
      The numbers of `latents.measure`; those of the baselines below `baselines/<row>/`.
    """

    def stream(part: str) -> Iterator[Latents]:
        part = split if part == "test" else part
        for batch in held_out.batches(part, batch_size=batch_size, seed=seed):
            valid = batch.valid
            targets = latents_of_images(networks["teacher"], batch)
            features = {
                f"{at(alpha=weight)}{row}": found[valid]
                for weight in sorted({alpha, *alphas})
                for row, found in rows(networks, batch, weight)
            }
            yield Latents(features, targets[valid], batch.position[valid])

    own, swept = at(alpha=alpha), tuple(at(alpha=weight) for weight in alphas)
    for name, value in measure(stream, 1 + held_out.num_patches):
        if name.startswith(own):
            yield name.removeprefix(own), value
        if not name.startswith("alpha_") or name.startswith(swept):
            yield name, value
