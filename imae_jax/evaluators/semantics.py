"""Do a branch's latents say what *its* image is, and not what the other one is?

A linear probe (logistic regression), one per alpha, names an image's class from latents of
the mixture. Only mixtures of two different classes count: where both images are of one
class, either branch would do.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from imae_jax.errors import UserError
from imae_jax.evaluators.inputs import (
    Batch,
    HeldOut,
    Network,
    latents_of_images,
    rows_of,
)
from imae_jax.evaluators.labelled import Labelled, Splits, chance, logistic_accuracy
from imae_jax.evaluators.names import at
from imae_jax.evaluators.separability import BASELINES
from imae_jax.mixing import BRANCHES


def pooled(latents: np.ndarray) -> dict[str, np.ndarray]:
    """[..., 1 + K, E] latents as one vector, [..., E], by pool."""
    return {"mean": latents[..., 1:, :].mean(axis=-2), "class_token": latents[..., 0, :]}


def rows(
    networks: Mapping[str, Network], batch: Batch, alphas: Sequence[float]
) -> Iterator[tuple[str, np.ndarray]]:
    """Each row's latents: [B, S, 1 + K, E], or [B, 1 + K, E] of a network without heads."""
    for alpha in alphas:
        mixture = batch.mixture(alpha)
        for row, network in rows_of(networks, BASELINES).items():
            yield f"{at(alpha=alpha)}{row}", network.predict(mixture, batch.mask)["latents"]
    yield "teacher_on_image/", latents_of_images(networks["teacher"], batch)


def collect(
    networks: Mapping[str, Network],
    held_out: HeldOut,
    split: str,
    *,
    alphas: Sequence[float],
    batch_size: int,
    seed: int,
) -> tuple[dict[tuple[str, str], np.ndarray], np.ndarray]:
    """Features of a split's mixtures of two classes: by (row, pool), and labels [N, S]."""
    features, labels = {}, []
    for batch in held_out.batches(split, batch_size=batch_size, seed=seed):
        counted = batch.different_classes
        for row, latents in rows(networks, batch, alphas):
            for pool, vectors in pooled(latents).items():
                features.setdefault((row, pool), []).append(vectors[counted])
        labels.append(batch.labels[counted])
    if not sum(map(len, labels)):
        raise UserError(f"semantics: no mixture of two classes in the {split} split")
    return {key: np.concatenate(x) for key, x in features.items()}, np.concatenate(labels)


def questions(vectors: np.ndarray) -> Iterator[tuple[int, str, np.ndarray]]:
    """What a row is asked: (image, name of the answer, features [N, E] to answer from)."""
    for s in range(len(BRANCHES)):
        if vectors.ndim == 2:  # one embedding for both images
            yield s, "accuracy", vectors
        elif s < vectors.shape[1]:
            yield s, "accuracy", vectors[:, s]
            if vectors.shape[1] == len(BRANCHES):
                yield s, "other_branch_accuracy", vectors[:, 1 - s]


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
    """How often a linear probe on a branch's latents names its image's class.

    Args:
      networks: `student` and `teacher`, and any of separability's baselines.
      held_out: makes the mixtures.
      split: what is scored; probes are fitted on `train`, their strength on `validation`.
      alpha: weight of the subordinate image.
      alphas: weights of the sweep, below `alpha_<weight>/`.
      batch_size, seed: see `HeldOut.batches`.
    Yields:
      Below `<row><branch>/`: `accuracy`, and `other_branch_accuracy`, which names this
      branch's image from the *other* branch's latents; from the mean of the visible tokens
      and, below `class_token/` and at `alpha` only, from the class token. The row
      `teacher_on_image/` is the teacher, shown each image alone under the same mask; its
      `other_branch_accuracy` is what latents of the other image tell by themselves.
      `chance` is the accuracy of the commonest class, `count` the number of mixtures.
    """
    options = dict(alphas=sorted({alpha, *alphas}), batch_size=batch_size, seed=seed)
    parts = [
        collect(networks, held_out, part, **options)
        for part in ("train", "validation", split)
    ]
    labels = [part[1] for part in parts]
    own, swept = at(alpha=alpha), tuple(at(alpha=weight) for weight in alphas)
    for row, pool in parts[0][0]:
        is_own = row.startswith(own) or not row.startswith("alpha_")
        if pool == "class_token" and not is_own:
            continue
        asked = (questions(features[row, pool]) for features, _ in parts)
        for (s, metric, train), (*_, validation), (*_, test) in zip(*asked, strict=True):
            examples = map(Labelled, (train, validation, test), (y[:, s] for y in labels))
            splits = Splits(*examples).checked(f"semantics, {row}{BRANCHES[s]}")
            value = logistic_accuracy(splits)
            name = f"{BRANCHES[s]}/{'' if pool == 'mean' else f'{pool}/'}{metric}"
            if is_own:
                yield row.removeprefix(own) + name, value
            if row.startswith(swept) and pool == "mean":
                yield row + name, value
    yield "chance", chance(labels[0][:, 0], labels[-1][:, 0])
    yield "count", len(labels[-1])
