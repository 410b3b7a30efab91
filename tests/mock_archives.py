"""Small archives of the data sets' true layout, and how to prepare them."""

import io
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from imae_jax.data.builders import cifar
from imae_jax.errors import UserError

ROOT = Path(__file__).parent.parent
REAL = Path(os.environ.get("IMAE_DATA_DIR", ROOT.parent / "shared" / "data"))
RNG = np.random.default_rng(0)


ANNOTATIONS = "val/val_annotations.txt"
GOOD_LINE = b"val_0.JPEG\tn02\t0\t0\t9\t9\n"


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
    for litter in ("._n01_0.JPEG", "Thumbs.db"):  # what desktops leave
        (root / "train" / "n01" / "images" / litter).write_bytes(b"no image")
    return root
