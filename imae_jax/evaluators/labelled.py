"""Features and their classes, and the closed-form and convex classifiers on them."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from imae_jax.errors import UserError
from imae_jax.evaluators import linear
from imae_jax.evaluators.linear import Moments

# L2 strengths tried on the validation split, per example, for whitened features; ours.
L2_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)


class Labelled(NamedTuple):
    """features [N, D] float and labels [N] int."""

    features: np.ndarray
    labels: np.ndarray


class Splits(NamedTuple):
    """What a probe is fitted on, what chooses its strength, what it is scored on."""

    train: Labelled
    validation: Labelled
    test: Labelled

    def checked(self, what: str) -> "Splits":
        """Itself; raises UserError if nothing can be learned from it."""
        for name, (features, labels) in self._asdict().items():
            if not len(labels):
                raise UserError(f"{what}: there are no examples in the {name} split")
            if not np.isfinite(features).all():
                raise UserError(f"{what}: features are not finite (NaN or inf) in {name}")
        classes = np.unique(self.train.labels)
        if len(classes) < 2:
            raise UserError(
                f"{what}: all training examples are of class {classes[0]}; telling classes "
                "apart needs at least two"
            )
        return self

    @property
    def num_classes(self) -> int:
        """One more than the largest label."""
        return 1 + int(max(split.labels.max() for split in self))

    def whitened(self) -> "Splits":
        """Features rotated and scaled so that train's are uncorrelated, of variance 1.

        A linear probe loses nothing by it, and converges in tens of steps. Directions in
        which train does not vary are left out.
        """
        x = self.train.features.astype(np.float64)
        mean = x.mean(axis=0)
        values, vectors = np.linalg.eigh(np.atleast_2d(np.cov(x, rowvar=False)))
        kept = values > 1e-7 * values[-1]
        scaled = vectors[:, kept] / np.sqrt(values[kept])
        return Splits(*(Labelled((x - mean) @ scaled, y) for x, y in self))


def accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    """Share of [N, classes] scores whose largest is the label's."""
    return float(np.mean(np.argmax(scores, axis=-1) == labels))


def chance(train: np.ndarray, test: np.ndarray) -> float:
    """Accuracy on labels `test` [n] of always naming the commonest of `train` [n]."""
    return float(np.mean(test == np.bincount(train).argmax()))


def ridge_accuracy(splits: Splits) -> float:
    """Least squares on one-hot classes, in closed form; strength chosen on validation."""
    one_hot = np.eye(splits.num_classes)
    train, validation = (Moments.of(x, one_hot[y]) for x, y in splits[:2])
    probe = linear.fit(train, validation, what="ridge probe")
    features, labels = splits.test
    return accuracy(probe(features, np.zeros(len(labels), int)), labels)


@functools.partial(jax.jit, static_argnames=("num_classes", "max_steps", "tolerance"))
def fit_logistic(
    features: jax.Array,
    labels: jax.Array,
    l2: float,
    *,
    num_classes: int,
    max_steps: int = 100,
    tolerance: float = 1e-5,
) -> tuple[jax.Array, jax.Array]:
    """Multinomial logistic regression by L-BFGS.

    Minimises the mean cross-entropy plus l2 / 2 times the squared norm of the weights; the
    bias is free. (scikit-learn's C is 1 / (l2 N).)

    Args:
      features, labels: [N, D] float and [N] int.
      l2: strength.
      num_classes: C.
      max_steps, tolerance: stops there, or at this norm of the gradient.
    Returns:
      weights [D, C] and bias [C].
    """

    def loss(params):
        weights, bias = params
        logits = jnp.dot(features, weights, precision="highest") + bias
        losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean() + 0.5 * l2 * jnp.square(weights).sum()

    optimiser = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(loss)

    def is_running(carry):
        _, _, step, norm = carry
        return (step < max_steps) & (norm > tolerance)

    def improve(carry):
        params, state, step, _ = carry
        value, grad = value_and_grad(params, state=state)
        updates, state = optimiser.update(
            grad, state, params, value=value, grad=grad, value_fn=loss
        )
        return optax.apply_updates(params, updates), state, step + 1, optax.tree.norm(grad)

    params = jnp.zeros((features.shape[1], num_classes)), jnp.zeros(num_classes)
    start = params, optimiser.init(params), 0, jnp.inf
    return jax.lax.while_loop(is_running, improve, start)[0]


def logistic_accuracy(splits: Splits) -> float:
    """Logistic regression on whitened features; strength chosen on validation."""
    return whitened_accuracy(splits.whitened())


def whitened_accuracy(splits: Splits) -> float:
    """As `logistic_accuracy`, of features that are whitened already."""
    train, validation, test = splits

    def score(params, split: Labelled) -> float:
        weights, bias = jax.device_get(params)
        return accuracy(split.features @ weights + bias, split.labels)

    features, labels = (np.asarray(x, kind) for x, kind in zip(train, "fi", strict=True))
    fitted = [
        fit_logistic(features, labels, l2, num_classes=splits.num_classes)
        for l2 in L2_STRENGTHS
    ]
    return score(max(fitted, key=lambda params: score(params, validation)), test)
