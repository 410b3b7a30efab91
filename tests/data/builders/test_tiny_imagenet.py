"""Tiny-ImageNet's builder: zip and folder, every error, the real subset."""

import io
import re
import signal
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import tensorflow_datasets as tfds
from mock_archives import (
    ANNOTATIONS,
    GOOD_LINE,
    REAL,
    ROOT,
    error_of,
    jpeg,
    prepare,
    read,
    tiny_files,
    write_folder,
    write_zip,
)
from PIL import Image

from imae_jax.data.builders import tiny_imagenet
from imae_jax.data.builders.tiny_imagenet import TinyImagenet

WRITERS = [write_zip, write_folder]


@pytest.mark.parametrize("write", WRITERS)
def test_tiny_imagenet(write, tmp_path):
    files = tiny_files()
    write(tmp_path, files)
    builder = prepare(TinyImagenet, tmp_path)
    assert builder.name == "tiny_imagenet"
    names = ["cat", "crane (n02)", "crane (n03)"]
    assert builder.info.features["label"].names == names
    assert list(builder.info.splits) == ["train", "validation"]
    label = {"n01": 0, "n02": 1, "n03": 2, "val_0": 1, "val_1": 0}
    found = {
        split: {example["filename"].decode(): example for example in read(builder, split)}
        for split in builder.info.splits
    }
    assert found["train"].keys() == {f"n0{n}_{i}.JPEG" for n in (1, 2, 3) for i in (0, 1)}
    assert found["validation"].keys() == {"val_0.JPEG", "val_1.JPEG"}
    for examples in found.values():
        for name, example in examples.items():
            assert example["label"] == label[name[:3] if name[0] == "n" else name[:5]]
            (data,) = (data for file, data in files.items() if file.endswith(f"/{name}"))
            pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
            np.testing.assert_array_equal(example["image"], pixels)
            assert example["image"].shape == (64, 64, 3)
    assert np.ptp(found["train"]["n02_1.JPEG"]["image"], axis=-1).max() == 0  # grey
    again = prepare(TinyImagenet, tmp_path)
    assert again.info.features["label"].names == names


def test_tiny_imagenet_stores_the_jpegs_as_they_are(tmp_path):
    files = tiny_files()
    write_zip(tmp_path, files)
    builder = prepare(TinyImagenet, tmp_path)
    decoders = {"image": tfds.decode.SkipDecoding()}
    source = builder.as_data_source(split="train", decoders=decoders)
    kept = {source[i]["image"] for i in range(len(source))}
    images = (name for name in files if re.match("train/.*JPEG", name))
    assert kept == {files[name] for name in images}


def test_class_names_without_words():
    assert tiny_imagenet.class_names(["n01", "n02"], {"n02": "owl"}) == ["n01", "owl"]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize(
    "changes,message",
    [
        ({"wnids.txt": None}, "wnids.txt is missing in {path}"),
        ({"wnids.txt": b"\n"}, "wnids.txt in {path} is empty"),
        ({ANNOTATIONS: None}, f"{ANNOTATIONS} is missing in {{path}}"),
        (
            {ANNOTATIONS: GOOD_LINE + b"val_1.JPEG\tn77\t0\t0\t9\t9\n"},
            f"{ANNOTATIONS} in {{path}}, line 2: class 'n77' is not in wnids.txt",
        ),
        (
            {ANNOTATIONS: GOOD_LINE + b"val_1.JPEG\n"},
            f"{ANNOTATIONS} in {{path}}, line 2: class '' is not in wnids.txt",
        ),
        (
            {ANNOTATIONS: GOOD_LINE + b"\n" + GOOD_LINE},
            f"{ANNOTATIONS} in {{path}}, line 3: val_0.JPEG has a line already",
        ),
        (
            {"val/images/val_1.JPEG": None},
            f"{ANNOTATIONS} in {{path}}, line 2: val/images/val_1.JPEG does not exist",
        ),
        ({ANNOTATIONS: GOOD_LINE}, f"{ANNOTATIONS} in {{path}} has no line for val_1.JPEG"),
        (
            {
                ANNOTATIONS: b"",
                "val/images/val_0.JPEG": None,
                "val/images/val_1.JPEG": None,
            },
            f"{ANNOTATIONS} in {{path}} is empty",
        ),
        (
            {f"train/n02/images/n02_{n}.JPEG": None for n in range(2)},
            "train/n02/images in {path} holds no images, but n02 is in wnids.txt",
        ),
        (
            {"train/n02/images/n02_1.JPEG": None},
            "train/n02/n02_boxes.txt in {path}, line 2: train/n02/images/n02_1.JPEG does "
            "not exist",
        ),
        (
            {"train/n03/images/n03_1.JPEG": b"no image"},
            "train/n03/images/n03_1.JPEG in {path} is damaged: ",
        ),
        (
            {"val/images/val_1.JPEG": jpeg()[:-500]},
            "val/images/val_1.JPEG in {path} is damaged: ",
        ),
        (
            {"val/images/val_1.JPEG": jpeg(size=(64, 63))},
            "val/images/val_1.JPEG in {path} is RGB of 64x63 pixels, should be RGB or grey",
        ),
        (
            {"val/images/val_1.JPEG": jpeg(mode="CMYK")},
            "val/images/val_1.JPEG in {path} is CMYK of 64x64 pixels, should be RGB",
        ),
    ],
)
def test_tiny_imagenet_errors(write, changes, message, tmp_path):
    files = tiny_files() | changes
    path = write(tmp_path, {name: data for name, data in files.items() if data is not None})
    assert error_of(TinyImagenet, tmp_path).startswith(message.format(path=path))
    # Put right, the same folder prepares.
    write(tmp_path, tiny_files())
    assert len(read(prepare(TinyImagenet, tmp_path), "validation")) == 2


