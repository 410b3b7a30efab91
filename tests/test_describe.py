import json

import numpy as np
import pytest
from PIL import Image
from test_folder import make

from configs import imae, mae
from imae_jax import describe
from imae_jax.errors import UserError


def test_digits_are_counted_and_shown(data_dir, tmp_path):
    config = imae.get_config("digits")
    config.data.dir = data_dir
    text = describe.describe(config, tmp_path)
    assert "train        1,297 images, 121 to 145 a class" in text
    assert "test         300 images" in text and "8x8, grey" in text
    assert "scored on 300 of test" in text and "feed         resident" in text
    found = json.loads((tmp_path / "digits/data.json").read_text())
    assert sum(found["splits"]["train"]["images_per_class"]) == 1297
    assert found["bytes_decoded"] == 1797 * 64
    assert found["mean"] == pytest.approx([77.93], abs=0.01)
    with Image.open(tmp_path / "digits/contact_sheet.png") as sheet:
        assert np.asarray(sheet).std() > 20


def test_a_folder_says_what_was_left_out_and_set_aside(tmp_path):
    names = [f"{name}/{i}.png" for name in ("ant", "bee") for i in range(10)]
    make(tmp_path / "mine", *names)
    (tmp_path / "mine/ant/3.png").write_bytes(b"broken")
    config = mae.get_config("folder")
    config.data.dir = str(tmp_path / "mine")
    config.data.on_bad_image = "skip"
    text = describe.describe(config, tmp_path)
    assert "train        18 images, " in text and "test         2 images" in text
    assert "feed         streaming" in text and "classes      2: ant, bee" in text
    assert "fitted on 16 of train" in text and "chosen by 2 of train" in text
    found = json.loads((tmp_path / "folder/data.json").read_text())
    sizes = sum(path.stat().st_size for path in (tmp_path / "mine").rglob("*.png"))
    assert found["bytes_on_disk"] == sizes
    config.data.feed = "resident"
    assert "feed         resident" in describe.describe(config, tmp_path)


def test_images_without_classes_are_shown(tmp_path):
    make(tmp_path / "mine", *[f"{i}.png" for i in range(30)])
    config = mae.get_config("folder")
    config.data.dir = str(tmp_path / "mine")
    text = describe.describe(config, tmp_path)
    assert "train        27 images\n" in text and "classes      0\n" in text
    assert (tmp_path / "folder/contact_sheet.png").exists()


def test_a_demo_has_no_data_set(tmp_path):
    from configs import demo

    with pytest.raises(UserError, match="no section 'data'"):
        describe.describe(demo.get_config(), tmp_path)
