import os

import numpy as np
import pytest
from PIL import Image

from imae_jax.data import sources
from imae_jax.data.folder import list_folder, list_imagenet
from imae_jax.errors import UserError

FILES = dict(image_size=16, channels=3, centre=1.0)


def make(root, *names, size=(20, 24)):
    """Image files below a folder, each of a brightness of its own."""
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size[::-1], (number, 100, 200)).save(path)
    return root


def test_train_val_and_test_folders(tmp_path):
    make(
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
    make(tmp_path, *[f"{name}/{i:02}.png" for name in "ab" for i in range(15)])
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


def test_images_without_classes(tmp_path):
    make(tmp_path, *[f"{i}.png" for i in range(4)])
    dataset = sources.load("folder", str(tmp_path), files=FILES)
    assert dataset.class_names == ()
    assert dataset.sizes == {"train": 2, "test": 2}
    assert (dataset.splits["train"].labels == -1).all()
    assert dataset.image_shape == (16, 16, 3)
    np.testing.assert_allclose(dataset.mean[1:], [100, 200], atol=0.5)


def test_statistics_follow_the_files(tmp_path):
    make(tmp_path, *[f"{i}.png" for i in range(4)])
    first = sources.load("folder", str(tmp_path), files=FILES).mean
    for name in ("0.png", "1.png", "2.png", "3.png"):
        Image.new("RGB", (30, 30), (90, 90, 90)).save(tmp_path / name)
    second = sources.load("folder", str(tmp_path), files=FILES).mean
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
    make(tmp_path, *[name for name in names if name.endswith("png")])
    for name in names:
        if name.endswith("txt"):
            (tmp_path / name).parent.mkdir(parents=True)
            (tmp_path / name).write_text("")
    with pytest.raises(UserError, match=message):
        list_folder(tmp_path)


def test_no_such_folder(tmp_path):
    with pytest.raises(UserError, match="data.dir='.*nowhere' is no folder"):
        sources.load("folder", str(tmp_path / "nowhere"), files=FILES)


def test_names_in_capitals_links_in_circles_and_what_is_not_read(tmp_path, capsys):
    names = ["Train/a/1.png", "Train/a/2.png", "VALID/a/1.png", "test/1.png", "raw/1.png"]
    make(tmp_path, *names)
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
    make(tmp_path, *[f"{i}.png" for i in range(9)])
    (tmp_path / "0.png").rename(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    assert sources.load("folder", str(tmp_path), files=FILES).sizes == {
        "train": 7,
        "test": 2,
    }


def test_no_image_at_all_can_be_used(tmp_path):
    for name in "abcd":
        (tmp_path / f"{name}.png").write_bytes(b"broken")
    with pytest.raises(UserError, match="none of 2 of 2 images can be used"):
        sources.load("folder", str(tmp_path), files=FILES, on_bad_image="skip")


def test_imagenet_leaves_its_test_images_out(tmp_path):
    make(tmp_path, "train/n02/a.JPEG", "train/n01/b.JPEG", "val/n02/c.JPEG", "test/d.JPEG")
    found = list_imagenet(tmp_path)
    assert found.class_names == ("n01", "n02")
    assert found.files.keys() == {"train", "validation"}
    np.testing.assert_array_equal(found.labels["validation"], [1])


@pytest.mark.parametrize(
    "names", [["train/n01/a.png"], ["train/a.png", "val/a.png"], ["a.png"]]
)
def test_what_imagenet_should_look_like(tmp_path, names):
    make(tmp_path, *names)
    message = "must hold train/<wnid>.*val/<wnid>.*TFDS needs TensorFlow"
    with pytest.raises(UserError, match=message):
        sources.load("imagenet2012", str(tmp_path), files=FILES)


def test_a_corrupt_image_is_named_or_left_out(tmp_path):
    make(tmp_path, *[f"train/a/{i}.png" for i in range(5)], "test/a/x.png")
    (tmp_path / "train/a/3.png").write_bytes(b"broken")
    with pytest.raises(UserError, match="train/a/3.png is no image of a known kind"):
        sources.load("folder", str(tmp_path), files=FILES)
    found = sources.load("folder", str(tmp_path), files=FILES, on_bad_image="skip")
    assert found.num_skipped == 1
    np.testing.assert_allclose(found.mean[0], np.mean([0, 1, 2, 4]))


def test_an_image_smaller_than_a_patch(tmp_path):
    make(tmp_path, "train/a/1.png", "test/a/1.png", size=(6, 20))
    with pytest.raises(UserError, match="1.png is 6x20 pixels, smaller than a patch"):
        sources.load("folder", str(tmp_path), files=FILES, min_side=8)
