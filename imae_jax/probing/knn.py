"""Weighted k-nearest-neighbour classification, by cosine similarity."""

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

# Smallest temperature: the resolution of cosines in float32.
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
    """Returns the weighted votes of each query's nearest neighbours, by class.

    Args:
      queries: [M, D].
      features, labels: [N, D] and [N] int in 0 .. C-1, the training examples.
      neighbours: k, the number of neighbours that vote.
      temperature: the nearest has weight 1, the others exp(-d / temperature), d being the
        difference of their cosines from the nearest's.
      num_classes: C.
    Returns:
      [M, C].
    Raises:
      UserError: for wrong shapes, types or values, and for features of zero norm.
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
    """Returns the options of `_votes`, checked for `count` training examples."""
    neighbours = as_count(neighbours, "neighbours", 1)
    if neighbours > count:
        raise UserError(
            f"k-NN: invalid neighbours={neighbours}: there are {count} training examples"
        )
    allowed = f"at least {COLDEST:g}"
    temperature = as_number(
        temperature, "temperature", allowed, lambda t: COLDEST <= t < np.inf
    )
    return dict(neighbours=neighbours, temperature=temperature)


def _directions(
    queries: np.ndarray, query_name: str, features: np.ndarray, name: str
) -> list[np.ndarray]:
    """Returns unit vectors of queries [M, D] and features [N, D], less the features' mean.

    Raises:
      UserError: for rows of zeros, and if all features have the same direction.
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
    """Computes `votes` from unit vectors less a common vector.

    Subtracting the mean keeps nearly parallel features distinct in float32.
    """
    # cos(a, b) = 1 - |a - b|^2 / 2; terms that depend on a alone change no vote.
    dot = jnp.dot(queries, features.T, precision="highest")
    cosine = dot - 0.5 * jnp.square(features).sum(axis=1)
    nearest, ids = jax.lax.top_k(cosine, neighbours)
    # Relative to the nearest: no weight overflows, and not all underflow.
    weights = jnp.exp((nearest - nearest[:, :1]) / temperature)
    return jnp.einsum("mk,mkc->mc", weights, jax.nn.one_hot(labels[ids], num_classes))


def knn_accuracy(splits: Splits, *, neighbours: int, temperature: float) -> float:
    """Returns the test accuracy of k-NN classification.

    Args:
      splits: features and labels; the validation split is not used.
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
    queries, directions = _directions(test.features, names[0], train.features, names[1])
    features = jnp.asarray(directions)
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
