"""Probes and classifiers against scikit-learn and NumPy."""

import jax
import numpy as np
import optax
import pytest
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier

from imae_jax import optim
from imae_jax.errors import UserError
from imae_jax.probing import lars_probe, linear_classifiers, ridge
from imae_jax.probing.knn import knn_accuracy, votes
from imae_jax.probing.linear_classifiers import Labelled, Splits
from imae_jax.probing.pixel_classifier import train_classifier

CLASSES, WIDTH = 4, 6
LARS = dict(blrs=(30.0,), batch_size=100, epochs=20, warmup_epochs=2, seed=0)
CENTRES = np.random.default_rng(0).normal(size=(CLASSES, WIDTH))


def blobs(seed, count=300, noise=0.8):
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, count)
    features = CENTRES[labels] + noise * random.normal(size=(count, WIDTH))
    return Labelled(features.astype(np.float32), labels)


def splits(**options):
    return Splits(blobs(1, **options), blobs(2, count=100), blobs(3, count=200))


@pytest.mark.parametrize("l2", [1e-3, 1e-1])
def test_logistic_regression_is_scikit_learns(l2):
    x, y = blobs(1)
    weights, bias = linear_classifiers._fit_logistic(
        x, y, l2, num_classes=CLASSES, max_steps=500, tolerance=1e-6
    )
    model = LogisticRegression(C=1 / (l2 * len(x)), tol=1e-10, max_iter=10000)
    expected = model.fit(x.astype(np.float64), y)
    scores = np.asarray(x @ weights + bias)
    np.testing.assert_allclose(jax.nn.softmax(scores), expected.predict_proba(x), atol=1e-4)
    np.testing.assert_allclose(weights, expected.coef_.T, atol=2e-4)


def test_logistic_probe_chooses_its_strength_on_validation():
    few = splits(count=12)
    found = linear_classifiers.logistic_accuracy(few)
    train, validation, test = few.whitened()
    best = max(
        (
            LogisticRegression(C=1 / (l2 * 12), tol=1e-10, max_iter=10000).fit(*train)
            for l2 in linear_classifiers.L2_STRENGTHS
        ),
        key=lambda model: model.score(*validation),
    )
    assert found == pytest.approx(best.score(*test), abs=1e-4)


def test_ridge_probe_is_scikit_learns():
    made = splits()
    (x, y), _, test = made
    spread = np.square(x - x.mean(axis=0)).sum() / WIDTH
    scores = {
        strength: RidgeClassifier(alpha=strength * spread).fit(x, y).score(*test)
        for strength in ridge.RIDGES
    }
    one_hot = np.eye(CLASSES)

    def error(strength):
        model = Ridge(alpha=strength * spread).fit(x, one_hot[y])
        features, labels = made.validation
        return np.square(model.predict(features) - one_hot[labels]).mean()

    assert linear_classifiers.ridge_accuracy(made) == scores[min(scores, key=error)] > 0.7


def test_knn_is_scikit_learns():
    made = splits()
    (x, y), _, test = made
    expected = KNeighborsClassifier(
        20, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07)
    ).fit(x, y)
    found = votes(test.features, x, y, neighbours=20, temperature=0.07, num_classes=CLASSES)
    shares = np.asarray(found / found.sum(axis=1, keepdims=True))
    np.testing.assert_allclose(shares, expected.predict_proba(test.features), atol=1e-4)
    accuracy = knn_accuracy(made, neighbours=20, temperature=0.07)
    assert accuracy == pytest.approx(expected.score(*test))


@pytest.mark.parametrize("size", [1e-3, 1e-6])
def test_knn_of_nearly_parallel_features(size):
    """A network near collapse: no cosine differs from 1 by what float32 can hold."""
    (x, y), _, (queries, _) = splits()
    x, queries = (x[:1] + size * rows.astype(np.float64) for rows in (x, queries))
    found = votes(queries, x, y, neighbours=5, temperature=1.0, num_classes=CLASSES)
    unit, others = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (queries, x))
    away = np.square(unit[:, None] - others).sum(axis=-1)
    nearest = np.argsort(away, axis=1)[:, :5]
    np.testing.assert_allclose(found, np.eye(CLASSES)[y[nearest]].sum(axis=1), atol=1e-4)


def test_knn_of_many_queries_is_cut_into_chunks(monkeypatch):
    made = splits()
    whole = knn_accuracy(made, neighbours=5, temperature=0.1)
    monkeypatch.setattr("imae_jax.probing.knn.CHUNK", 64)
    assert knn_accuracy(made, neighbours=5, temperature=0.1) == whole


