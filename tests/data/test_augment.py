import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import stats

from imae_jax.data import augment

KEY = jax.random.key(0)


@given(pad=st.integers(1, 3), seed=st.integers(0, 20))
def test_shift_moves_each_image_by_at_most_pad(pad, seed):
    image = np.zeros((16, 9, 9, 1), np.uint8)
    image[:, 4, 4] = 255
    shifted = augment.random_shift(jax.random.key(seed), image, pad, "constant")
    assert shifted.dtype == np.uint8
    places = np.argwhere(np.asarray(shifted) == 255)
    assert len(places) == 16  # the dot never leaves
    offsets = places[:, 1:3] - 4
    assert np.abs(offsets).max() <= pad


def test_shifts_reach_every_offset_and_differ_between_images():
    image = np.zeros((400, 5, 5, 1), np.uint8)
    image[:, 2, 2] = 1
    shifted = np.asarray(augment.random_shift(KEY, image, 1, "constant"))
    assert len({tuple(place) for place in np.argwhere(shifted)[:, 1:3]}) == 9


@pytest.mark.parametrize("mode", augment.PAD_MODES)
def test_beyond_the_edge_there_is_black_or_the_mirrored_image(mode):
    images = pixels((40, 6, 7, 3), low=1)
    shifted = np.asarray(augment.random_shift(KEY, images, 3, mode))
    ways = ((0, 0), (3, 3), (3, 3), (0, 0))
    padded = np.pad(images, ways, mode)
    for before, after in zip(padded, shifted, strict=True):
        places = [
            (y, x)
            for y in range(7)
            for x in range(7)
            if np.array_equal(before[y : y + 6, x : x + 7], after)
        ]
        assert len(places) == 1
    assert np.any(shifted == 0) == (mode == "constant")


def test_flip_mirrors_about_half_of_the_images():
    images = jnp.arange(200 * 6).reshape(200, 2, 3, 1)
    flipped = augment.random_flip(KEY, images)
    mirrored = np.all(np.asarray(flipped == images[:, :, ::-1]), axis=(1, 2, 3))
    same = np.all(np.asarray(flipped == images), axis=(1, 2, 3))
    assert np.all(mirrored ^ same)
    assert 70 < mirrored.sum() < 130


def test_no_augmentation_changes_nothing():
    images = jax.random.randint(KEY, (4, 8, 8, 1), 0, 256).astype(jnp.uint8)
    np.testing.assert_array_equal(
        augment.augment(KEY, images, 0, "reflect", False, ()), images
    )


def pixels(shape, low=0, high=256, seed=0):
    """Noise, uint8 in low..high-1."""
    return np.random.default_rng(seed).integers(low, high, shape).astype(np.uint8)


