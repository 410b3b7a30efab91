"""Linear classifiers of labelled features: ridge regression and logistic regression."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from imae_jax.errors import UserError
from imae_jax.probing import ridge
from imae_jax.probing.arrays import (
    ROUNDING,
    as_array,
    as_features,
    as_numbers,
    as_text,
    centred,
    check_columns,
)
from imae_jax.probing.class_labels import as_labels, class_ids
from imae_jax.probing.ridge import Moments

# L2 strengths per example, for whitened features; one is chosen on validation. Ours.
L2_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)

# Factor by which the scale of whitened features may differ from 1 on a subset of examples.
MOST_OFF = 30


class Labelled(NamedTuple):
    """Features [N, D] and labels [N] of any sortable type."""

    features: np.ndarray
    labels: np.ndarray


class Splits(NamedTuple):
    """Labelled examples to fit a probe, to choose its strength, and to score it."""

    train: Labelled
    validation: Labelled
    test: Labelled

    def checked(self, what: str) -> "Splits":
        """Calls `check_splits`."""
        return check_splits(self, what)

    @property
    def num_classes(self) -> int:
        """Number of classes of the train split."""
        return len(np.unique(self.train.labels))

    def whitened(self) -> "Splits":
        """Whitens all features as train's, see `whitening`."""
        splits = check_splits(self, "whitening")
        whiten = whitening(splits.train.features)
        return Splits(*(Labelled(whiten(x), y) for x, y in splits))


