"""The builders, on archives of the true layout made here and on the real subset."""

import io
import os
import re
import signal
import subprocess
import sys
import tarfile
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.image_classification import cifar as tfds_cifar

from imae_jax.data import cifar, tiny_imagenet
from imae_jax.data.cifar import Cifar10, Cifar100
from imae_jax.data.tiny_imagenet import TinyImagenet
from imae_jax.errors import UserError

ROOT = Path(__file__).parent.parent
REAL = Path(os.environ.get("IMAE_DATA_DIR", ROOT.parent / "shared" / "data"))
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def offline(monkeypatch, unused_port):
    """No test downloads anything."""
    for scheme in ("http", "https"):
        monkeypatch.setenv(f"{scheme}_proxy", f"http://localhost:{unused_port}")


def prepare(builder_class, data_dir):
    builder = builder_class(data_dir=str(data_dir), file_format="array_record")
    builder.download_and_prepare()
    return builder


def read(builder, split):
    source = tfds.data_source(builder.name, data_dir=builder.data_dir_root, split=split)
    return [source[i] for i in range(len(source))]


def error_of(builder_class, data_dir):
    """The message of a prepare that fails: one line, and nothing half-written is left."""
    with pytest.raises(UserError) as caught:
        prepare(builder_class, data_dir)
    message = str(caught.value)
    assert "\n" not in message
    assert not list(Path(data_dir, builder_class.name).glob("*"))
    return message


# CIFAR


def records(count, *classes):
    """[count, labels + pixels] uint8, every class in turn."""
    labels = np.stack([np.arange(count) % number for number in classes], axis=1)
    pixels = RNG.integers(0, 256, (count, 3072))
    return np.concatenate([labels, pixels], axis=1).astype(np.uint8)


def cifar_files(name):
    """The files of an archive: {name: bytes}."""
    if name == "cifar10":
        prefix, classes, text = "cifar-10-batches-bin", [10], {"batches.meta.txt": 10}
        counts = {f"data_batch_{n}.bin": 3 for n in range(1, 6)} | {"test_batch.bin": 12}
    else:
        prefix, classes, counts = "cifar-100-binary", [20, 100], {"train.bin": 101}
        counts["test.bin"] = 7
        text = {"coarse_label_names.txt": 20, "fine_label_names.txt": 100}
    files = {
        file: "".join(f"{file[0]}{n}\n" for n in range(count)).encode() + b"\n"
        for file, count in text.items()
    }
    files |= {file: records(count, *classes).tobytes() for file, count in counts.items()}
    return {f"{prefix}/{file}": data for file, data in files.items()}


def write_cifar(folder, name, files):
    path = Path(folder) / cifar.ARCHIVES[name].filename
    with tarfile.open(path, "w:gz") as tar:
        for member, data in files.items():
            info = tarfile.TarInfo(member)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


CIFARS = [Cifar10, Cifar100]


@pytest.mark.parametrize("builder_class", CIFARS)
def test_cifar_examples_are_those_of_tfds(builder_class, tmp_path, monkeypatch):
    """TFDS's own code, given Python's `open` for TensorFlow's, is the reference."""
    files = cifar_files(builder_class.name)
    write_cifar(tmp_path, builder_class.name, files)
    builder = prepare(builder_class, tmp_path)
    gfile = types.SimpleNamespace(GFile=open)
    tensorflow = types.SimpleNamespace(io=types.SimpleNamespace(gfile=gfile))
    monkeypatch.setattr(tfds_cifar, "tf", tensorflow)
    for name, data in files.items():
        path = tmp_path / "unpacked" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    theirs = getattr(tfds_cifar, builder_class.__name__)(data_dir=str(tmp_path / "other"))
    layout = theirs._cifar_info
    for split, names in (("train", layout.train_files), ("test", layout.test_files)):
        paths = [str(tmp_path / "unpacked" / layout.prefix / name) for name in names]
        expected = dict(theirs._generate_examples(f"{split}_", paths))
        expected = {example["id"]: example for example in expected.values()}
        found = {example["id"].decode(): example for example in read(builder, split)}
        assert found.keys() == expected.keys()
        for name, example in expected.items():
            assert found[name].keys() == example.keys()
            for key in example.keys() - {"id"}:
                np.testing.assert_array_equal(found[name][key], example[key])


@pytest.mark.parametrize("builder_class", CIFARS)
def test_cifar_layout_and_names_are_those_of_tfds(builder_class, tmp_path):
    name = builder_class.name
    assert name == builder_class.__name__.lower()
    assert tfds.core.registered.imported_builder_cls(name) is not builder_class
    write_cifar(tmp_path, name, cifar_files(name))
    ours = prepare(builder_class, tmp_path)
    # TFDS's builder takes the copy for its own: folder, features, splits, class names.
    theirs = tfds.builder(name, data_dir=str(tmp_path), file_format="array_record")
    assert type(theirs) is tfds.core.registered.imported_builder_cls(name)
    assert theirs.is_prepared() and theirs.data_dir == ours.data_dir
    fresh = type(theirs)(data_dir=str(tmp_path / "other"))
    assert fresh.info.features.to_json() == ours.info.features.to_json()
    assert list(theirs.info.splits) == ["train", "test"]
    names = {"cifar10": "b", "cifar100": "f"}[name]
    classes = [f"{names}{n}" for n in range(fresh.info.features["label"].num_classes)]
    assert theirs.info.features["label"].names == classes
    # A second builder of ours reads it without looking at the archive.
    (tmp_path / cifar.ARCHIVES[name].filename).unlink()
    assert prepare(builder_class, tmp_path).info.features["label"].names == classes


