"""Weighted k-nearest neighbours, by cosine similarity."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from imae_jax.errors import UserError
from imae_jax.probing.arrays import (
    ROUNDING,
    as_count,
    as_features,
    as_number,
    check_columns,
)
from imae_jax.probing.class_labels import as_labels
from imae_jax.probing.linear_classifiers import Splits, accuracy, check_splits

CHUNK = 1024  # queries compared with all neighbours at a time

# No smaller differences of cosines exist in float32.
COLDEST = 1e-6


def votes(
    queries: np.ndarray,
    features: np.ndarray,
    labels: np.ndarray,
    *,
    neighbours: int,
    temperature: float,
    num_classes: int,
) -> jax.Array:
    """Votes of each query's nearest neighbours for their classes.

    Args:
      queries: [M, D].
      features, labels: [N, D] and [N] int in 0 .. C-1, the neighbours.
      neighbours: k, how many vote.
      temperature: the nearest has one vote; any other exp(-(how much less its cosine is) /
        temperature).
      num_classes: C.
    Returns:
      [M, C].
    Raises:
      UserError: for other shapes, types or numbers, and for features without a direction.
    """
    queries, features = as_features(queries, "queries"), as_features(features, "features")
    check_columns(queries, "queries", features, "features")
    labels = as_labels(labels, "labels", len(features))
    num_classes = as_count(num_classes, "num_classes", 1)
    if labels.dtype.kind != "i" or labels.min() < 0 or labels.max() >= num_classes:
        raise UserError(f"labels must hold integers from 0 to {num_classes - 1}")
    options = _checked(neighbours, temperature, len(labels))
    rows = _directions(queries, "queries", features, "features")
    return _votes(*rows, labels, **options, num_classes=num_classes)


def _checked(neighbours: int, temperature: float, count: int) -> dict:
    """The options of `_votes` for `count` training examples."""
    neighbours = as_count(neighbours, "neighbours", 1)
    if neighbours > count:
        raise UserError(
            f"k-NN: neighbours={neighbours} is not possible: there are {count} training "
            "examples"
        )
    allowed = f"at least {COLDEST:g}"
    temperature = as_number(
        temperature, "temperature", allowed, lambda t: COLDEST <= t < np.inf
    )
    return dict(neighbours=neighbours, temperature=temperature)


def _directions(
    queries: np.ndarray, query_name: str, features: np.ndarray, name: str
) -> list[np.ndarray]:
    """Directions of [M, D] queries and [N, D] features, less the features' mean direction.

    Raises:
      UserError: for rows of zeros, and for features of a single direction.
    """
    found = []
    for rows, what in ((queries, query_name), (features, name)):
        size = np.abs(rows).max(axis=1, keepdims=True)
        if not size.all():
            raise UserError(
                f"{what}: row {np.argmin(size)} is zero: it has no direction, and no cosine"
            )
        rows = rows / size.astype(np.float64)
        found.append(rows / np.linalg.norm(rows, axis=1, keepdims=True))
    mean = found[1].mean(axis=0)
    found = [rows - mean for rows in found]
    if np.abs(found[1]).max() <= ROUNDING and len(features) > 1:
        raise UserError(f"{name} do not vary: all rows have one direction")
    return found


@functools.partial(jax.jit, static_argnames=("neighbours", "num_classes"))
def _votes(
    queries: jax.Array,
    features: jax.Array,
    labels: jax.Array,
    *,
    neighbours: int,
    temperature: float,
    num_classes: int,
) -> jax.Array:
    """As `votes`, of directions less a vector that is the same for all of them.

    Less their mean, nearly parallel features are told apart in float32 as well as others.
    """
    # cos(a, b) = 1 - |a - b|^2 / 2, of which what depends on a alone changes no vote.
    dot = jnp.dot(queries, features.T, precision="highest")
    cosine = dot - 0.5 * jnp.square(features).sum(axis=1)
    nearest, ids = jax.lax.top_k(cosine, neighbours)
    # Relative to the nearest's, so that no weight overflows and not all vanish.
    weights = jnp.exp((nearest - nearest[:, :1]) / temperature)
    return jnp.einsum("mk,mkc->mc", weights, jax.nn.one_hot(labels[ids], num_classes))


def knn_accuracy(splits: Splits, *, neighbours: int, temperature: float) -> float:
    """Fraction of test examples whose neighbours in the train split vote for their class.

    Args:
      splits: the validation split is not looked at: nothing is chosen.
      neighbours, temperature: see `votes`.
    Raises:
      UserError: see `Splits.checked` and `votes`; and if there are fewer training examples
        than `neighbours`.
    """
    if isinstance(splits, tuple) and len(splits) == 3:
        splits = Splits(splits[0], splits[0], splits[2])
    train, _, test = splits = check_splits(splits, "k-NN")
    options = _checked(neighbours, temperature, len(train.labels))
    names = "k-NN: test.features", "k-NN: train.features"
    queries, features = _directions(test.features, names[0], train.features, names[1])
    features = jnp.asarray(features)
    found = [
        _votes(
            chunk,
            features,
            jnp.asarray(train.labels),
            **options,
            num_classes=splits.num_classes,
        )
        for chunk in np.split(queries, range(CHUNK, len(queries), CHUNK))
    ]
    return accuracy(np.concatenate(found), test.labels)