def test_tiny_imagenet_damaged_member_is_named_as_the_archives_damage(tmp_path):
    path = write_zip(tmp_path, tiny_files())
    packed = bytearray(path.read_bytes())
    packed[len(packed) // 2] ^= 1
    path.write_bytes(packed)
    message = error_of(TinyImagenet, tmp_path)
    assert message.startswith(f"{path} is damaged") and "Bad CRC-32" in message


def test_a_zip_without_the_folder_inside(tmp_path):
    path = tmp_path / tiny_imagenet.ARCHIVE.filename
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("wnids.txt", b"n01\n")
    assert error_of(TinyImagenet, tmp_path) == f"wnids.txt is missing in {path}"


def test_the_zip_goes_before_the_folder(tmp_path):
    write_folder(tmp_path, {"train/n01/images/n01_0.JPEG": jpeg()})  # half unpacked
    write_zip(tmp_path, tiny_files())
    assert len(read(prepare(TinyImagenet, tmp_path), "train")) == 6


KILLED = """
import os, signal, sys
from imae_jax.data.builders.tiny_imagenet import TinyImagenet, _Files
images = []
def image(self, name):
    images.append(name)
    if len(images) == 8:  # the last of validation, when train is written
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(self, name)
whole, _Files.image = _Files.image, image
TinyImagenet(data_dir=sys.argv[1], file_format="array_record").download_and_prepare()
"""


def test_a_killed_prepare_leaves_nothing_that_counts(tmp_path):
    write_zip(tmp_path, tiny_files())
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = list((tmp_path / "tiny_imagenet").iterdir())
    assert left and all(folder.name.startswith("incomplete.") for folder in left)
    builder = prepare(TinyImagenet, tmp_path)
    assert [len(read(builder, split)) for split in builder.info.splits] == [6, 2]


# File -> class, as ImageNet has it.
KNOWN = {
    "train": {"n01443537_0.JPEG": ("n01443537", "goldfish")},
    "validation": {
        "val_2.JPEG": ("n04070727", "refrigerator"),
        "val_13.JPEG": ("n03770439", "miniskirt"),
    },
}


@pytest.mark.slow
def test_the_real_subset(tmp_path):
    path = REAL / tiny_imagenet.ARCHIVE.filename
    if not path.exists():
        pytest.skip(f"no {path}")
    (tmp_path / path.name).symlink_to(path)
    builder = prepare(TinyImagenet, tmp_path)
    with zipfile.ZipFile(path) as archive:
        wnids = sorted(archive.read("tiny-imagenet-200/wnids.txt").decode().split())
        files = {name.rpartition("/")[-1]: name for name in archive.namelist()}
        for split, known in KNOWN.items():
            examples = {
                example["filename"].decode(): example for example in read(builder, split)
            }
            per_class = np.bincount([example["label"] for example in examples.values()])
            assert set(per_class) == {{"train": 500, "validation": 50}[split]}
            assert {example["image"].shape for example in examples.values()} == {
                (64, 64, 3)
            }
            for name, (wnid, word) in known.items():
                label = examples[name]["label"]
                assert wnids[label] == wnid
                assert builder.info.features["label"].names[label] == word
                image = Image.open(io.BytesIO(archive.read(files[name]))).convert("RGB")
                np.testing.assert_array_equal(examples[name]["image"], image)