def smooth_pixels(shape):
    """Noise at an eighth of the size, enlarged: like pictures, neighbours are alike."""
    batch_size, height, width, channels = shape
    noise = pixels((batch_size, height // 8, width // 8, channels))
    enlarged = [np.asarray(Image.fromarray(x).resize((width, height))) for x in noise]
    return np.stack(enlarged)


@pytest.mark.slow
def test_crops_are_resized_like_pillow():
    """Within one grey level: Pillow rounds between its passes.

    It clips there, too, so noise has to leave room for what the filter overshoots.
    """
    shape = (8, 40, 64, 3)
    boxes = np.array(augment.crop_boxes(KEY, 8, 40, 64, (0.1, 1.0)))
    boxes[:4] = [(0, 0, 40, 64), (0, 0, 1, 1), (39, 63, 1, 1), (3, 5, 30, 9)]
    for images in (smooth_pixels(shape), pixels(shape, 64, 192)):
        expected = [
            Image.fromarray(image).resize(
                (64, 40), Image.Resampling.BICUBIC, box=(left, top, left + w, top + h)
            )
            for image, (top, left, h, w) in zip(images, boxes, strict=True)
        ]
        cropped = augment.crop_and_resize(images, jnp.array(boxes))
        assert cropped.dtype == np.uint8
        difference = np.asarray(cropped, int) - np.stack(expected)
        assert np.abs(difference).max() <= 1
        assert np.abs(difference.mean()) < 0.02


def test_the_whole_image_stays_as_it_is():
    images = pixels((3, 9, 7, 2))
    boxes = jnp.array([[0, 0, 9, 7]] * 3)
    np.testing.assert_array_equal(augment.crop_and_resize(images, boxes), images)


def reference_boxes(number, height, width, area, ratio, seed):
    """RandomResizedCrop's boxes as torchvision draws them, in NumPy, one by one."""
    random = np.random.default_rng(seed)
    boxes = []
    while len(boxes) < number:
        pixels = height * width * random.uniform(*area)
        shape = np.exp(random.uniform(*np.log(ratio)))
        columns = int(round(np.sqrt(pixels * shape)))
        rows = int(round(np.sqrt(pixels / shape)))
        if 0 < columns <= width and 0 < rows <= height:
            top = random.integers(0, height - rows + 1)
            boxes.append((top, random.integers(0, width - columns + 1), rows, columns))
    return np.array(boxes)


@given(
    height=st.integers(8, 40),
    width=st.integers(8, 40),
    low=st.floats(0.1, 1.0),
    seed=st.integers(0, 9),
)
def test_boxes_keep_their_promises(height, width, low, seed):
    key = jax.random.key(seed)
    boxes, fits = augment.draw_boxes(key, 32, height, width, (low, 1.0), (1.1, 1.5))
    top, left, rows, columns = np.asarray(boxes)[np.asarray(fits)].T
    assert np.all((top >= 0) & (left >= 0) & (rows > 0) & (columns > 0))
    assert np.all((top + rows <= height) & (left + columns <= width))
    # Sides are rounded, by half a pixel at most.
    assert np.all((rows + 0.5) * (columns + 0.5) >= low * height * width)
    assert np.all((columns + 0.5) / (rows - 0.5) >= 1.1)
    assert np.all((columns - 0.5) / (rows + 0.5) <= 1.5)


@pytest.mark.parametrize("height,width,low", [(32, 32, 0.2), (24, 60, 0.08)])
def test_boxes_are_distributed_like_torchvisions(height, width, low):
    number = 10_000
    boxes, fits = augment.draw_boxes(
        KEY, number, height, width, (low, 1.0), augment.CROP_RATIO
    )
    ours = np.asarray(boxes)[np.asarray(fits)]
    # The reference draws until it fits: ten draws have to be nearly as good.
    assert len(ours) > 0.99 * number
    theirs = reference_boxes(number, height, width, (low, 1.0), augment.CROP_RATIO, 0)

    def quantities(boxes):
        top, left, rows, columns = boxes.T
        return top, left, rows, columns, rows * columns, columns / rows

    for our, their in zip(quantities(ours), quantities(theirs), strict=True):
        assert stats.ks_2samp(our, their).pvalue > 0.01


@pytest.mark.parametrize(
    "height,width,expected",
    [
        (8, 8, (0, 0, 8, 8)),
        (10, 40, (0, 13, 10, 13)),  # 4 : 3
        (40, 9, (14, 0, 12, 9)),  # 3 : 4
    ],
)
def test_what_fits_in_no_draw_is_cut_from_the_middle(height, width, expected):
    # More than the whole area fits nowhere.
    boxes = augment.crop_boxes(KEY, 4, height, width, (2.0, 2.0))
    np.testing.assert_array_equal(boxes, [expected] * 4)


def test_crops_of_one_value_have_one_value():
    constant = np.full((4, 8, 8, 1), 200, np.uint8)
    cropped = augment.augment(KEY, constant, 0, "constant", False, (0.2, 1.0))
    np.testing.assert_array_equal(cropped, constant)


@pytest.mark.slow
@given(
    pad=st.integers(0, 2),
    flip=st.booleans(),
    crop_scale=st.sampled_from([(), (0.2, 1.0), (0.5, 0.5)]),
    seed=st.integers(0, 9),
)
def test_augmentation_keeps_shape_type_and_mean(pad, flip, crop_scale, seed):
    images = smooth_pixels((128, 16, 16, 3))
    augmented = augment.augment(
        jax.random.key(seed), images, pad, "constant", flip, crop_scale
    )
    assert augmented.shape == images.shape and augmented.dtype == images.dtype
    mean_shift = pad * (pad + 1) / (2 * pad + 1)  # zeros come in from the border
    expected = np.mean(images) * (1 - mean_shift / 16) ** 2
    assert abs(np.mean(augmented) - expected) < 4


def test_erasing():
    number, area, ratio = 2000, (0.02, 1 / 3), (0.3, 1 / 0.3)
    images = jnp.full((number, 16, 16, 1), 7.0)
    kwargs = dict(probability=0.25, area=area, ratio=ratio)
    erased = np.asarray(augment.random_erasing(KEY, images, **kwargs))[..., 0]
    lost = erased != 7.0
    touched = lost.any(axis=(1, 2))
    assert abs(touched.mean() - 0.25) < 0.03
    shares = lost[touched].mean(axis=(1, 2))
    assert 0.01 < shares.min() < 0.03 and 0.32 < shares.max() < 0.38
    assert abs(shares.mean() - np.mean(area)) < 0.02
    for one in lost[touched][:50]:  # what is lost is a whole box
        rows, columns = np.argwhere(one).T
        assert one[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()
    noise = erased[lost]
    assert abs(noise.mean()) < 0.05 and abs(noise.std() - 1) < 0.05
    assert len(np.unique(noise)) > 0.99 * noise.size  # each pixel has its own
    for changes in (dict(probability=0.0), dict(probability=1.0, area=(2.0, 2.0))):
        same = augment.random_erasing(KEY, images, **kwargs | changes)
        np.testing.assert_array_equal(same, images)


def test_box_mask():
    mask = augment.box_mask(jnp.array([[1, 0, 2, 3], [-1, 2, 2, 9]]), 4, 5)
    expected = np.zeros((2, 4, 5), bool)
    expected[0, 1:3, 0:3] = expected[1, 0:1, 2:] = True
    np.testing.assert_array_equal(mask, expected)


def test_normalize_and_back():
    images = jax.random.randint(KEY, (4, 8, 8, 3), 0, 256).astype(jnp.uint8)
    mean = np.array([10.0, 100.0, 200.0], np.float32)
    std = np.array([1.0, 50.0, 3.0], np.float32)
    normalized = augment.normalize(images, mean, std)
    expected = (np.asarray(images, np.float64) - mean) / std
    np.testing.assert_allclose(normalized, expected, rtol=1e-4, atol=1e-5)
    back = augment.unnormalize(normalized, mean, std)
    np.testing.assert_allclose(back, images, atol=1e-3)
