"""CIFAR's builders against TFDS's own, and what all builders have in common."""

import re
import socket
import types

import numpy as np
import pytest
import tensorflow_datasets as tfds
from mock_archives import (
    REAL,
    cifar_files,
    error_of,
    prepare,
    read,
    tiny_files,
    write_cifar,
    write_zip,
)
from tensorflow_datasets.image_classification import cifar as tfds_cifar

from imae_jax.data.builders import cifar, tiny_imagenet
from imae_jax.data.builders.cifar import Cifar10, Cifar100
from imae_jax.data.builders.tiny_imagenet import TinyImagenet

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


@pytest.fixture
def offline(monkeypatch):
    """No name of a server is found."""

    def look_up(*args, **kwargs):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)


@pytest.mark.parametrize("builder_class", [*CIFARS, TinyImagenet])
def test_half_an_archive_and_none(builder_class, tmp_path, offline):
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
