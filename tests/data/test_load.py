import numpy as np
import pytest
from sklearn.datasets import load_digits

from imae_jax.data.load import load
from imae_jax.errors import UserError


def test_digits_are_scikit_learns_in_fixed_splits(data_dir):
    dataset = load("digits", data_dir)
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
    dataset = load("digits", data_dir)
    pixels = dataset.splits["train"].images.astype(np.float64)
    np.testing.assert_allclose(dataset.mean, [pixels.mean()], rtol=1e-6)
    np.testing.assert_allclose(dataset.std, [pixels.std()], rtol=1e-6)


def test_unknown_data_set_names_the_nearest():
    with pytest.raises(UserError, match="'digit' is not .* did you mean 'digits'"):
        load("digit", "anywhere")


def test_data_dir_that_cannot_be_made(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(UserError, match="data.dir=.*file"):
        load("digits", str(file))
