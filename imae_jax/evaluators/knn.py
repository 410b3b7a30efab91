"""Weighted k-nearest neighbours, by cosine similarity."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from imae_jax.errors import UserError
from imae_jax.evaluators.arrays import as_count, as_features, as_number, check_columns
from imae_jax.evaluators.class_labels import as_labels
from imae_jax.evaluators.labelled import Splits, accuracy, check_splits

CHUNK = 1024  # queries compared with all neighbours at a time

# Features so nearly parallel, by 1 - |mean direction|^2, are not told apart in float32.
NARROWEST = 1e-5

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
    rows = (_scaled(queries, "queries"), _scaled(features, "features", is_train=True))
    return _votes(*rows, labels, **options, num_classes=num_classes)


def _checked(neighbours: int, temperature: float, count: int) -> dict:
    """The options of `_votes` for `count` training examples."""
    if as_count(neighbours, "neighbours", 1) > count:
        raise UserError(
            f"k-NN: neighbours={neighbours} is not possible: there are {count} training "
            "examples"
        )
    allowed = f"at least {COLDEST:g}"
    temperature = as_number(
        temperature, "temperature", allowed, lambda t: COLDEST <= t < np.inf
    )
    return dict(neighbours=as_count(neighbours, "neighbours", 1), temperature=temperature)


def _scaled(features: np.ndarray, name: str, is_train: bool = False) -> np.ndarray:
    """The directions of [N, D] rows in float32: each times a power of two, which is exact.

    Raises:
      UserError: for rows of zeros, and for training examples that are nearly parallel.
    """
    size = np.abs(features).max(axis=1)
    if not size.all():
        raise UserError(
            f"{name}: row {np.argmin(size)} is zero: it has no direction, and no cosine"
        )
    _, exponents = np.frexp(size)
    rows = np.ldexp(features, -exponents[:, None]).astype(np.float32)
    if is_train and len(rows) > 1:
        norms = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))
        mean = (1 / norms) @ rows.astype(np.float64) / len(rows)
        spread = 1 - mean @ mean
        if spread < NARROWEST:
            raise UserError(
                f"{name} are nearly parallel (1 - |mean direction|^2 is {spread:.1g}): "
                "float32 cannot tell their cosines apart; subtract their mean first"
            )
    return rows


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
    """As `votes`, of rows that are neither zero nor huge."""

    def unit(x):
        return x / jnp.maximum(jnp.linalg.norm(x, axis=1, keepdims=True), 1e-12)

    cosine = jnp.dot(unit(queries), unit(features).T, precision="highest")
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
    features = jnp.asarray(_scaled(train.features, "k-NN: train.features", is_train=True))
    queries = _scaled(test.features, "k-NN: test.features")
    found = [
        _votes(
            jnp.asarray(chunk),
            features,
            jnp.asarray(train.labels),
            **options,
            num_classes=splits.num_classes,
        )
        for chunk in np.split(queries, range(CHUNK, len(queries), CHUNK))
    ]
    return accuracy(np.concatenate(found), test.labels)
