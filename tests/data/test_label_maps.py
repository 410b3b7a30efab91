"""Label maps of image folders: read beside the images, and refused where they are wrong."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from small_inputs import encoded, make_folder, noise

from configs import mae
from imae_jax.commands import describe_data
from imae_jax.data import label_maps
from imae_jax.data.eval_splits import decoded, parts_of
from imae_jax.data.image_io import BadImageError
from imae_jax.data.label_maps import IGNORED, decode, nearest
from imae_jax.data.load import load
from imae_jax.distributed import sharding
from imae_jax.errors import UserError
from imae_jax.evaluators import during_training
from imae_jax.models.factory import build_model
from imae_jax.training import pictures, setup

FILES = dict(image_size="8x6", channels=3, centre=1.0, background="white")
CLASSES = "background\nant\nbee\n"
NAMES = [f"{part}/ant/{i}.jpg" for part in ("train", "val") for i in range(4)]
SIZE = (16, 12)


@pytest.fixture
def folder(tmp_path):
    """Images of 16x12 pixels, and label maps of noise beside them."""
    make_folder(tmp_path / "images", *NAMES, size=SIZE)
    for number, name in enumerate(NAMES):
        path = (tmp_path / "maps" / name).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(label_map(number)).save(path)
    (tmp_path / "maps" / "classes.txt").write_text(CLASSES)
    return tmp_path


def label_map(number, size=SIZE):
    return np.random.default_rng(number).choice([0, 1, 2, IGNORED], size).astype(np.uint8)


def halved(number):
    """Of every 2x2 pixels the last, whose corner is the centre of the larger pixel."""
    return label_map(number)[1::2, 1::2]


def opened(folder, **options):
    files = FILES | {"label_maps": str(folder / "maps")} | options
    return load("folder", str(folder / "images"), files=files)


def test_they_are_read_beside_the_images(folder):
    dataset = opened(folder)
    assert dataset.pixel_classes == ("background", "ant", "bee")
    split = dataset.splits["validation"]
    assert split.label_maps.shape == (4, 8, 6) and len(split.label_maps) == 4
    found = decoded(split, "raise", np.array([1, 3]))
    assert found.label_maps.dtype == np.uint8 and found.images.shape == (2, 8, 6, 3)
    for place, number in enumerate((5, 7)):
        np.testing.assert_array_equal(found.label_maps[place], halved(number))
    (taken,) = found.take(np.array([1])).label_maps
    np.testing.assert_array_equal(taken, found.label_maps[1])
    none = load("folder", str(folder / "images"), files=FILES)
    assert none.pixel_classes == () and none.splits["train"].label_maps is None
    assert decoded(none.splits["train"], "raise").label_maps is None


def test_they_are_cropped_as_the_images_are(tmp_path):
    """Each pixel's colour is its class: image and map agree wherever they are cut."""
    colours = np.array([[0, 0, 0], [255, 0, 0], [0, 0, 255]], np.uint8)
    blocks = np.random.default_rng(0).integers(0, 3, (5, 7)).astype(np.uint8)
    for i in range(4):
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "maps").mkdir(exist_ok=True)
        classes = np.roll(blocks, i, axis=0).repeat(8, axis=0).repeat(8, axis=1)
        Image.fromarray(colours[classes]).save(tmp_path / f"images/{i}.png")
        picture = Image.fromarray(classes)
        picture.putpalette([9, 9, 9, 200, 1, 2, 77, 3, 3])  # colours do not matter
        picture.save(tmp_path / f"maps/{i}.png")
    (tmp_path / "maps/classes.txt").write_text(CLASSES)
    for centre, size in ((1.0, "40x40"), (0.8, "40x40"), (0.5, "20x28")):
        split = opened(tmp_path, centre=centre, image_size=size).splits["train"]
        found = decoded(split, "raise")
        distance = np.abs(found.images[..., None, :].astype(int) - colours).sum(axis=-1)
        assert (distance.argmin(axis=-1) == found.label_maps).mean() > 0.97


def test_of_an_image_on_its_side_they_are_upright(folder):
    path = folder / "images/train/ant/0.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    Image.new("RGB", SIZE).save(path, exif=exif)  # 16 wide, 12 high: upright 16 high
    found = decoded(opened(folder).splits["train"], "raise").label_maps
    np.testing.assert_array_equal(found[0], halved(0))


