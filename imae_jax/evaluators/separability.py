"""Linear separability: does an affine map take a mixture's latents to each image's own?

The target is what a frozen MAE teacher makes of one image *alone*, under the same mask;
the input is what a network makes of the mixture. A position says much by itself, so the
train split's mean of each position is subtracted from both first.

`linear_separability` is the metric on plain arrays, `mixture_separability` measures any
encoder, `evaluate` a trained run with all its baselines and controls.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from ml_collections import ConfigDict

from imae_jax.config.rules import text
from imae_jax.errors import UserError, require
from imae_jax.evaluators.evaluator import Evaluator
from imae_jax.evaluators.external_encoder import EncodedMixtures, Encoder
from imae_jax.evaluators.held_out import Batch, HeldOut, latents_of_images
from imae_jax.evaluators.metric_names import at
from imae_jax.evaluators.networks import BASELINES, Network, rows_of
from imae_jax.evaluators.separability_scores import TOKENS, Latents, measure
from imae_jax.evaluators.tables import (
    Numbers,
    Results,
    Table,
    labelled_rows,
    network_rows,
)
from imae_jax.models.imae import IMAE
from imae_jax.objectives.mixing import BRANCHES
from imae_jax.probing.arrays import as_count, as_images, as_number, as_text
from imae_jax.probing.linear_separability import VALIDATION_SHARE, linear_separability

__all__ = ["EVALUATOR", "linear_separability", "mixture_separability"]

# Runs that are compared with the run itself.
BASELINE_RUNS = ("without_distillation",)

RULES = {"teacher": text} | {f"baseline_runs.{name}": text for name in BASELINE_RUNS}


# Public: all but the first three parameters have defaults, and go by name.
def mixture_separability(
    encode: Callable[[np.ndarray], np.ndarray],
    train_images: np.ndarray,
    test_images: np.ndarray,
    *,
    target: Callable[[np.ndarray], np.ndarray] | None = None,
    branches: bool = False,
    alpha: float = 0.3,
    batch_size: int = 256,
    seed: int = 0,
) -> dict[str, float]:
    """How well any encoder's features of mixtures tell its features of each image alone.

    Args:
      encode: images -> features, a row for each. It is given NumPy arrays [B, H, W, C]
        float32 in the range of the images (uint8 as 0..255), images alone and mixtures
        alike, and may write to them. It gives [B, D] features or [B, T, D] tokens (centred
        token by token, so a mask must be the same in every call), as an array of NumPy's or
        JAX's or a tensor of PyTorch's, on any device. It is deterministic and takes each
        image by itself, which is tried on one batch.
      train_images, test_images: [N, H, W, C] real numbers in the encoder's units, or lists
        of pictures or arrays; the axes after N are handed on as they are. Paired at random,
        each pair makes two mixtures. A random fifth of the training images chooses the
        ridge.
      target: what an image alone should be told as; it is given and gives what `encode`
        does, as many tokens; by default `encode` itself.
      branches: whether `encode` gives what two branches make of a mixture, [B, S, D] or
        [B, S, T, D]; it then needs `target`.
      alpha: weight of the subordinate image, in (0, 0.5].
      batch_size: images given to `encode` at a time; the last batch may be smaller.
      seed: of the pairs, and of that fifth.
    Returns:
      The numbers of `separability_scores.measure`, such as `subordinate/r2` and
      `assignment_accuracy`.
    Raises:
      UserError: for numbers that are not possible, for images and features of another
        shape or type, or not finite, for fewer than 10 images, for an encoder that is not
        as above, and for targets that do not vary.
    """
    alpha = as_number(alpha, "alpha", "in (0, 0.5]", lambda alpha: 0 < alpha <= 0.5)
    batch_size, seed = as_count(batch_size, "batch_size", 1), as_count(seed, "seed", 0)
    train, test = _image_splits(train_images, test_images)
    _check_branches(branches, target)
    order = np.random.default_rng(seed).permutation(len(train))
    first = round(len(train) * (1 - VALIDATION_SHARE))
    splits = {
        "train": train[order[:first]],
        "validation": train[order[first:]],
        "test": test,
    }
    of_mixture = Encoder(encode, "encode", bool(branches))
    of_image = of_mixture if target is None else Encoder(target, "target", False)
    stream = EncodedMixtures(of_mixture, of_image, splits, alpha, batch_size, seed)
    return dict(measure(stream, next(stream("test")).position.shape[1]))


def _check_branches(branches, target) -> None:
    """Raises UserError unless two branches, if there are any, have a target."""
    if not isinstance(branches, bool | np.bool_):
        raise UserError(f"branches={branches!r} is not possible: it must be True or False")
    if branches and target is None:
        raise UserError("branches=True needs target: what an image alone should be told as")


def _image_splits(train_images, test_images) -> tuple[np.ndarray, np.ndarray]:
    """Both as [N, H, W, C] of one shape, and enough of them."""
    train = as_images(train_images, "train_images")
    test = as_images(test_images, "test_images")
    if train.shape[1:] != test.shape[1:]:
        raise UserError(
            f"train_images is {as_text(train)}, test_images {as_text(test)}; the images "
            "must be of one shape"
        )
    if min(len(train), len(test)) < 10:
        raise UserError(
            f"{len(train)} train_images and {len(test)} test_images are too few: at least "
            "10 of each are needed"
        )
    return train, test


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


def latents_of(
    networks: Mapping[str, Network], batch: Batch, alphas: Sequence[float]
) -> Latents:
    """Every row's latents at every alpha, and the teacher's of each image alone."""
    valid = batch.valid
    features = {
        f"{at(alpha=alpha)}{row}": latents[valid]
        for alpha in alphas
        for row, latents in rows(networks, batch, alpha)
    }
    targets = latents_of_images(networks["teacher"], batch)
    return Latents(features, targets[valid], batch.position[valid])


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
      The numbers of `separability_scores.measure`; a baseline's below `baselines/<row>/`.
    """

    weights = sorted({alpha, *alphas})

    def stream(part: str) -> Iterator[Latents]:
        part = split if part == "test" else part
        batches = held_out.batches(part, batch_size=batch_size, seed=seed)
        return (latents_of(networks, batch, weights) for batch in batches)

    own, swept = at(alpha=alpha), tuple(at(alpha=weight) for weight in alphas)
    for name, value in measure(stream, 1 + held_out.num_patches):
        if name.startswith(own):
            yield name.removeprefix(own), value
        if not name.startswith("alpha_") or name.startswith(swept):
            yield name, value


