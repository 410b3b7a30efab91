import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from imae_jax import augment

KEY = jax.random.key(0)


@given(pad=st.integers(1, 3), seed=st.integers(0, 20))
def test_shift_moves_each_image_by_at_most_pad(pad, seed):
    image = np.zeros((16, 9, 9, 1), np.uint8)
    image[:, 4, 4] = 255
    shifted = augment.random_shift(jax.random.key(seed), image, pad)
    assert shifted.dtype == np.uint8
    places = np.argwhere(np.asarray(shifted) == 255)
    assert len(places) == 16  # the dot never leaves
    offsets = places[:, 1:3] - 4
    assert np.abs(offsets).max() <= pad


def test_shifts_reach_every_offset_and_differ_between_images():
    image = np.zeros((400, 5, 5, 1), np.uint8)
    image[:, 2, 2] = 1
    shifted = np.asarray(augment.random_shift(KEY, image, 1))
    assert len({tuple(place) for place in np.argwhere(shifted)[:, 1:3]}) == 9


def test_flip_mirrors_about_half_of_the_images():
    images = jnp.arange(200 * 6).reshape(200, 2, 3, 1)
    flipped = augment.random_flip(KEY, images)
    mirrored = np.all(np.asarray(flipped == images[:, :, ::-1]), axis=(1, 2, 3))
    same = np.all(np.asarray(flipped == images), axis=(1, 2, 3))
    assert np.all(mirrored ^ same)
    assert 70 < mirrored.sum() < 130


def test_no_augmentation_changes_nothing():
    images = jax.random.randint(KEY, (4, 8, 8, 1), 0, 256).astype(jnp.uint8)
    np.testing.assert_array_equal(augment.augment(KEY, images, 0, False), images)


def test_standardise_and_back():
    images = jax.random.randint(KEY, (4, 8, 8, 3), 0, 256).astype(jnp.uint8)
    mean = np.array([10.0, 100.0, 200.0], np.float32)
    std = np.array([1.0, 50.0, 3.0], np.float32)
    standardised = augment.standardise(images, mean, std)
    expected = (np.asarray(images, np.float64) - mean) / std
    np.testing.assert_allclose(standardised, expected, rtol=1e-4, atol=1e-5)
    back = augment.unstandardise(standardised, mean, std)
    np.testing.assert_allclose(back, images, atol=1e-3)