@pytest.mark.parametrize("depth,mode", [(8, "P"), (4, "P"), (2, "P"), (8, "L")])
def test_indices_are_read_from_palettes_of_any_depth(depth, mode):
    values = np.array([[0, 1, 2, 3]], np.uint8)
    picture = Image.fromarray(values)
    if mode == "P":
        picture.putpalette([(9 + i) % 256 for i in range(3 * 2**depth)])
    options = dict(bits=depth) if mode == "P" else {}
    np.testing.assert_array_equal(decode(encoded(picture, **options), "x", 4), values)


GREY = np.zeros(SIZE, np.uint8)


def png_of_grey(bits):
    """Grey of few bits, which Pillow would scale to 0..255."""
    data = bytearray(encoded(GREY))
    data[24] = bits
    return bytes(data)


@pytest.mark.parametrize(
    "data,message",
    [
        (encoded(noise(*SIZE, 3)), "is not a PNG of class indices"),
        (encoded(noise(*SIZE, 4)), "is not a PNG of class indices"),
        (encoded(GREY.astype(np.uint16)), "is not a PNG of class indices"),
        (png_of_grey(4), "is not a PNG of class indices"),
        (encoded(GREY, kind="bmp"), "is not a PNG of class indices"),
        (encoded(GREY, kind="jpeg"), "is not a PNG of class indices"),
        (b"", "is not a PNG of class indices"),
        (encoded(noise(*SIZE))[:-30], "cannot be read as an image"),
        (encoded(GREY + 3), r"holds 3, but its classes are 0 to 2, and 255 for pixels"),
        (encoded(GREY + 254), "holds 254, but its classes"),
        (encoded(GREY[:, :-1]), r"is 16x11 pixels, but the image .*1.jpg is 16x12"),
        (encoded(GREY.T), "is 12x16 pixels, but the image"),
        (None, r"1.jpg has no label map .*maps/train/ant/1.png"),
    ],
)
def test_what_cannot_be_right_is_refused_or_its_image_left_out(folder, data, message):
    path = folder / "maps/train/ant/1.png"
    path.unlink() if data is None else path.write_bytes(data)
    split = opened(folder).splits["train"]
    with pytest.raises(BadImageError, match=message) as error:
        decoded(split, "raise")
    text = str(error.value)
    assert "\n" not in text and "1.png" in text and "data.on_bad_image=skip" in text
    left = decoded(split, "skip")
    np.testing.assert_array_equal(left.label_maps[0], halved(0))
    np.testing.assert_array_equal(left.label_maps[1], halved(2))
    assert len(left.images) == len(left.labels) == len(left.label_maps) == 3
    # What trains reads images alone.
    assert len(decoded(dataclasses.replace(split, label_maps=None), "raise").images) == 4


def test_an_unusable_image_takes_its_label_map_along(folder):
    split = opened(folder).splits["train"]
    path = folder / "images/train/ant/2.jpg"
    path.write_bytes(encoded(noise(*SIZE, 3), kind="jpeg")[:-150])  # its size is there
    assert split.label_maps.get(2).shape == (8, 6)
    found = decoded(split, "skip")
    assert len(found.images) == len(found.label_maps) == 3
    np.testing.assert_array_equal(found.label_maps[2], halved(3))


@pytest.mark.parametrize(
    "text,message",
    [
        (
            None,
            "label_maps='.*maps': it must hold classes.txt, the name of a class",
        ),
        ("one", "classes.txt has 1 lines; it must hold 2 to 255 different names"),
        ("a\n\nb", "classes.txt has 3 lines"),
        ("a\nb\na", "classes.txt has 3 lines"),
        ("\n".join(map(str, range(256))), "classes.txt has 256 lines"),
        (b"\xff\xfe", "it must hold classes.txt"),
    ],
)
def test_classes_that_cannot_be_right_are_refused(folder, text, message):
    path = folder / "maps/classes.txt"
    path.unlink()
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=message) as error:
        opened(folder)
    assert "\n" not in str(error.value)