def check(section: ConfigDict, key: str, model: IMAE) -> None:
    """Raises UserError for a baseline that has no row."""
    for name in section.get("baseline_runs") or ():
        allowed = f"one of {', '.join(BASELINE_RUNS)}"
        require(name in BASELINE_RUNS, f"{key}.baseline_runs", name, allowed)


def _main_table(numbers: Numbers, run: str) -> Table:
    keys = [
        f"separability/{{row}}{branch}/{metric}"
        for metric in ("r2", "cross_r2")
        for branch in BRANCHES
    ]
    keys.append("separability/{row}assignment_accuracy")
    return Table(
        "Linear separability",
        "R2 of the best linear map from a branch's latents of the mixture to what the "
        "teacher makes of that branch's image alone; what the position alone tells is "
        "taken out first. 1 is perfect, 0 is nothing. Cross: the same for the other image, "
        "where a branch that keeps to its own scores 0. Assignment accuracy: fraction of "
        "mixtures whose two latents are nearer to their own images' than exchanged.",
        (*BRANCHES, "cross, sub.", "cross, dom.", "assignment accuracy"),
        network_rows(numbers, run, keys),
        run=run,
        example=keys[0].format(row=""),
    )


def _control_table(numbers: Numbers, run: str) -> Table:
    metrics = {
        "linear map (as above)": "{branch}/r2",
        "linear map, positions not taken out": "{branch}/r2_uncentred",
        "position alone, not taken out": "position_only/{branch}/r2_uncentred",
        "latents as they are, no map": "{branch}/raw_r2",
        "linear map: squared distance M_ls": "{branch}/mse",
        "no map: squared distance": "{branch}/raw_mse",
    }
    keys = {
        label: [f"separability/{metric.format(branch=branch)}" for branch in BRANCHES]
        for label, metric in metrics.items()
    }
    return Table(
        "Linear separability: controls",
        "R2, and what is left in the end as squared distance per token and channel. "
        "Latents are told apart by their position to begin with, which is why a table "
        "that did not take it out would flatter every network.",
        BRANCHES,
        labelled_rows(numbers, keys),
        run=run,
        is_control=True,
        example=f"separability/{BRANCHES[0]}/r2",
    )


def tables(results: Results) -> Iterator[Table]:
    """R2 of every row and branch; then what keeps it honest."""
    for run, numbers in results.items():
        yield _main_table(numbers, run)
        yield _control_table(numbers, run)


EVALUATOR = Evaluator(
    evaluate,
    RULES,
    check,
    tables,
    needs_mixtures=True,
    needs_teacher=True,
    chooses_on_validation=True,
    run_keys=("teacher", "baseline_runs"),
    without_alpha=("position_only/*",),
)
