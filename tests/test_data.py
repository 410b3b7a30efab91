import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from imae_jax.data import pairs, sources
from imae_jax.errors import UserError


@given(num_examples=st.integers(2, 60), seed=st.integers(0, 9), epoch=st.integers(0, 9))
def test_an_epoch_takes_every_image_once(num_examples, seed, epoch):
    indices = pairs.epoch_pairs(num_examples, seed, epoch).reshape(-1)
    assert len(indices) == num_examples // 2 * 2
    assert len(set(indices.tolist())) == len(indices)  # so no image meets itself
    assert indices.min() >= 0 and indices.max() < num_examples


@given(
    num_examples=st.integers(2, 30),
    half_batch=st.integers(1, 20),
    seed=st.integers(0, 9),
)
def test_batches_follow_the_epochs_without_a_gap(num_examples, half_batch, seed):
    batch_size = 2 * half_batch
    per_epoch = num_examples // 2 * 2
    steps = -(-2 * per_epoch // batch_size)
    stream = pairs.Pairs(np.zeros(num_examples), seed)
    indices = np.concatenate(
        [stream.batch(step, batch_size) for step in range(steps)]
    )
    for epoch in range(2):
        expected = pairs.epoch_pairs(num_examples, seed, epoch).reshape(-1)
        found = indices[epoch * per_epoch : (epoch + 1) * per_epoch]
        np.testing.assert_array_equal(found, expected)


def test_epochs_and_seeds_pair_differently_and_an_odd_one_takes_turns():
    first, second = (pairs.epoch_pairs(101, 0, epoch) for epoch in (0, 1))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, pairs.epoch_pairs(101, 1, 0))
    left_out = {
        (set(range(101)) - set(pairs.epoch_pairs(101, 0, epoch).flat)).pop()
        for epoch in range(20)
    }
    assert len(left_out) > 10


def test_digits_are_scikit_learns_in_fixed_splits(data_dir):
    dataset = sources.load("digits", data_dir)
    sizes = {name: len(split.images) for name, split in dataset.splits.items()}
    assert sizes == {"train": 1297, "validation": 200, "test": 300}
    assert dataset.image_shape == (8, 8, 1)
    assert dataset.class_names == tuple("0123456789")

    digits = load_digits()
    expected = np.round(digits.images * 255 / 16).astype(np.uint8).reshape(1797, -1)
    images = np.concatenate([split.images for split in dataset.splits.values()])
    labels = np.concatenate([split.labels for split in dataset.splits.values()])
    images = images.reshape(1797, -1)

    def ordered(images, labels):
        return sorted(zip(map(bytes, images), labels.tolist(), strict=True))

    assert ordered(images, labels) == ordered(expected, digits.target)


def test_statistics_are_the_train_splits(data_dir):
    dataset = sources.load("digits", data_dir)
    pixels = dataset.splits["train"].images.astype(np.float64)
    np.testing.assert_allclose(dataset.mean, [pixels.mean()], rtol=1e-6)
    np.testing.assert_allclose(dataset.std, [pixels.std()], rtol=1e-6)


def test_unknown_data_set_names_the_nearest():
    with pytest.raises(UserError, match="'digit' is not .* did you mean 'digits'"):
        sources.load("digit", "anywhere")


def test_data_dir_that_cannot_be_made(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(UserError, match="data.dir=.*file"):
        sources.load("digits", str(file))
