import numpy as np
import pytest

from imae_jax.data.load import Dataset, Split
from imae_jax.evaluators import classification
from imae_jax.evaluators.held_out import HeldOut
from imae_jax.evaluators.networks import Network

NUM_CLASSES = 7


def held_out(num_images):
    """Images whose only pixel is their number."""
    random = np.random.default_rng(0)
    images = np.arange(num_images, dtype=np.uint8).reshape(-1, 1, 1, 1)
    labels = random.integers(0, NUM_CLASSES, num_images)
    splits = dict(
        train=Split(images[:5], np.array([2, 2, 1, 3, 2])), test=Split(images, labels)
    )
    zero, one = np.zeros(1, np.float32), np.ones(1, np.float32)
    names = tuple("abcdefg")
    dataset = Dataset(splits, zero, one, names)
    return HeldOut(dataset, 1, 1, mask_ratio=None, norm_pix=False), labels


@pytest.mark.parametrize("batch_size", [2, 8, 10, 12, 37, 64])
@pytest.mark.parametrize("num_images", [1, 10, 37])
def test_every_image_counts_once(num_images, batch_size):
    given, labels = held_out(num_images)
    table = np.random.default_rng(1).normal(size=(num_images, NUM_CLASSES))
    sizes = []

    def classify(images):
        sizes.append(len(images))
        return {"mean": table[images.reshape(-1).astype(int)]}

    networks = {"student": Network(classify=classify)}
    options = dict(split="test", batch_size=batch_size)
    found = dict(classification.evaluate(networks, given, **options))
    assert set(sizes) == {batch_size}
    best = np.argsort(-table, axis=1)
    odds = np.exp(table) / np.exp(table).sum(axis=1, keepdims=True)
    own = odds[np.arange(num_images), labels]
    assert found == {
        "mean/accuracy": pytest.approx((best[:, 0] == labels).mean()),
        "mean/top5_accuracy": pytest.approx((best[:, :5] == labels[:, None]).any(1).mean()),
        "mean/loss": pytest.approx(-np.log(own).mean()),
        "chance": pytest.approx((labels == 2).mean()),
        "count": num_images,
    }


def test_equal_logits_are_no_hit_in_the_first_five():
    labels = np.arange(NUM_CLASSES)
    found = classification.scores(np.zeros((NUM_CLASSES, NUM_CLASSES)), labels)
    assert found["accuracy"] == pytest.approx(1 / 7)
    assert found["top5_accuracy"] == pytest.approx(5 / 7)
    assert found["loss"] == pytest.approx(np.log(7))


def test_five_classes_have_no_top_five():
    logits = np.array([[1e4, 0, 0, 0, 0], [0, 0, 0, 0, -1e4]], np.float32)
    found = classification.scores(logits, np.array([0, 4]))
    assert found.keys() == {"accuracy", "loss"}
    assert found["accuracy"] == 0.5
    assert found["loss"] == pytest.approx((0 + 1e4 + np.log(4)) / 2)