def test_a_folder_among_the_images_and_one_of_other_data_is_refused(folder):
    with pytest.raises(UserError, match="label_maps='.*train': must be a folder outside"):
        opened(folder, label_maps=str(folder / "images/train"))
    with pytest.raises(UserError, match="label_maps='gs://maps': must be a path"):
        opened(folder, label_maps="gs://maps")
    with pytest.raises(UserError, match="label_maps='.*nowhere': it must hold classes.txt"):
        opened(folder, label_maps=str(folder / "nowhere"))


@pytest.mark.parametrize("places", [("train/cat", "val/cat"), ("cat", "")])
def test_images_that_would_share_a_label_map_are_refused(folder, tmp_path, places):
    root = tmp_path / "others"
    names = [f"{place}/{i}.jpg" for place in places if place for i in range(4)]
    make_folder(root, *names, f"{places[0]}/1.png")
    files = FILES | {"label_maps": str(folder / "maps")}
    with pytest.raises(UserError, match="cat/1.* would share the label map") as error:
        load("folder", str(root), files=files)
    text = str(error.value)
    assert all(f"{places[0]}/1.{ending} " in text for ending in ("jpg", "png"))
    assert "\n" not in text


def test_training_reads_none(folder):
    config = mae.get_config("folder_small")
    (folder / "maps/train/ant/1.png").write_bytes(b"")
    split = opened(folder).splits["train"]
    run = SimpleNamespace(
        config=config, train_split=split, is_resident=True, mesh=sharding.make_mesh()
    )
    with setup.make_feed(run) as feed:
        assert feed.num_skipped == 0


def test_what_is_measured_and_drawn_in_training_reads_none(folder):
    for name in NAMES:
        (folder / "maps" / name).with_suffix(".png").write_bytes(b"")
    dataset = opened(folder)
    few = during_training.few_images(dataset, "validation", 2, 2, "raise")
    assert [len(split.images) for split in few.splits.values()] == [2, 1, 1]
    config = mae.get_config("folder_small")
    config.model.variant = "mu/2"
    model = build_model(config, dataset.image_shape, 1)
    assert pictures.few_images(config, dataset, model).count("validation") == 2


def test_evaluation_gets_the_maps_of_its_images(folder):
    dataset = parts_of(opened(folder), dict(train=2, validation=1, test=3), "raise")
    for split in dataset.splits.values():
        assert split.label_maps.shape == (len(split.images), 8, 6)
        assert isinstance(split.label_maps, np.ndarray)


def test_data_looks_at_all_of_them(folder, tmp_path, capsys):
    config = mae.get_config("folder_small")
    config.data.dir = str(folder / "images")
    config.data.files.label_maps = str(folder / "maps")
    config.data.files.image_size = 16
    text = describe_data.describe(config, tmp_path / "runs")
    assert "label maps   3 classes: background, ant, bee" in text
    (folder / "maps/train/ant/1.png").write_bytes(encoded(GREY + 3))
    (folder / "maps/val/ant/2.png").unlink()
    with pytest.raises(UserError, match="2 images cannot be used"):
        describe_data.describe(config, tmp_path / "runs")
    said = capsys.readouterr().out
    assert "1.png holds 3" in said and "val/ant/2.jpg has no label map" in said


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (7, 9), (20, 30)])
def test_nearest_pixels_stay_inside_whatever_the_box(size):
    random = np.random.default_rng(0)
    whole = np.arange(7 * 9).reshape(7, 9)
    np.testing.assert_array_equal(nearest(whole, (0, 0, 7, 9), (7, 9)), whole)
    for _ in range(50):
        top, left = random.uniform(0, 6), random.uniform(0, 8)
        height, width = random.uniform(0.5, 7 - top), random.uniform(0.5, 9 - left)
        found = nearest(whole, (top, left, height, width), size)
        assert found.shape == size
        rows, columns = np.divmod(found, 9)
        assert rows.min() >= int(top) and rows.max() < top + height
        assert columns.min() >= int(left) and columns.max() < left + width


def test_the_key_is_the_one_of_the_config():
    sections = label_maps.KEY.split(".")
    value = mae.get_config("folder")
    for name in sections:
        value = value[name]
    assert value == ""
