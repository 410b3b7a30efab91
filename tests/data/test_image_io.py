import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, JpegImagePlugin
from small_inputs import encoded, noise

from imae_jax.data import encoded_images, pixel_formats
from imae_jax.data.image_io import NUM_DRAWS, BadImageError, central_box, decode, random_box


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
        (encoded(noise(8, 8, 4)), "it is transparent; give data.files.background"),
        (encoded(noise(8, 8).astype(np.float32), "tiff"), "mode F, not grey or colour"),
        (encoded(noise(8, 8).astype(np.int32), "tiff"), "mode I, not grey or colour"),
        (encoded(Image.new("LAB", (8, 8)), "tiff"), "mode LAB, not grey or colour"),
    ],
)
def test_what_cannot_be_used_is_named(data, message):
    with pytest.raises(BadImageError, match=message):
        decode(data, "x.jpg", size=(8, 8), channels=3, box_of=whole)


def turned(image, orientation):
    """What a camera stores that was held so: brought upright, it is `image`."""
    exif = Image.Exif()
    exif[pixel_formats.ORIENTATION] = orientation
    if orientation == 1:
        return image, exif
    turn = pixel_formats.TURNS[orientation]
    back = {
        Image.Transpose.ROTATE_90: Image.Transpose.ROTATE_270,
        Image.Transpose.ROTATE_270: Image.Transpose.ROTATE_90,
    }.get(turn, turn)
    return image.transpose(back), exif


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["png", "tiff", "webp", "jpeg"])
def test_images_are_turned_upright_before_they_are_cropped(kind, orientation):
    y, x = np.mgrid[:20, :30]
    upright = np.stack([8 * x, 12 * y, 5 * (x + y)], -1).astype(np.uint8)
    stored, exif = turned(Image.fromarray(upright), orientation)
    options = {"webp": dict(lossless=True), "jpeg": dict(quality=100, subsampling=0)}
    data = encoded(stored, kind, exif=exif, **options.get(kind, {}))
    seen = []

    def box_of(height, width):
        seen.append((height, width))
        return 2, 5, 16, 24

    found = decode(data, "x", size=(16, 24), channels=3, box_of=box_of)
    assert seen == [(20, 30)]
    expected = np.asarray(Image.fromarray(upright).crop((5, 2, 29, 18)))
    assert np.abs(found.astype(int) - expected).max() <= (6 if kind == "jpeg" else 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_jpeg_is_decoded_small_and_looks_the_same(orientation):
    y, x = np.mgrid[:640, :960] / 960
    image = np.stack([255 * x, 255 * y, 127 + 100 * np.sin(20 * x)], -1).astype(np.uint8)
    stored, exif = turned(Image.fromarray(image), orientation)
    data = encoded(stored, "jpeg", quality=95, exif=exif)
    box_of = lambda height, width: (100, 200, 300, 600)  # noqa: E731
    found = decode(data, "x", size=(16, 32), channels=3, box_of=box_of)
    crop = Image.fromarray(image).crop((200, 100, 800, 400))
    expected = np.asarray(crop.resize((32, 16), Image.Resampling.BICUBIC), float)
    assert np.abs(found - expected).mean() < 2


def test_large_jpegs_are_decoded_small_however_they_lie(monkeypatch):
    asked, draft = [], JpegImagePlugin.JpegImageFile.draft
    spy = lambda self, mode, size: asked.append(size) or draft(self, mode, size)  # noqa: E731
    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "draft", spy)
    stored, exif = turned(Image.new("RGB", (960, 640)), 6)
    box_of = lambda height, width: central_box(height, width, (8, 16), 1.0)  # noqa: E731
    for kind, more in (("jpeg", {}), ("mpo", dict(append_images=[stored], save_all=True))):
        data = encoded(stored, kind, exif=exif, **more)
        decode(data, "x", size=(8, 16), channels=3, box_of=box_of)
    assert asked == [(21, 32)] * 2


@pytest.mark.parametrize("broken", [b"Exif\0\0", b"Exif\0\0MM\0*\0\0\xff\xff", b"nonsense"])
def test_what_is_broken_beside_the_pixels_does_not_matter(broken):
    image = noise(8, 8)
    data = encoded(np.stack([image] * 3, -1), "jpeg", quality=100, exif=broken)
    decode(data, "x", size=(8, 8), channels=3, box_of=whole)


def test_an_orientation_that_cannot_be_read_is_none():
    class Broken:
        def getexif(self):
            raise SyntaxError("not a TIFF file")

    assert pixel_formats.orientation_of(Broken()) == 1


def test_grey_of_premultiplied_alpha_is_laid_on_the_background():
    image = Image.fromarray(noise(8, 8)).convert("LA")
    image.putalpha(128)
    expected = np.asarray(pixel_formats.flattened(image, "white"))
    found = np.asarray(pixel_formats.flattened(image.convert("La"), "white"))
    assert np.abs(found.astype(int) - expected).max() <= 2


def flat(image, kind="png", channels=3, background="#102030", **options):
    data = encoded(image, kind, **options)
    return decode(
        data, "x", size=(8, 8), channels=channels, box_of=whole, background=background
    )


def test_transparent_images_lie_on_the_background():
    colours, alpha = noise(8, 8, 4), noise(8, 8, seed=1)
    colours[..., 3] = alpha
    share = alpha[..., None] / 255
    expected = colours[..., :3] * share + np.array([16, 32, 48]) * (1 - share)
    assert np.abs(flat(colours) - expected).max() <= 1
    half = flat(np.dstack([colours[..., 0], alpha]))  # grey and alpha
    expected = colours[..., :1] * share + np.array([16, 32, 48]) * (1 - share)
    assert np.abs(half - expected).max() <= 1
    clear = colours.copy()
    clear[..., 3] = 0
    white = flat(clear, channels=1, background="white")
    np.testing.assert_array_equal(white, np.full((8, 8, 1), 255))


