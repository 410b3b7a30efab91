import json
import os

import numpy as np
import pytest
from PIL import Image
from small_inputs import make_folder

from configs import imae, mae
from imae_jax.commands import describe_data
from imae_jax.errors import UserError


def test_digits_are_counted_and_shown(data_dir, tmp_path):
    config = imae.get_config("digits")
    config.data.dir = data_dir
    text = describe_data.describe(config, tmp_path)
    assert "train        1,297 images, 121 to 145 a class" in text
    assert "test         300 images" in text and "8x8, grey" in text
    assert "scored on 300 of test" in text and "feed         resident" in text
    found = json.loads((tmp_path / "digits/data.json").read_text())
    known = describe_data.as_text(found | {"factors": ["colour", "size"]})
    assert "factors      colour, size" in known and "factors" not in text
    assert sum(found["splits"]["train"]["images_per_class"]) == 1297
    assert found["bytes_decoded"] == 1797 * 64
    assert found["mean"] == pytest.approx([77.93], abs=0.01)
    with Image.open(tmp_path / "digits/contact_sheet.png") as sheet:
        assert np.asarray(sheet).std() > 20


def test_a_folder_says_what_was_left_out_and_set_aside(tmp_path):
    names = [f"{name}/{i}.png" for name in ("ant", "bee") for i in range(10)]
    make_folder(tmp_path / "mine", *names)
    (tmp_path / "mine/ant/3.png").write_bytes(b"broken")
    config = mae.get_config("folder")
    config.data.dir = str(tmp_path / "mine")
    config.data.on_bad_image = "skip"
    text = describe_data.describe(config, tmp_path)
    assert "train        18 images, " in text and "test         2 images" in text
    assert "feed         streaming" in text and "classes      2: ant, bee" in text
    assert "fitted on 16 of train" in text and "chosen by 2 of train" in text
    found = json.loads((tmp_path / "folder/data.json").read_text())
    sizes = sum(path.stat().st_size for path in (tmp_path / "mine").rglob("*.png"))
    assert found["bytes_on_disk"] == sizes
    config.data.feed = "resident"
    assert "feed         resident" in describe_data.describe(config, tmp_path)


def test_every_file_is_opened_and_all_that_cannot_be_used_are_listed(tmp_path, capsys):
    names = [
        f"{part}/{name}/{i}.png"
        for part in ("train", "val")
        for name in "ab"
        for i in "0123456789"
    ]
    folder = make_folder(tmp_path / "mine", *names)
    for i in "012345":
        (folder / f"train/a/{i}.png").write_bytes(b"broken")
        (folder / f"train/b/{i}.png").unlink()
        (folder / f"train/b/{i}.png").symlink_to("/nowhere.png")
    (folder / "val/b/7.png").write_bytes((folder / "val/b/7.png").read_bytes()[:-40])
    for i in range(31):
        (folder / f"train/a/{i}.HEIC").write_bytes(b"")
    (folder / "notes.txt").write_text("")
    config = mae.get_config("folder_small")
    config.data.dir = str(folder)
    with pytest.raises(UserError, match="13 images cannot be used .*on_bad_image=skip"):
        describe_data.describe(config, tmp_path)
    said = capsys.readouterr().out
    assert "train: 12 images cannot be used" in said and "and 2 more, see" in said
    assert "train/a/3.png is no image of a known kind" in said
    assert "validation: 1 image cannot be used" in said and "val/b/7.png cannot" in said
    assert "ignored      no images by their endings: .heic: 31 files, .txt: 1 file" in said
    found = json.loads((tmp_path / "folder/data.json").read_text())
    assert {name: len(own) for name, own in found["unusable"].items()} == {
        "train": 12,
        "validation": 1,
    }
    assert found["ignored_files"] == {".heic": 31, ".txt": 1}
    assert found["skipped_images"] == 13 and found["splits"]["train"]["images"] == 20
    assert (tmp_path / "folder/contact_sheet.png").exists()
    config.data.on_bad_image = "skip"
    assert "unusable     13 images; left out" in describe_data.describe(config, tmp_path)


def test_where_nothing_can_be_used_all_are_still_listed(tmp_path, capsys):
    for i in range(6):
        make_folder(tmp_path / "mine", f"{i}.png")
        (tmp_path / f"mine/{i}.png").write_bytes(b"broken")
    config = mae.get_config("folder_small")
    config.data.dir = str(tmp_path / "mine")
    with pytest.raises(UserError, match="none of 4 of 4 images can be used"):
        describe_data.describe(config, tmp_path)
    assert capsys.readouterr().out.count("is no image of a known kind") == 6
    found = json.loads((tmp_path / "folder/data.json").read_text())
    assert sum(map(len, found["unusable"].values())) == 6


def test_images_without_classes_are_shown(tmp_path):
    make_folder(tmp_path / "mine", *[f"{i}.png" for i in range(30)])
    config = mae.get_config("folder")
    config.data.dir = str(tmp_path / "mine")
    text = describe_data.describe(config, tmp_path)
    assert "train        27 images\n" in text and "classes      0\n" in text
    assert (tmp_path / "folder/contact_sheet.png").exists()


def test_names_of_classes_are_drawn_as_they_are(tmp_path):
    names = ["$a$", r"$\frac$", os.fsdecode(b"caf\xe9")]
    make_folder(tmp_path / "mine", *[f"{name}/{i}.png" for name in names for i in range(6)])
    config = mae.get_config("folder_small")
    config.data.dir = str(tmp_path / "mine")
    describe_data.describe(config, tmp_path)
    dataset = describe_data.open_all(config, tmp_path / "data.json")[0]
    figure = describe_data.contact_sheet(dataset)
    labels = [axis.yaxis.label for axis in figure.axes if axis.get_ylabel()]
    assert [label.get_text() for label in labels] == [*sorted(names[:2]), r"caf\udce9"]
    assert not any(label.get_parse_math() for label in labels)


def test_a_demo_has_no_data_set(tmp_path):
    from configs import demo

    with pytest.raises(UserError, match="no section 'data'"):
        describe_data.describe(demo.get_config(), tmp_path)