def test_lars_is_the_numpy_rendering_of_maes():
    """Trust ratio on weights only, momentum before the rate (MAE's util/lars.py)."""
    random = np.random.default_rng(0)
    shapes = {"bias": (3,), "kernel": (4, 3)}
    params = {k: random.normal(size=x).astype(np.float32) for k, x in shapes.items()}
    grads = [jax.tree.map(lambda x: 2 * x + random.normal(), params) for _ in range(5)]
    schedule = lambda step: 0.5 * (step + 1)  # noqa: E731

    optimizer = optim.lars(schedule)
    found, state = params, optimizer.init(params)
    for grad in grads:
        updates, state = optimizer.update(grad, state, found)
        found = optax.apply_updates(found, updates)

    expected, momentum = dict(params), {"bias": 0.0, "kernel": 0.0}
    for step, grad in enumerate(grads):
        for name, gradient in grad.items():
            if name == "kernel":
                norms = np.linalg.norm(expected[name]) / np.linalg.norm(gradient)
                gradient = 0.001 * norms * gradient
            momentum[name] = 0.9 * momentum[name] + gradient
            expected[name] = expected[name] - schedule(step) * momentum[name]
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5)


def test_the_linear_probe_is_its_numpy_rendering():
    """BatchNorm without affine in training, LARS, warm-up and cosine: MAE's protocol."""
    (x, y), *_ = splits()
    batches = lars_probe.epoch_batches(len(x), 100, 4, seed=0)
    assert batches.shape == (12, 100)
    fitted = lars_probe._fit_probe(
        x, y, batches, 10.0, 0, num_classes=CLASSES, warmup_steps=3
    )
    start = lars_probe.Probe(CLASSES).init(jax.random.key(0), x[:2], train=False)
    kernel = np.asarray(start["params"]["head"]["kernel"], np.float64)
    assert 0.005 < kernel.std() < 0.015
    bias, moving = np.zeros(CLASSES), [np.zeros(WIDTH), np.ones(WIDTH)]
    velocity = [np.zeros_like(kernel), np.zeros_like(bias)]
    for step, indices in enumerate(batches):
        batch, one_hot = x[indices].astype(np.float64), np.eye(CLASSES)[y[indices]]
        mean, variance = batch.mean(axis=0), batch.var(axis=0)
        moving = [0.9 * moving[0] + 0.1 * mean, 0.9 * moving[1] + 0.1 * variance]
        normal = (batch - mean) / np.sqrt(variance + 1e-6)
        logits = normal @ kernel + bias
        shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        error = (shares - one_hot) / len(batch)
        gradient = normal.T @ error
        trust = 0.001 * np.linalg.norm(kernel) / np.linalg.norm(gradient)
        peak = 10.0 * 100 / 256
        rate = (
            peak * step / 3
            if step < 3
            else peak * 0.5 * (1 + np.cos(np.pi * (step - 3) / 9))
        )
        velocity = [
            0.9 * velocity[0] + trust * gradient,
            0.9 * velocity[1] + error.sum(axis=0),
        ]
        kernel, bias = kernel - rate * velocity[0], bias - rate * velocity[1]
    head = fitted["params"]["head"]
    np.testing.assert_allclose(head["kernel"], kernel, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(head["bias"], bias, rtol=1e-3, atol=1e-5)
    stats = fitted["batch_stats"]["BatchNorm_0"]
    np.testing.assert_allclose(stats["mean"], moving[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(stats["var"], moving[1], rtol=1e-4)
    # And what it then names, with the moving statistics.
    logits = (x - moving[0]) / np.sqrt(moving[1] + 1e-6) @ kernel + bias
    expected = np.mean(logits.argmax(axis=1) == y)
    assert lars_probe._hits(fitted, x, y, num_classes=CLASSES) == pytest.approx(
        expected, abs=0.011
    )


def test_the_linear_probe_takes_the_rate_that_validation_prefers():
    options = dict(batch_size=100, epochs=20, warmup_epochs=2, seed=0)
    found, blr = lars_probe.lars_accuracy(splits(), blrs=(1e-6, 300.0), **options)
    assert blr == 300.0 and found > 0.7
    assert lars_probe.lars_accuracy(splits(), blrs=(300.0,), **options)[0] == found


def test_classes_without_structure_are_read_by_chance():
    random = np.random.default_rng(5)

    def shuffled(split):
        return Labelled(split.features, random.permutation(split.labels))

    made = Splits(*map(shuffled, splits()))
    for found in (
        linear_classifiers.ridge_accuracy(made),
        linear_classifiers.logistic_accuracy(made),
        knn_accuracy(made, neighbours=20, temperature=0.07),
    ):
        assert abs(found - 1 / CLASSES) < 0.12


def test_a_linear_map_of_the_features_changes_nothing():
    """What a head, which is a linear map, makes of tokens is as good as they are."""
    made = splits()
    expected = linear_classifiers.logistic_accuracy(made)
    head = np.random.default_rng(1).normal(size=(WIDTH, WIDTH)) * 3.0 ** np.arange(WIDTH)
    for change in (
        lambda x: x @ head + 7,
        lambda x: np.pad(x, ((0, 0), (0, 1))),  # a feature that says nothing
        lambda x: np.concatenate([x, x], axis=1),  # one that says it twice
    ):
        changed = Splits(*(Labelled(change(x), y) for x, y in made))
        assert linear_classifiers.logistic_accuracy(changed) == pytest.approx(
            expected, abs=0.006
        )
    x = made.whitened().train.features
    np.testing.assert_allclose(np.cov(x, rowvar=False), np.eye(WIDTH), atol=1e-8)


@pytest.mark.parametrize("value", [0, 0.1, 1e6])
@pytest.mark.parametrize(
    "function", [linear_classifiers.logistic_accuracy, linear_classifiers.ridge_accuracy]
)
def test_features_that_say_nothing_are_read_by_chance(function, value):
    """In train; what test says is not listened to."""
    train, validation, test = (Labelled(x.astype(np.float64), y) for x, y in splits())
    constant = [Labelled(0.0 * x + value, y) for x, y in (train, validation)]
    chance = linear_classifiers.chance(train.labels, test.labels)
    assert function(Splits(*constant, Labelled(0.0 * test[0] + value, test[1]))) == chance
    assert function(Splits(*constant, Labelled(test[0] + value, test[1]))) == chance


def test_where_zero_lies_and_how_large_features_are_does_not_matter():
    made = Splits(*(Labelled(x.astype(np.float64), y) for x, y in splits()))
    far = Splits(*(Labelled(x + 1e6, y) for x, y in made))
    mixed = Splits(*(Labelled(x * 1e4 ** np.arange(-3, 3), y) for x, y in made))
    logistic, ridge = (
        linear_classifiers.logistic_accuracy(made),
        linear_classifiers.ridge_accuracy(made),
    )
    assert linear_classifiers.logistic_accuracy(far) == pytest.approx(logistic, abs=0.006)
    assert linear_classifiers.logistic_accuracy(mixed) == pytest.approx(logistic, abs=0.006)
    assert linear_classifiers.ridge_accuracy(far) == ridge
    lars = lars_probe.lars_accuracy(made, **LARS)[0]
    assert lars_probe.lars_accuracy(far, **LARS)[0] == pytest.approx(lars, abs=0.011)
    # Beside k-NN's other rows, one may be of any length.
    lengths = 10.0 ** np.linspace(-14, 14, len(made.train.labels))[:, None]
    long = made._replace(train=Labelled(made.train.features * lengths, made.train.labels))
    options = dict(neighbours=5, temperature=0.07)
    assert knn_accuracy(long, **options) == knn_accuracy(made, **options)
    assert knn_accuracy(made, neighbours=5, temperature=1e-5) == knn_accuracy(
        made, neighbours=1, temperature=1.0
    )


def test_chance_names_the_commonest_class_of_train():
    assert (
        linear_classifiers.chance(np.array([1, 1, 1, 0, 2]), np.array([1, 0, 0, 1, 2]))
        == 0.4
    )


@pytest.mark.parametrize(
    "change,message",
    [
        (lambda x, y: (x, 0 * y + 3), "rows: all training examples are of class 3"),
        (lambda x, y: (np.where(x > 1, np.nan, x), y), "train.features is not finite"),
        (lambda x, y: (x[:0], y[:0]), "no examples in the train split"),
    ],
)
def test_bad_examples_get_one_line(change, message):
    train, validation, test = splits()
    with pytest.raises(UserError, match=message):
        Splits(Labelled(*change(*train)), validation, test).checked("rows")


def test_too_few_neighbours_get_one_line():
    with pytest.raises(UserError, match="invalid neighbours=300: there are 20 training"):
        knn_accuracy(splits(count=20), neighbours=300, temperature=0.07)


def test_a_classifier_of_two_heads_learns_both():
    """Both classes of x = (first, second) can be read off its two halves."""
    random = np.random.default_rng(0)

    def batch_at(step):
        labels = random.integers(0, 3, (64, 2))
        images = np.eye(3, dtype=np.float32)[labels] + 0.1 * random.normal(size=(64, 2, 3))
        return images[..., None].astype(np.float32), labels

    read = train_classifier(
        batch_at,
        num_classes=3,
        steps=60,
        batch_size=64,
        width=16,
        blr=0.1,
        weight_decay=0.0,
        seed=0,
    )
    images, labels = batch_at(0)
    assert np.mean(read(images) == labels) > 0.95