def test_one_colour_of_a_palette_of_grey_or_of_all_may_be_transparent():
    grey = (noise(8, 8) // 64 * 80).astype(np.uint8)
    palette = Image.fromarray(grey).convert("P")
    colour = np.stack([grey, grey // 2, grey // 4], -1)
    for image, hidden, seen in (
        (Image.fromarray(grey), 80, np.stack([grey] * 3, -1)),
        (palette, palette.getpixel((0, 0)), np.asarray(palette.convert("RGB"))),
        (Image.fromarray(colour), (80, 40, 20), colour),
    ):
        data = np.asarray(image)
        gone = data == hidden if data.ndim == 2 else np.all(data == hidden, axis=-1)
        assert 0 < gone.sum() < 64
        expected = np.where(gone[..., None], [16, 32, 48], seen)
        np.testing.assert_array_equal(flat(image, transparency=hidden), expected)


def big_endian(values):
    """16-bit grey, most significant byte first."""
    return Image.frombytes("I;16B", values.shape[::-1], values.astype(">u2").tobytes())


def coloured_png(values):
    """A PNG of [H, W, 3] uint16, which Pillow reads but does not write."""

    def chunk(kind, data):
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    parts = (
        chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )
    return b"\x89PNG\r\n\x1a\n" + parts


def test_sixteen_bits_are_cut_to_eight():
    values = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    expected = np.repeat((values >> 8).astype(np.uint8)[..., None], 3, -1)
    for kind in ("png", "tiff", "jpeg2000"):
        image = Image.fromarray(values)
        options = dict(irreversible=False) if kind == "jpeg2000" else {}
        np.testing.assert_array_equal(flat(image, kind, **options), expected)
    np.testing.assert_array_equal(flat(big_endian(values), "tiff"), expected)
    for data in (
        b"P5 8 8 65535\n" + values.astype(">u2").tobytes(),
        coloured_png(np.repeat(values[..., None], 3, -1)),
    ):
        found = decode(data, "x", size=(8, 8), channels=3, box_of=whole)
        np.testing.assert_array_equal(found, expected)
    seen = flat(Image.fromarray(values), transparency=int(values[0, 3]))
    np.testing.assert_array_equal(seen[0, 3], [16, 32, 48])
    assert (seen[0, 2] == expected[0, 2]).all() and (seen[0, 4] == expected[0, 4]).all()


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_grey_whose_zero_is_white_is_inverted(kind):
    most = np.iinfo(kind).max
    values = np.linspace(0, most, 64).astype(kind).reshape(8, 8)
    expected = (values >> (8 * (kind == np.uint16))).astype(np.uint8)[..., None]
    white_is_zero = dict(tiffinfo={262: 0})
    # Pillow writes 16 bits as they are given, and inverts 8.
    stored = most - values if kind == np.uint16 else values
    found = flat(Image.fromarray(stored), "tiff", channels=1, **white_is_zero)
    np.testing.assert_array_equal(found, expected)


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


def test_random_boxes_have_the_shape_of_what_they_become():
    draws = np.random.default_rng(0).random((500, NUM_DRAWS))
    boxes = [random_box(600, 300, (0.2, 0.4), draw, aspect=0.5) for draw in draws]
    _, _, rows, columns = np.array(boxes).T
    assert abs(np.log(2 * columns / rows).mean()) < 0.02
    assert np.abs(np.log(2 * columns / rows)).max() < np.log(4 / 3) + 0.02


def test_no_try_fits_a_very_long_image():
    draws = np.full(NUM_DRAWS, 0.99)
    assert random_box(10, 300, (0.9, 1.0), draws) == (0, 143, 10, 13)


def test_the_central_box_has_the_wanted_ratio():
    assert central_box(100, 200, (32, 32), 1.0) == (0, 50, 100, 100)
    assert central_box(256, 512, (224, 224), 224 / 256) == (16, 144, 224, 224)
    assert central_box(40, 40, (10, 20), 1.0) == (10, 0, 20, 40)


def files(*data, min_side=1):
    names = [f"image {i}" for i in range(len(data))]
    return encoded_images.EncodedImages(names, lambda i: data[i], (8, 8), 3, min_side, 1.0)


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
    found, indices = encoded_images.decode_all(three, np.arange(3), "skip")
    np.testing.assert_array_equal(indices, [0, 2])
    np.testing.assert_array_equal(found, np.stack([good[0], good[2]]))
    with pytest.raises(BadImageError, match="image 1 is no .*data.on_bad_image=skip"):
        encoded_images.decode_all(three, np.arange(3), "raise")
    found, indices = encoded_images.decode_all(files(b"a"), np.arange(1), "skip")
    assert found.shape == (0, 8, 8, 3) and len(indices) == 0


def test_an_image_smaller_than_a_patch_is_bad():
    small = files(encoded(noise(5, 9, 3)), min_side=8)
    with pytest.raises(BadImageError, match="image 0 is 5x9 pixels, smaller .* 8x8"):
        small.get(0)


def test_a_file_that_is_gone_is_named():
    def read(index):
        raise FileNotFoundError(2, "No such file", "a.png")

    gone = encoded_images.EncodedImages(["a.png"], read, (8, 8), 3, 1, 1.0)
    with pytest.raises(BadImageError, match="a.png cannot be read: .*No such file"):
        gone.get(0)
