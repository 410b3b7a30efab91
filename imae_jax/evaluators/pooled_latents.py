"""Pooled latents of mixtures, the features that probes of mixtures are fitted on."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from imae_jax.evaluators.held_out import Batch, latents_of_images
from imae_jax.evaluators.metric_names import at
from imae_jax.evaluators.networks import BASELINES, Network, rows_of


class Vectors(NamedTuple):
    """Pooled latents and known factors of N mixtures.

    Attributes:
      features: by (row, pool), [N, S, E], or [N, E] for a network without heads.
      labels: [N, S] int.
      factors: other known factors of both images, [N, S] each, by name.
    """

    features: dict[tuple[str, str], np.ndarray]
    labels: np.ndarray
    factors: dict[str, np.ndarray]


def pooled(latents: np.ndarray) -> dict[str, np.ndarray]:
    """Pools [..., 1 + K, E] latents to [..., E], by name of the pool."""
    return {"mean": latents[..., 1:, :].mean(axis=-2), "class_token": latents[..., 0, :]}


def rows(
    networks: Mapping[str, Network], batch: Batch, alphas: Sequence[float]
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields each row's latents, [B, S, 1 + K, E], or [B, 1 + K, E] without heads."""
    for alpha in alphas:
        mixture = batch.mixture(alpha)
        for row, network in rows_of(networks, BASELINES).items():
            yield f"{at(alpha=alpha)}{row}", network.predict(mixture, batch.mask)["latents"]
    yield "teacher_on_image/", latents_of_images(networks["teacher"], batch)


def collect(
    networks: Mapping[str, Network],
    batches: Iterable[Batch],
    selected: Callable[[Batch], np.ndarray],
    *,
    pools: Sequence[str],
    alphas: Sequence[float],
) -> Vectors:
    """Pools the networks' latents of a split's mixtures.

    Args:
      networks: `student`, `teacher`, and optionally baselines.
      batches: batches of the split.
      selected: batch -> [B] bool, the mixtures to use.
      pools: names of pools, see `pooled`.
      alphas: weights of the subordinate image, each in rows of its own.
    """
    features: dict[tuple[str, str], list[np.ndarray]] = {}
    factors: dict[str, list[np.ndarray]] = {}
    labels = []
    for batch in batches:
        taken = selected(batch)
        for row, latents in rows(networks, batch, alphas):
            vectors = pooled(latents)
            for pool in pools:
                features.setdefault((row, pool), []).append(vectors[pool][taken])
        labels.append(batch.labels[taken])
        for name, values in batch.factors.items():
            factors.setdefault(name, []).append(values[taken])
    return Vectors(
        {key: np.concatenate(parts) for key, parts in features.items()},
        np.concatenate(labels),
        {name: np.concatenate(parts) for name, parts in factors.items()},
    )


def questions(
    vectors: np.ndarray, num_sources: int
) -> Iterator[tuple[int, str, np.ndarray]]:
    """Yields the probes of a row: which image is predicted from which branch.

    Args:
      vectors: [N, S, E], or [N, E] for a network without heads.
      num_sources: number of images of a mixture.
    Yields:
      (image s, prefix of the metric, features [N, E] to predict from).
    """
    for s in range(num_sources):
        if vectors.ndim == 2:  # one embedding for both images
            yield s, "", vectors
        elif s < vectors.shape[1]:
            yield s, "", vectors[:, s]
            if vectors.shape[1] > 1:
                # All others together, side by side.
                others = np.delete(vectors, s, axis=1)
                yield s, "other_branch_", others.reshape(len(others), -1)


def prefixes(row: str, alpha: float, alphas: Sequence[float]) -> list[str]:
    """Returns the prefixes under which a row's metrics are written; possibly two or none.

    A row at `alpha`, or without one, is written without its alpha; a row of the sweep over
    `alphas` is written with it.
    """
    own, swept = at(alpha=alpha), tuple(at(alpha=weight) for weight in alphas)
    found = []
    if row.startswith(own) or not row.startswith("alpha_"):
        found.append(row.removeprefix(own))
    if row.startswith(swept):
        found.append(row)
    return found