def test_cifar_archives_are_those_that_tfds_knows():
    for builder_class in CIFARS:
        archive = cifar.ARCHIVES[builder_class.name]
        theirs = getattr(tfds_cifar, builder_class.__name__).url_infos[archive.url]
        assert (theirs.size, f"sha256:{theirs.checksum}") == (archive.size, archive.digest)


def test_a_copy_prepared_by_tfds_is_read(tmp_path):
    if not (REAL / "tfds" / "cifar10").is_dir():
        pytest.skip(f"no prepared CIFAR-10 in {REAL}")
    (tmp_path / "cifar10").symlink_to(REAL / "tfds" / "cifar10")
    builder = prepare(Cifar10, tmp_path)
    sizes = {split: info.num_examples for split, info in builder.info.splits.items()}
    assert sizes == {"train": 50000, "test": 10000}
    source = builder.as_data_source(split="test")
    assert source[0]["image"].shape == (32, 32, 3)


@pytest.mark.parametrize(
    "builder_class,file,place,value,what",
    [
        (Cifar10, "data_batch_4.bin", 3073, 10, "record 1 has label 10, but .* 10 classes"),
        (Cifar100, "train.bin", 0, 20, "record 0 has coarse_label 20, but .* 20 classes"),
        (Cifar100, "test.bin", 3075, 100, "record 1 has label 100, but .* 100 classes"),
    ],
)
def test_cifar_label_out_of_range(builder_class, file, place, value, what, tmp_path):
    files = cifar_files(builder_class.name)
    (name,) = (name for name in files if name.endswith(f"/{file}"))
    files[name] = files[name][:place] + bytes([value]) + files[name][place + 1 :]
    path = write_cifar(tmp_path, builder_class.name, files)
    message = error_of(builder_class, tmp_path)
    assert message.startswith(f"{file} in {path}: record ")
    assert re.search(what, message)


def test_cifar_truncated_records_and_missing_files(tmp_path):
    files = cifar_files("cifar10")
    name = "cifar-10-batches-bin/data_batch_2.bin"
    for size in (0, 5000):
        path = write_cifar(tmp_path, "cifar10", files | {name: files[name][:size]})
        message = error_of(Cifar10, tmp_path)
        assert f"data_batch_2.bin in {path} has {size} bytes, which is not a" in message
    del files[name]
    write_cifar(tmp_path, "cifar10", files)
    assert f"{path} holds no {name}" in error_of(Cifar10, tmp_path)


@pytest.mark.parametrize("builder_class", [*CIFARS, TinyImagenet])
def test_half_an_archive_and_none(builder_class, tmp_path):
    archive = cifar.ARCHIVES.get(builder_class.name, tiny_imagenet.ARCHIVE)
    message = error_of(builder_class, tmp_path)
    assert f"{archive.filename} is not in {tmp_path}, and {archive.url} " in message
    assert f"into {tmp_path} yourself and run again" in message
    if builder_class is TinyImagenet:
        write_zip(tmp_path, tiny_files())
    else:
        write_cifar(tmp_path, builder_class.name, cifar_files(builder_class.name))
    path = tmp_path / archive.filename
    path.write_bytes(path.read_bytes()[:-3000])
    message = error_of(builder_class, tmp_path)
    assert message.startswith(f"{path} is damaged or only half there (")
    assert message.endswith("delete it and run again")


# Tiny-ImageNet

ANNOTATIONS = "val/val_annotations.txt"
GOOD_LINE = b"val_0.JPEG\tn02\t0\t0\t9\t9\n"


def jpeg(grey=False, size=(64, 64), mode=None):
    shape = (*size[::-1],) if grey else (*size[::-1], 3)
    image = Image.fromarray(RNG.integers(0, 256, shape).astype(np.uint8))
    file = io.BytesIO()
    (image.convert(mode) if mode else image).save(file, format="jpeg")
    return file.getvalue()


def tiny_files():
    """A subset: three classes, the sorted order is not the file's; one image is grey."""
    files = {
        "wnids.txt": b"n03\nn01\nn02\n",
        "words.txt": b"n01\tcat, felis\nn02\tcrane\nn03\tcrane, wader\nn09\towl\n",
        ANNOTATIONS: GOOD_LINE + b"val_1.JPEG\tn01\t0\t0\t9\t9\n",
        "val/images/val_0.JPEG": jpeg(),
        "val/images/val_1.JPEG": jpeg(),
        "test/images/test_0.JPEG": jpeg(),
    }
    for wnid in ("n01", "n02", "n03"):
        images = [f"{wnid}_{n}.JPEG" for n in range(2)]
        boxes = "".join(f"{image}\t0\t0\t9\t9\n" for image in images)
        files[f"train/{wnid}/{wnid}_boxes.txt"] = boxes.encode()
        files |= {f"train/{wnid}/images/{image}": jpeg() for image in images}
    files["train/n02/images/n02_1.JPEG"] = jpeg(grey=True)
    return files


def write_zip(folder, files):
    path = folder / "tiny-imagenet-200.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(f"tiny-imagenet-200/{name}", data)
    return path


def write_folder(folder, files):
    root = folder / "tiny-imagenet-200"
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    (root / "train" / "n01" / "images" / "._n01_0.JPEG").write_bytes(b"of a Mac")
    return root


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


def test_the_zip_goes_before_the_folder(tmp_path):
    write_folder(tmp_path, {"train/n01/images/n01_0.JPEG": jpeg()})  # half unpacked
    write_zip(tmp_path, tiny_files())
    assert len(read(prepare(TinyImagenet, tmp_path), "train")) == 6


KILLED = """
import os, signal, sys
from imae_jax.data.tiny_imagenet import TinyImagenet, _Files
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
