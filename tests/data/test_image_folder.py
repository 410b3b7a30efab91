import os

import numpy as np
import pytest
from PIL import Image
from small_inputs import make_folder

from imae_jax.data import folder_layouts
from imae_jax.data.encoded_images import parse_size, reasons
from imae_jax.data.image_folder import list_folder, list_imagenet
from imae_jax.data.load import load
from imae_jax.errors import UserError

FILES = dict(image_size=16, channels=3, centre=1.0)


def test_train_val_and_test_folders(tmp_path):
    make_folder(
        tmp_path,
        "train/cat/a.png",
        "train/cat/deep/er.jpg",
        "train/ant/b.PNG",
        "val/ant/c.jpeg",
        "test/cat/d.png",
    )
    (tmp_path / "train/cat/notes.txt").write_text("no image")
    (tmp_path / "train/cat/._a.png").write_text("what a Mac leaves behind")
    (tmp_path / "train/.cache").mkdir()
    found = list_folder(tmp_path)
    assert found.class_names == ("ant", "cat")
    assert found.files["train"] == [
        "train/ant/b.PNG",
        "train/cat/a.png",
        "train/cat/deep/er.jpg",
    ]
    np.testing.assert_array_equal(found.labels["train"], [0, 1, 1])
    assert found.files["validation"] == ["val/ant/c.jpeg"]
    np.testing.assert_array_equal(found.labels["test"], [1])


def test_one_image_in_ten_is_set_aside_where_nothing_is(tmp_path):
    make_folder(tmp_path, *[f"{name}/{i:02}.png" for name in "ab" for i in range(15)])
    found = list_folder(tmp_path)
    assert {name: len(files) for name, files in found.files.items()} == {
        "train": 27,
        "test": 3,
    }
    assert 1 <= found.labels["test"].sum() <= 2  # evenly out of every class
    assert not set(found.files["train"]) & set(found.files["test"])
    for split, files in found.files.items():
        names = [found.class_names[label] for label in found.labels[split]]
        assert names == [file[0] for file in files]
    assert list_folder(tmp_path).files == found.files


def split_of_classes(tmp_path, **sizes):
    """Lists a folder with so many images of each class."""
    names = [f"{name}/{i:02}.png" for name, count in sizes.items() for i in range(count)]
    return list_folder(make_folder(tmp_path, *names))


def test_the_only_image_of_a_class_is_trained_on(tmp_path):
    found = split_of_classes(tmp_path, a=9, b=1, c=20)
    assert "b/00.png" in found.files["train"]
    np.testing.assert_array_equal(found.labels["test"], [2, 2])
    assert counts(found) == {"train": 28, "test": 2}


def test_too_few_images_are_left_to_set_aside(tmp_path):
    message = ": 1 image can be set aside for testing, and it takes 2, since the only image"
    with pytest.raises(UserError, match=message):
        split_of_classes(tmp_path, a=9, b=1)


def test_images_without_classes(tmp_path):
    make_folder(tmp_path, *[f"{i}.png" for i in range(4)])
    dataset = load("folder", str(tmp_path), files=FILES)
    assert dataset.class_names == ()
    assert dataset.sizes == {"train": 2, "test": 2}
    assert (dataset.splits["train"].labels == -1).all()
    assert dataset.image_shape == (16, 16, 3)
    np.testing.assert_allclose(dataset.mean[1:], [100, 200], atol=0.5)


def test_statistics_follow_the_files(tmp_path):
    make_folder(tmp_path, *[f"{i}.png" for i in range(4)])
    first = load("folder", str(tmp_path), files=FILES).mean
    for name in ("0.png", "1.png", "2.png", "3.png"):
        Image.new("RGB", (30, 30), (90, 90, 90)).save(tmp_path / name)
    second = load("folder", str(tmp_path), files=FILES).mean
    assert first[1] == 100 and second[1] == 90


@pytest.mark.parametrize(
    "names,message",
    [
        ([], "holds no image"),
        (["1.png", "2.png", "3.png"], "holds 3 images; it takes at least 4, since some"),
        (["train/a/1.png", "val/a/1.png", "Valid/a/1.png"], "both Valid and val: which is"),
        (["a/1.png", "1.png"], r"both class folders \(a, ...\) and 1 images beside"),
        (["train/a/1.png", "val/b/1.png"], "val/b is a class that no training image has"),
        (["train/a/1.png", "val/1.png"], "val has no class folders, but the training"),
        (["train/1.png", "val/a/1.png"], r"val has class folders \(a, ...\), but .* none"),
        (["train/a/1.png", "train/b/1.txt"], "class folder .*train/b holds no image"),
    ],
)
def test_folders_that_cannot_be_read(tmp_path, names, message):
    make_folder(tmp_path, *[name for name in names if name.endswith("png")])
    for name in names:
        if name.endswith("txt"):
            (tmp_path / name).parent.mkdir(parents=True)
            (tmp_path / name).write_text("")
    with pytest.raises(UserError, match=message):
        list_folder(tmp_path)


