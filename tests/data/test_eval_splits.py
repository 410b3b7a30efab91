import numpy as np
import pytest
from small_inputs import encoded, noise

from imae_jax.data import eval_splits
from imae_jax.data.encoded_images import EncodedImages
from imae_jax.data.load import Dataset, Split
from imae_jax.errors import UserError

ALL = dict(train=None, validation=None, test=None)


def dataset(**sizes):
    """Images whose first pixel is their number, with labels and a factor likewise."""
    splits = {}
    for name, size in sizes.items():
        numbers = np.arange(size)
        images = np.broadcast_to(
            numbers.astype(np.uint8)[:, None, None, None], (size, 2, 2, 1)
        )
        splits[name] = Split(images, numbers % 5, {"angle": numbers / 10})
    return Dataset(splits, np.zeros(1), np.ones(1), tuple("abcde"))


def numbers(split):
    """Which examples a split holds; labels and factors must be those of its images."""
    found = split.images[:, 0, 0, 0].astype(int)
    np.testing.assert_array_equal(split.labels, found % 5)
    np.testing.assert_allclose(split.factors["angle"], found / 10)
    return found


def test_three_published_splits_stay_as_they_are():
    found = eval_splits.parts_of(dataset(train=20, validation=5, test=7), ALL, "raise")
    assert {name: len(numbers(split)) for name, split in found.splits.items()} == {
        "train": 20,
        "validation": 5,
        "test": 7,
    }
    np.testing.assert_array_equal(numbers(found.splits["train"]), np.arange(20))
    assert found.published == {part: part for part in ALL}


def test_of_two_splits_a_tenth_of_train_is_set_aside():
    for scored in ("test", "validation"):
        found = eval_splits.parts_of(dataset(train=50, **{scored: 9}), ALL, "raise")
        assert found.published == dict(train="train", validation="train", test=scored)
        fitted, chosen = (numbers(found.splits[x]) for x in ("train", "validation"))
        assert len(chosen) == 5
        np.testing.assert_array_equal(np.sort([*fitted, *chosen]), np.arange(50))
        np.testing.assert_array_equal(numbers(found.splits["test"]), np.arange(9))


def test_limits_take_some_of_all_over_and_the_same_each_time():
    limits = dict(train=20, validation=4, test=None)
    whole = dataset(train=200, test=9)
    found = [eval_splits.parts_of(whole, limits, "raise") for _ in range(2)]
    first, again = (numbers(x.splits["train"]) for x in found)
    np.testing.assert_array_equal(first, again)
    assert len(first) == 20 and first.max() > 150 and (np.diff(first) > 0).all()
    chosen = numbers(found[0].splits["validation"])
    assert len(chosen) == 4 and not set(chosen) & set(first)


def test_files_are_decoded_and_bad_ones_leave_with_their_labels():
    images = [noise(4, 4, 3, seed=i) for i in range(4)]
    data = [encoded(image) for image in images]
    data[2] = b"broken"
    files = EncodedImages(list("0123"), lambda i: data[i], (4, 4), 3, 1, 1.0)
    split = Split(files, np.arange(4), {"angle": np.arange(4) / 10})
    found = eval_splits.decoded(split, "skip")
    np.testing.assert_array_equal(found.labels, [0, 1, 3])
    np.testing.assert_allclose(found.factors["angle"], [0, 0.1, 0.3])
    np.testing.assert_array_equal(found.images, np.stack([images[i] for i in (0, 1, 3)]))


@pytest.mark.parametrize("left", [0, 1, 2])
def test_a_part_needs_two_images_after_bad_ones_are_skipped(left):
    whole = dataset(train=9, test=4)
    data = [encoded(noise(2, 2))] * left + [b"broken"] * (4 - left)
    files = EncodedImages(list("0123"), lambda i: data[i], (2, 2), 1, 1, 1.0)
    whole.splits["test"] = Split(files, np.zeros(4, int))
    if left == 2:
        found = eval_splits.parts_of(whole, ALL, "skip")
        assert found.sizes["test"] == 2
        return
    message = f"2 images to be its test part, but only {left} of 4 of test can be used"
    with pytest.raises(UserError, match=message):
        eval_splits.parts_of(whole, ALL, "skip")
