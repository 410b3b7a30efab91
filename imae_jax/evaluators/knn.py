"""Weighted k-nearest neighbours, by cosine similarity."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from imae_jax.errors import UserError
from imae_jax.evaluators.labelled import Splits, accuracy

CHUNK = 1024  # queries compared with all neighbours at a time


@functools.partial(jax.jit, static_argnames=("neighbours", "num_classes"))
def votes(
    queries: jax.Array,
    features: jax.Array,
    labels: jax.Array,
    *,
    neighbours: int,
    temperature: float,
    num_classes: int,
) -> jax.Array:
    """Votes of each query's nearest neighbours for their classes.

    Args:
      queries: [M, D].
      features, labels: [N, D] and [N], the neighbours.
      neighbours: k, how many vote.
      temperature: a neighbour's vote weighs exp(cosine / temperature).
      num_classes: C.
    Returns:
      [M, C].
    """

    def unit(x):
        return x / jnp.maximum(jnp.linalg.norm(x, axis=1, keepdims=True), 1e-12)

    cosine = jnp.dot(unit(queries), unit(features).T, precision="highest")
    nearest, ids = jax.lax.top_k(cosine, neighbours)
    # Relative to the largest possible cosine, so that no weight overflows.
    weights = jnp.exp((nearest - 1) / temperature)
    return jnp.einsum("mk,mkc->mc", weights, jax.nn.one_hot(labels[ids], num_classes))


def knn_accuracy(splits: Splits, *, neighbours: int, temperature: float) -> float:
    """Share of test examples whose neighbours in the train split vote for their class.

    Args:
      splits: the validation split is not used: nothing is chosen.
      neighbours, temperature: see `votes`.
    Raises:
      UserError: if there are fewer neighbours than `neighbours`.
    """
    (features, labels), _, test = splits
    if not 1 <= neighbours <= len(labels):
        raise UserError(
            f"k-NN: {neighbours} neighbours are not possible among {len(labels)} training "
            "examples"
        )
    chunks = np.split(test.features, range(CHUNK, len(test.features), CHUNK))
    found = [
        votes(
            jnp.asarray(chunk, jnp.float32),
            jnp.asarray(features, jnp.float32),
            jnp.asarray(labels),
            neighbours=neighbours,
            temperature=temperature,
            num_classes=splits.num_classes,
        )
        for chunk in chunks
    ]
    return accuracy(np.concatenate(found), test.labels)