def test_no_such_folder(tmp_path):
    with pytest.raises(UserError, match="data.dir='.*nowhere' is no folder"):
        load("folder", str(tmp_path / "nowhere"), files=FILES)


def test_names_in_capitals_links_in_circles_and_what_is_not_read(tmp_path, capsys):
    names = ["Train/a/1.png", "Train/a/2.png", "VALID/a/1.png", "test/1.png", "raw/1.png"]
    make_folder(tmp_path, *names)
    (tmp_path / "Train/a/again").symlink_to(tmp_path / "Train/a")
    found = list_folder(tmp_path)
    assert {name: len(files) for name, files in found.files.items()} == {
        "train": 2,
        "validation": 1,
    }
    said = capsys.readouterr().out
    assert "not read, beside Train: raw" in said
    assert "test is left out: its images have no class folders" in said


def test_a_name_that_is_no_text(tmp_path):
    make_folder(tmp_path, *[f"{i}.png" for i in range(9)])
    (tmp_path / "0.png").rename(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    assert load("folder", str(tmp_path), files=FILES).sizes == {
        "train": 7,
        "test": 2,
    }


def test_no_image_at_all_can_be_used(tmp_path):
    for name in "abcd":
        (tmp_path / f"{name}.png").write_bytes(b"broken")
    with pytest.raises(UserError, match="none of 2 of 2 images can be used"):
        load("folder", str(tmp_path), files=FILES, on_bad_image="skip")


def test_imagenet_leaves_its_test_images_out(tmp_path):
    make_folder(
        tmp_path, "train/n02/a.JPEG", "train/n01/b.JPEG", "val/n02/c.JPEG", "test/d.JPEG"
    )
    found = list_imagenet(tmp_path)
    assert found.class_names == ("n01", "n02")
    assert found.files.keys() == {"train", "validation"}
    np.testing.assert_array_equal(found.labels["validation"], [1])


@pytest.mark.parametrize(
    "names", [["train/n01/a.png"], ["train/a.png", "val/a.png"], ["a.png"]]
)
def test_what_imagenet_should_look_like(tmp_path, names):
    make_folder(tmp_path, *names)
    message = "must hold train/<wnid>.*val/<wnid>.*TFDS needs TensorFlow"
    with pytest.raises(UserError, match=message):
        load("imagenet2012", str(tmp_path), files=FILES)


def test_a_corrupt_image_is_named_or_left_out(tmp_path):
    make_folder(tmp_path, *[f"train/a/{i}.png" for i in range(5)], "test/a/x.png")
    (tmp_path / "train/a/3.png").write_bytes(b"broken")
    with pytest.raises(UserError, match="train/a/3.png is no image of a known kind"):
        load("folder", str(tmp_path), files=FILES)
    found = load("folder", str(tmp_path), files=FILES, on_bad_image="skip")
    assert found.num_skipped == 1
    np.testing.assert_allclose(found.mean[0], np.mean([0, 1, 2, 4]))


def test_an_image_smaller_than_a_patch(tmp_path):
    make_folder(tmp_path, "train/a/1.png", "test/a/1.png", size=(6, 20))
    with pytest.raises(UserError, match="1.png is 6x20 pixels, smaller than a patch"):
        load("folder", str(tmp_path), files=FILES, min_side=8)


def counts(found):
    return {split: len(files) for split, files in found.files.items()}


@pytest.mark.parametrize(
    "target,message", [("/nowhere.png", "No such file"), ("x.png", "levels of symbolic")]
)
def test_a_broken_link_is_a_bad_image(tmp_path, target, message):
    make_folder(tmp_path, *[f"train/{name}/{i}.png" for name in "ab" for i in range(4)])
    make_folder(tmp_path, "val/a/1.png")
    (tmp_path / "train/b/x.png").symlink_to(target)
    with pytest.raises(UserError, match=f"train/b/x.png cannot be read: .*{message}"):
        load("folder", str(tmp_path), files=FILES)
    found = load("folder", str(tmp_path), files=FILES, on_bad_image="skip")
    assert found.sizes["train"] == 9 and found.num_skipped == 1
    *others, last = reasons(found.splits["train"].images)
    assert others == [None] * 8 and message in last


@pytest.mark.parametrize(
    "name", ["x.h5", "x.hdf", "x.pdf", "x.MPG", "x.eps", "x.grib", "x"]
)
def test_what_is_no_picture_is_counted_and_ends_no_run(tmp_path, name):
    make_folder(tmp_path, *[f"{folder}/{i}.png" for folder in "ab" for i in range(6)])
    (tmp_path / "a" / name).write_bytes(b"no picture")
    (tmp_path / "a" / ".hidden.h5").write_bytes(b"")
    os.mkfifo(tmp_path / "a" / "pipe.png")
    found = load("folder", str(tmp_path), files=FILES)
    ending = os.path.splitext(name)[1].lower() or "no ending"
    assert found.ignored == {ending: 1} and sum(found.sizes.values()) == 12


def test_every_ending_that_is_taken_is_one_of_pillows():
    known = Image.registered_extensions()
    pictures = {ending for ending in folder_layouts.ENDINGS if ending in known}
    assert {".jpg", ".png", ".webp", ".tif", ".gif", ".bmp"} <= pictures
    assert all(known[ending] in Image.OPEN for ending in pictures)


DIVIDED = {"train": 10, "test": 2}
LAYOUTS = {
    # What people have: what is said, the classes, and how many images.
    "one level too deep": (
        [f"photos/{c}/{i}.png" for c in "ab" for i in range(6)],
        "one level deeper, in photos",
        ("a", "b"),
    ),
    "two levels, and what a Mac leaves": (
        [f"archive/photos/{c}/{i}.PNG" for c in "ab" for i in range(6)]
        + ["__MACOSX/photos/a/1.png", "@eaDir/1.png", ".thumbs/1.png", "archive/.DS_Store"],
        "one level deeper, in photos",
        ("a", "b"),
    ),
    "no classes, one level too deep": (
        [f"photos/{i}.jpg" for i in range(12)],
        "one level deeper, in photos",
        (),
    ),
    "images beside a table": (
        [*[f"images/{i}.png" for i in range(12)], "labels.csv"],
        "one level deeper, in images",
        (),
    ),
    "images beside their boxes": (
        [f"images/{i}.png" for i in range(12)] + [f"labels/{i}.txt" for i in range(12)],
        "one level deeper, in images; not read, beside it: labels",
        (),
    ),
    "images beside the list of a split": (
        [*[f"images/{i}.png" for i in range(12)], "test/list.txt"],
        "one level deeper, in images; not read, beside it: test",
        (),
    ),
    "flat, beside a folder of something else": (
        [*[f"{i}.png" for i in range(12)], "notes/1.txt"],
        "not read, beside its images: notes",
        (),
    ),
    "classes within classes": (
        [f"{c}/{d}/{i}.png" for c in "ab" for d in "xyz" for i in range(2)],
        "its classes are a, b; folders within them (a/x, ...) are not told apart",
        ("a", "b"),
    ),
    "a single class": (
        [f"cat/{i}.png" for i in range(12)],
        "one class only, cat",
        ("cat",),
    ),
    "a folder inside each class": (
        [f"{c}/images/{i}.png" for c in "ab" for i in range(6)] + ["a/boxes.txt"],
        "",
        ("a", "b"),
    ),
}


def make_files(root, names):
    make_folder(
        root, *[name for name in names if not name.endswith((".csv", ".txt", "_Store"))]
    )
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if not (root / name).exists():
            (root / name).write_text("")


@pytest.mark.parametrize("names,said,classes", LAYOUTS.values(), ids=LAYOUTS)
def test_layouts_that_people_have(tmp_path, names, said, classes, capsys):
    make_files(tmp_path, names)
    found = list_folder(tmp_path)
    assert found.class_names == classes
    assert counts(found) == DIVIDED
    out = capsys.readouterr().out
    assert said in out and (said or not out)
    assert list_folder(tmp_path).files == found.files
    assert all((tmp_path / name).exists() for name in found.files["train"])


SPLITS = {
    "too deep": ["data/train/a/1.png", "data/train/b/1.png", "data/val/a/1.png"],
    "Kaggle's": ["Training/a/1.png", "Training/b/1.png", "Testing/a/1.png"],
    "COCO's": ["train2017/1.png", "train2017/2.png", "val2017/1.png", "notes/1.txt"],
    "YOLO's": ["images/train/1.png", "images/train/2.png", "images/val/1.png"]
    + [f"labels/{name}/1.txt" for name in ("train", "val")],
    "the other of YOLO's": ["train/images/1.png", "train/images/2.png", "val/images/1.png"]
    + [f"{name}/labels/1.txt" for name in ("train", "val")],
    "twice the same": ["train/train/1.png", "train/train/2.png", "test/test1/1.png"],
}


@pytest.mark.parametrize("names", SPLITS.values(), ids=SPLITS)
def test_divided_layouts_that_people_have(tmp_path, names):
    make_files(tmp_path, names)
    found = list_folder(tmp_path)
    other = next(split for split in found.files if split != "train")
    assert counts(found) == {"train": 2, other: 1}
    assert len(found.class_names) == (2 if any("/a/" in name for name in names) else 0)


@pytest.mark.parametrize(
    "names,message",
    [
        (["val/1.png", "test/1.png"], "holds test, val but no train: give the folder"),
        (
            [f"{name}/{i}.png" for name in ("bus", "car", "train") for i in range(4)],
            "holds train beside bus, car: if these are classes, give train another name",
        ),
        (
            [f"{c}/{split}/1.png" for c in "ab" for split in ("train", "test")],
            r"each class \(a, b\) is divided into test, train, which is not read",
        ),
        (
            [f"{name}/{i}.png" for name in ("images", "masks") for i in range(4)],
            "holds images, masks, which are no classes .* give the folder .*/images",
        ),
        (
            [f"{name}/{i}.png" for name in ("cat", "dog", "test") for i in range(4)],
            "holds test beside cat, dog: lay .* train/CLASS and test/CLASS, or give test",
        ),
        (
            ["cat/1.png", "dog/1.png", "val/cat/1.png", "val/dog/1.png"],
            "holds val beside cat, dog: lay .* or give val another name if it is a class",
        ),
        (["photos/cat/1.png", "photos/dev/1.png"], "photos holds dev beside cat: lay"),
        (["cat/1.png", "val/1.png", "Test/1.png"], "holds Test, val beside cat: lay"),
        (
            ["train/a/1.png", "train/b/1.png", "train/val/a/1.png"],
            "train holds val beside a, b: lay",
        ),
        (
            [f"train/{split}/{c}/1.png" for split in ("train", "val") for c in "ab"],
            "train holds train, val: lay .* or give train another name",
        ),
        (
            ["train/a/1.png", "val/a/1.png", "val/test/1.png"],
            "val holds test beside a: lay",
        ),
        (
            ["images/test/1.png", "images/a/1.png", "labels/1.txt"],
            "holds test beside a: lay",
        ),
        (["train/1.png", "val/1.txt"], r"val holds no image \(what it holds: .txt: 1 file"),
        (["photos.txt", "b.csv"], r"holds no image \(what it holds: .csv: 1 file, .txt: 1"),
        (["a/1.png", "b/1.txt"], r"class folder .*/b holds no image \(what it holds: .txt"),
    ],
)
def test_layouts_that_are_named(tmp_path, names, message):
    make_files(tmp_path, names)
    with pytest.raises(UserError, match=message):
        list_folder(tmp_path)


def test_a_file_in_place_of_a_folder(tmp_path):
    (tmp_path / "photos.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match="photos.zip' is a file: unpack it, and give the"):
        list_folder(tmp_path / "photos.zip")


def test_a_folder_that_cannot_be_read(tmp_path, monkeypatch):
    make_folder(tmp_path, "a/1.png")

    def closed(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(UserError, match="cannot be read: Permission denied"):
        list_folder(tmp_path)


def test_links_in_circles_of_two_end(tmp_path):
    make_folder(tmp_path, *[f"{name}/{i}.png" for name in "ab" for i in range(6)])
    (tmp_path / "a/b").symlink_to(tmp_path / "b")
    (tmp_path / "b/a").symlink_to(tmp_path / "a")
    assert sum(counts(list_folder(tmp_path)).values()) == 24


def test_what_lay_in_a_folder_stays_in_its_split(tmp_path):
    """A run that began before is resumed on the same images."""
    make_folder(tmp_path, *[f"{name}/{i:02}.png" for name in "ab" for i in range(15)])
    expected = ["a/04.png", "b/00.png", "b/02.png"]
    assert list_folder(tmp_path).files["test"] == expected


def test_images_of_every_shape(tmp_path):
    make_folder(tmp_path, *[f"{i}.png" for i in range(9)], size=(70, 30))
    for size, shape in ((32, (32, 32)), ("24", (24, 24)), ("64x32", (64, 32))):
        found = load("folder", str(tmp_path), files=FILES | {"image_size": size})
        assert found.image_shape == (*shape, 3)
        assert found.splits["train"].images.get(0).shape == (*shape, 3)


@pytest.mark.parametrize("size", [0, -3, "0x4", "x", "64x", "4x4x4", "wide", 1.5, True, ()])
def test_what_is_no_size(size):
    with pytest.raises(UserError, match="key=.* give HEIGHT or HEIGHTxWIDTH, each at"):
        parse_size(size, "key")