def whitening(features: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a map after which features [N, D] are uncorrelated with variance 1.

    It rotates and scales, which loses no information for a linear probe; that then
    converges in tens of steps. Directions in which the features do not vary are left out.
    """
    x = features.astype(np.float64)
    mean, deviation = x.mean(axis=0), x.std(axis=0)
    varies = deviation > ROUNDING * np.abs(x).max(axis=0)
    scale = np.ones_like(mean)
    if varies.any() and deviation.max() > 1e3 * deviation[varies].min():
        # Otherwise the threshold below would drop features of small scale.
        scale[varies] = deviation[varies]
    values, vectors = np.linalg.eigh(np.atleast_2d(np.cov(x / scale, rowvar=False)))
    noise = (ROUNDING * np.abs(x / scale).max()) ** 2
    kept = values > max(1e-7 * values[-1], noise)
    scaled = vectors[:, kept] / np.sqrt(values[kept])
    return lambda others: (others - mean) / scale @ scaled


def check_splits(splits: Splits, what: str) -> Splits:
    """Checks splits and converts them: features to float, labels to class indices.

    Labels may be any sortable values: numbers (also negative) or strings. A class that is
    not in train gets the index `num_classes`, which no probe predicts, so it counts as
    wrong.

    Args:
      splits: as given by users.
      what: name of the probe, for messages.
    Raises:
      UserError: for features that are not finite [N, D] of equal width, for labels that are
        not [N] or not sortable, and if train has fewer than two classes.
    """
    found = {}
    for name, pair in zip(Splits._fields, _pairs(splits, what), strict=True):
        features = as_array(pair[0], f"{what}: {name}.features")
        if features.ndim and not len(features):
            raise UserError(f"{what}: there are no examples in the {name} split (features)")
        features = as_features(features, f"{what}: {name}.features")
        labels = as_labels(pair[1], f"{what}: {name}.labels", len(features))
        found[name] = Labelled(features, labels)
    train = found["train"]
    classes = np.unique(train.labels)
    if len(classes) < 2:
        raise UserError(
            f"{what}: all training examples are of class {classes[0]} (train.labels); "
            "telling classes apart needs at least two"
        )
    for name, (features, labels) in found.items():
        where = f"{what}: {name}"
        check_columns(features, f"{where}.features", train.features, "train.features")
        found[name] = Labelled(features, class_ids(classes, labels, f"{where}.labels"))
    return Splits(**found)


def _pairs(splits: Splits, what: str) -> list[tuple]:
    """Returns features and labels of the three splits, which may be plain tuples."""
    try:
        train, validation, test = splits
        return [(features, labels) for features, labels in (train, validation, test)]
    except (TypeError, ValueError):
        raise UserError(
            f"{what}: splits must be Splits(train, validation, test), each "
            "Labelled(features, labels)"
        ) from None


def accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    """Returns the accuracy of the largest of [N, C] scores, given labels [N] int.

    Raises:
      UserError: for wrong shapes, and for scores that are not finite.
    """
    scores = as_numbers(scores, "scores")
    if scores.ndim != 2:
        raise UserError(f"scores is {as_text(scores)}; it must be [N, C]")
    labels = as_labels(labels, "labels", len(scores))
    if labels.dtype.kind != "i":
        raise UserError(f"labels is {as_text(labels)}; it must hold columns of scores")
    return float(np.mean(np.argmax(scores, axis=-1) == labels))


def chance(train: np.ndarray, test: np.ndarray) -> float:
    """Returns the accuracy on labels `test` [n] of the majority class of `train` [n].

    Raises:
      UserError: for labels that are not [n], empty, or not sortable.
    """
    found = []
    for name, labels in (("train", train), ("test", test)):
        labels = as_array(labels, name)
        count = len(labels) if labels.ndim else 0
        if not count:
            raise UserError(
                f"{name} is {as_text(labels)}; it must be labels [n], one or more"
            )
        found.append(as_labels(labels, name, count))
    classes, counts = np.unique(found[0], return_counts=True)
    return float(np.mean(class_ids(classes, found[1], "test") == counts.argmax()))


def ridge_accuracy(splits: Splits) -> float:
    """Returns the test accuracy of ridge regression on one-hot classes.

    Solved in closed form; the strength is chosen on validation.

    Raises:
      UserError: see `Splits.checked`.
    """
    splits = check_splits(splits, "ridge probe")
    # Zeros for a class that is not in train.
    one_hot = np.eye(splits.num_classes + 1, splits.num_classes)
    train, validation, test = centred(*(features for features, _ in splits))
    fitted = Moments.of(train, one_hot[splits.train.labels])
    held = Moments.of(validation, one_hot[splits.validation.labels])
    probe = ridge.fit(fitted, held, what="ridge probe")
    labels = splits.test.labels
    return accuracy(probe(test, np.zeros(len(labels), int)), labels)


@functools.partial(jax.jit, static_argnames=("num_classes", "max_steps", "tolerance"))
def _fit_logistic(
    features: jax.Array,
    labels: jax.Array,
    l2: float,
    *,
    num_classes: int,
    max_steps: int = 100,
    tolerance: float = 1e-5,
) -> tuple[jax.Array, jax.Array]:
    """Fits multinomial logistic regression by L-BFGS.

    Minimizes the mean cross-entropy plus l2 / 2 times the squared norm of the weights; the
    bias is not regularized. (scikit-learn's C is 1 / (l2 N).)

    Args:
      features, labels: [N, D] float and [N] int.
      l2: strength.
      num_classes: C.
      max_steps: most steps.
      tolerance: gradient norm at which to stop.
    Returns:
      weights [D, C] and bias [C].
    """

    def loss(params: Any) -> jax.Array:
        weights, bias = params
        logits = jnp.dot(features, weights, precision="highest") + bias
        losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean() + 0.5 * l2 * jnp.square(weights).sum()

    optimizer = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(loss)

    def is_running(carry: tuple) -> jax.Array:
        _, _, step, norm = carry
        return (step < max_steps) & (norm > tolerance)

    def improve(carry: tuple) -> tuple:
        params, state, step, _ = carry
        value, grad = value_and_grad(params, state=state)
        updates, state = optimizer.update(
            grad, state, params, value=value, grad=grad, value_fn=loss
        )
        return optax.apply_updates(params, updates), state, step + 1, optax.tree.norm(grad)

    params = jnp.zeros((features.shape[1], num_classes)), jnp.zeros(num_classes)
    start = params, optimizer.init(params), 0, jnp.inf
    return jax.lax.while_loop(is_running, improve, start)[0]


def logistic_accuracy(splits: Splits) -> float:
    """Returns the test accuracy of logistic regression; strength chosen on validation.

    Raises:
      UserError: see `Splits.checked`.
    """
    return _fitted_accuracy(check_splits(splits, "logistic probe").whitened())


def whitened_accuracy(splits: Splits) -> float:
    """Returns `logistic_accuracy` of features that are already whitened.

    Raises:
      UserError: see `Splits.checked`; and for features that are not whitened.
    """
    splits = check_splits(splits, "logistic probe")
    size = float(np.sqrt(np.square(splits.train.features).mean(axis=0).max()))
    if size and not 1 / MOST_OFF < size < MOST_OFF:
        raise UserError(
            f"logistic probe: train.features are not whitened (root mean square {size:g}, "
            "not about 1); take logistic_accuracy, or Splits.whitened()"
        )
    return _fitted_accuracy(splits)


def _fitted_accuracy(splits: Splits) -> float:
    train, validation, test = splits

    def score(fitted: tuple[np.ndarray, np.ndarray], split: Labelled) -> float:
        weights, bias = fitted
        return accuracy(split.features @ weights + bias, split.labels)

    found = fit_strengths(train, splits.num_classes)
    return score(max(found.values(), key=lambda fitted: score(fitted, validation)), test)


def fit_strengths(
    train: Labelled, num_classes: int
) -> dict[float, tuple[np.ndarray, np.ndarray]]:
    """Fits logistic regression with each of `L2_STRENGTHS`.

    Args:
      train: whitened features and class indices.
      num_classes: C.
    Returns:
      {strength: (weights [D, C], bias [C])}.
    """
    features, labels = (np.asarray(x, kind) for x, kind in zip(train, "fi", strict=True))
    return {
        l2: jax.device_get(_fit_logistic(features, labels, l2, num_classes=num_classes))
        for l2 in L2_STRENGTHS
    }
