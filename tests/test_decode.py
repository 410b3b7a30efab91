import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from imae_jax.data import images
from imae_jax.data.decode import NUM_DRAWS, BadImageError, central_box, decode, random_box


def encoded(array, kind="png", **options):
    """An array, or a Pillow image, as a file."""
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    file = io.BytesIO()
    image.save(file, format=kind, **options)
    return file.getvalue()


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def whole(height, width):
    return 0, 0, height, width


def test_an_image_of_the_wanted_size_is_copied_exactly():
    for channels, shape in ((3, (6, 9, 3)), (1, (6, 9))):
        image = noise(*shape)
        found = decode(encoded(image), "x", size=(6, 9), channels=channels, box_of=whole)
        np.testing.assert_array_equal(found, image.reshape(6, 9, channels))
        assert found.dtype == np.uint8


def test_a_crop_of_the_wanted_size_is_copied_exactly():
    image = noise(20, 30, 3)
    box_of = lambda height, width: (5, 7, 8, 8)  # noqa: E731
    found = decode(encoded(image), "x", size=(8, 8), channels=3, box_of=box_of)
    np.testing.assert_array_equal(found, image[5:13, 7:15])


def test_resizing_is_pillows_bicubic():
    image = noise(50, 70, 3)
    box_of = lambda height, width: (4, 6, 30, 40)  # noqa: E731
    found = decode(encoded(image), "x", size=(12, 12), channels=3, box_of=box_of)
    crop = Image.fromarray(image[4:34, 6:46])
    expected = crop.resize((12, 12), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(found, np.asarray(expected))


def test_a_large_jpeg_is_decoded_small_and_looks_the_same():
    y, x = np.mgrid[:640, :960] / 960
    image = np.stack([255 * x, 255 * y, 127 + 100 * np.sin(20 * x)], -1).astype(np.uint8)
    data = encoded(image, "jpeg", quality=95)
    box_of = lambda height, width: (100, 200, 400, 400)  # noqa: E731
    found = decode(data, "x", size=(32, 32), channels=3, box_of=box_of)
    crop = Image.open(io.BytesIO(data)).crop((200, 100, 600, 500))
    expected = np.asarray(crop.resize((32, 32), Image.Resampling.BICUBIC), float)
    assert np.abs(found - expected).mean() < 1.5


def test_grey_palette_cmyk_and_opaque_alpha_become_colours():
    grey = noise(8, 8)
    found = decode(encoded(grey), "x", size=(8, 8), channels=3, box_of=whole)
    np.testing.assert_array_equal(found, np.repeat(grey[..., None], 3, -1))
    colour = Image.fromarray(noise(8, 8, 3))
    for image, kind in (
        (colour.convert("P"), "png"),
        (colour.convert("RGBA"), "png"),
        (colour.convert("CMYK"), "tiff"),
    ):
        found = decode(encoded(image, kind), "x", size=(8, 8), channels=3, box_of=whole)
        np.testing.assert_array_equal(found, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize(
    "data,message",
    [
        (b"", "x.jpg is no image of a known kind"),
        (b"not an image at all", "x.jpg is no image of a known kind"),
        (encoded(noise(64, 64, 3), "jpeg")[:900], "truncated"),
        (encoded(noise(64, 64, 3))[:900], "x.jpg cannot be read"),
        (encoded(noise(8, 8).astype(np.uint16) * 200), "mode I;16, not 8-bit"),
        (encoded(noise(8, 8, 4)), "transparent channel; flatten it"),
    ],
)
def test_what_cannot_be_used_is_named(data, message):
    with pytest.raises(BadImageError, match=message):
        decode(data, "x.jpg", size=(8, 8), channels=3, box_of=whole)


@given(
    height=st.integers(1, 400),
    width=st.integers(1, 400),
    seed=st.integers(0, 99),
)
def test_random_boxes_lie_inside_and_keep_their_share(height, width, seed):
    draws = np.random.default_rng(seed).random(NUM_DRAWS)
    top, left, rows, columns = random_box(height, width, (0.2, 1.0), draws)
    assert 0 <= top and 1 <= rows and top + rows <= height
    assert 0 <= left and 1 <= columns and left + columns <= width
    if min(height, width) > 100 and max(height, width) < 1.3 * min(height, width):
        assert 0.19 < rows * columns / (height * width) <= 1
        assert 0.73 < columns / rows < 1.37


def test_random_boxes_spread_over_shares_and_places():
    draws = np.random.default_rng(0).random((2000, NUM_DRAWS))
    boxes = np.array([random_box(300, 300, (0.2, 1.0), draw) for draw in draws])
    top, _, rows, columns = boxes.T
    share = rows * columns / 300**2
    assert 0.5 < share.mean() < 0.6 and share.min() < 0.22 and share.max() > 0.95
    place = top[rows < 200] / (300 - rows[rows < 200])
    assert 0.45 < place.mean() < 0.55
    assert abs(np.log(columns / rows).mean()) < 0.01


def test_no_try_fits_a_very_long_image():
    draws = np.full(NUM_DRAWS, 0.99)
    assert random_box(10, 300, (0.9, 1.0), draws) == (0, 143, 10, 13)


def test_the_central_box_has_the_wanted_ratio():
    assert central_box(100, 200, (32, 32), 1.0) == (0, 50, 100, 100)
    assert central_box(256, 512, (224, 224), 224 / 256) == (16, 144, 224, 224)
    assert central_box(40, 40, (10, 20), 1.0) == (10, 0, 20, 40)


def files(*data, min_side=1):
    names = [f"image {i}" for i in range(len(data))]
    return images.EncodedImages(names, lambda i: data[i], (8, 8), 3, min_side, 1.0)


@pytest.mark.parametrize("size", [32, 100])
def test_nothing_beyond_the_border_is_seen(size):
    """An even image stays even, however the rounding falls."""
    for side in [*range(230, 420), 609, 2436]:
        kind = "jpeg" if side > 320 else "png"
        data = encoded(np.full((side, side + side % 7), 200, np.uint8), kind)
        box_of = lambda h, w: central_box(h, w, (size, size), 1.0)  # noqa: E731
        found = decode(data, "x", size=(size, size), channels=1, box_of=box_of)
        assert np.abs(found.astype(int) - 200).max() <= 1, side


def test_bad_images_are_raised_or_left_out():
    good = [noise(8, 8, 3, seed=i) for i in range(3)]
    three = files(encoded(good[0]), b"broken", encoded(good[2]))
    found, indices = images.decode_all(three, np.arange(3), "skip")
    np.testing.assert_array_equal(indices, [0, 2])
    np.testing.assert_array_equal(found, np.stack([good[0], good[2]]))
    with pytest.raises(BadImageError, match="image 1 is no .*data.on_bad_image=skip"):
        images.decode_all(three, np.arange(3), "raise")
    found, indices = images.decode_all(files(b"a"), np.arange(1), "skip")
    assert found.shape == (0, 8, 8, 3) and len(indices) == 0


def test_an_image_smaller_than_a_patch_is_bad():
    small = files(encoded(noise(5, 9, 3)), min_side=8)
    with pytest.raises(BadImageError, match="image 0 is 5x9 pixels, smaller .* 8x8"):
        small.get(0)


def test_a_file_that_is_gone_is_named():
    def read(index):
        raise FileNotFoundError(2, "No such file", "a.png")

    gone = images.EncodedImages(["a.png"], read, (8, 8), 3, 1, 1.0)
    with pytest.raises(BadImageError, match="a.png cannot be read: .*No such file"):
        gone.get(0)
