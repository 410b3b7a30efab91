"""Separability by a small MLP in place of the linear map.

Far above linear: the images are told apart, but not linearly. An MLP can unmix by itself,
so it is read beside the same MLP on raw pixels and on random tokens.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from imae_jax.evaluators.separability_scores import Latents, Row, Stream
from imae_jax.models.branches import branch_names
from imae_jax.probing import ridge
from imae_jax.probing.mlp_map import fit_mlp
from imae_jax.probing.ridge import Moments
from imae_jax.probing.superposition import gain

# Most tokens that are kept in memory of each split; the first mixtures are a random part.
MAX_TOKENS = 200_000


def first_batches(stream: Iterator[Latents]) -> Latents:
    """Returns the batches up to `MAX_TOKENS` as one."""
    parts, count = [], 0
    for latents in stream:
        parts.append(latents)
        count += latents.position.size
        if count >= MAX_TOKENS:
            break
    return Latents(
        features={
            row: np.concatenate([part.features[row] for part in parts])
            for row in parts[0].features
        },
        targets=np.concatenate([part.targets for part in parts]),
        position=np.concatenate([part.position for part in parts]),
    )


def own_tokens(latents: Latents, row: Row, s: int) -> tuple[np.ndarray, ...]:
    """Returns z [N, D], the own image's h [N, E] and position [N]."""
    z, every, position = latents.tokens(row, s)
    width = every.shape[1] // latents.num_sources
    return z, every[:, s * width : (s + 1) * width], position


def score(
    splits: Mapping[str, Latents],
    row: Row,
    s: int,
    num_positions: int,
    options: Mapping,
) -> float:
    """Returns the test R2 of one row and branch, after centring by position."""
    tokens = {name: own_tokens(part, row, s) for name, part in splits.items()}
    moments = {}
    for name in ("train", "validation"):
        z, h, position = tokens[name]
        moments[name] = Moments.zeros(num_positions, z.shape[1], h.shape[1])
        moments[name].add(z, h, position)
    linear = ridge.fit(moments["train"], moments["validation"])
    centred = {
        name: (z - linear.mean_z[position], h - linear.mean_h[position])
        for name, (z, h, position) in tokens.items()
    }
    predict = fit_mlp(centred["train"], centred["validation"], linear.weights, **options)
    z, h = centred["test"]
    return float(1 - np.square(predict(z) - h).sum() / np.square(h).sum())


def measure_mlp(
    stream: Stream, num_positions: int, options: Mapping
) -> Iterator[tuple[float, str, float]]:
    """Scores every row of a stream of latents, each by an MLP of its own.

    Args:
      stream, num_positions: see `separability_scores.measure`.
      options: those of `mlp_map.fit_mlp`.
    Yields:
      (alpha, metric, value): `<row><branch>/mlp_r2` and `<row>mlp_gain`.
    """
    splits = {name: first_batches(stream(name)) for name in ("train", "validation", "test")}
    for (alpha, row), features in splits["train"].features.items():
        found = [
            score(splits, (alpha, row), s, num_positions, options)
            for s in range(features.shape[1])
        ]
        branches = branch_names(splits["train"].num_sources)
        for branch, value in zip(branches, found, strict=False):
            yield alpha, f"{row}{branch}/mlp_r2", value
        if len(found) == len(branches):
            yield alpha, f"{row}mlp_gain", gain(found)
