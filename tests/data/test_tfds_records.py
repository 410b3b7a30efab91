import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import mock_archives
import numpy as np
import pytest
import tensorflow_datasets as tfds
from small_inputs import encoded

from imae_jax import runtime
from imae_jax.data import disk_cache, prepared_folders, tfds_records
from imae_jax.data import load as loading
from imae_jax.data.builders.registry import BUILDERS
from imae_jax.data.image_io import png
from imae_jax.errors import UserError

ROOT = Path(__file__).parents[2]


class Odd(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Four images of classes that a test may change."""

    VERSION = tfds.core.Version("1.0.0")
    FORM = ((2, 2, 1), 2, 4)
    labels = (0, 1, 1, 0)

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(2, 2, 1), encoding_format="png"),
            "label": tfds.features.Scalar(np.int64),
            "angle": tfds.features.Scalar(np.float32),
            "note": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features)
        )

    def _split_generators(self, dl_manager):
        del dl_manager
        return {"train": self._generate_examples(), "test": self._generate_examples()}

    def _generate_examples(self):
        for i, label in enumerate(self.labels):
            image = png(np.full((2, 2), 10 * i, np.uint8))
            yield i, {"image": image, "label": label, "angle": i / 4, "note": "x"}


@pytest.fixture
def odd(tmp_path, monkeypatch):
    """Opens the data set `odd`, with classes, prepared in a folder of its own."""
    monkeypatch.setitem(BUILDERS, "odd", Odd)

    def load(**options):
        return loading.load("odd", str(tmp_path), **options)

    folder = prepared_folders.prepare("odd", tmp_path)
    features = json.loads((folder / "features.json").read_text())
    label = features["featuresDict"]["features"]["label"]
    label.clear()
    label["pythonClassName"] = (
        "tensorflow_datasets.core.features.class_label_feature.ClassLabel"
    )
    label["classLabel"] = {"numClasses": "2"}
    (folder / "features.json").write_text(json.dumps(features))
    return load, folder


def test_numbers_become_factors_and_text_does_not(odd):
    load, _ = odd
    dataset = load()
    train = dataset.splits["train"]
    order = train.images[:, 0, 0, 0] // 10
    np.testing.assert_array_equal(train.labels, np.take(Odd.labels, order))
    assert train.factors.keys() == {"angle"}
    np.testing.assert_allclose(train.factors["angle"], order / 4)
    assert dataset.class_names == ("0", "1") and dataset.image_shape == (2, 2, 1)
    np.testing.assert_allclose([dataset.mean, dataset.std], [[15], [np.sqrt(125)]])


def test_the_second_time_nothing_is_decoded(odd, monkeypatch, capsys):
    load, folder = odd
    first = load()
    assert "odd: decoding images" in capsys.readouterr().out
    monkeypatch.setattr(tfds_records.Records, "columns", None)
    second = load()
    assert capsys.readouterr().out == ""
    for a, b in zip(first.splits.values(), second.splits.values(), strict=True):
        np.testing.assert_array_equal(a.images, b.images)
    os.utime(next(folder.glob("*.array_record*")), (1, 1))  # another file may be other data
    with pytest.raises(TypeError):
        load()


def test_a_damaged_copy_is_named(odd):
    load, folder = odd
    file = next(folder.glob("*train*.array_record*"))
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    said = "odd/1.0.0 is damaged .*: delete it and run again, which prepares it anew"
    with pytest.raises(UserError, match=said):
        load()
    (folder / "dataset_info.json").write_text('{"fileF')
    with pytest.raises(UserError, match="odd/1.0.0 is damaged"):
        load()


@pytest.mark.parametrize("name", ["record", "dataset_info.json", "features.json"])
def test_a_flipped_bit_is_noticed_or_changes_nothing(name, odd, tmp_path, monkeypatch):
    load, folder = odd
    expected = load().splits
    (file, *_) = (path for path in sorted(folder.iterdir()) if name in path.name)
    data, random, refused = file.read_bytes(), np.random.default_rng(0), 0
    for number in range(40):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"cache{number}"))
        flipped = bytearray(data)
        place = random.choice(np.flatnonzero(np.frombuffer(data, np.uint8)))
        flipped[place] ^= 1 << random.integers(7)  # ASCII remains so
        file.write_bytes(flipped)
        try:
            found = load().splits
        except UserError as error:
            assert str(folder) in str(error) and "\n" not in str(error)
            refused += 1
            continue
        for split, images in expected.items():
            np.testing.assert_array_equal(found[split].images, images.images)
            np.testing.assert_array_equal(found[split].labels, images.labels)
    assert refused >= 20


@pytest.mark.parametrize(
    "file,text,other,said",
    [
        ("dataset_info.json", '"4"', '"3"', "train has 4 records, and .* says 3"),
        ("dataset_info.json", '"train"', '"dev"', "its splits are dev, test"),
        (
            "features.json",
            '"numClasses": "2"',
            '"numClasses": "3"',
            "its classes are 3, not 2",
        ),
    ],
)
def test_json_that_says_another_thing(file, text, other, said, odd):
    """It would be another data set, without a word."""
    load, folder = odd
    path = folder / file
    assert text in path.read_text()
    path.write_text(path.read_text().replace(text, other, 1))
    with pytest.raises(UserError, match=f"odd/1.0.0 is damaged .{said}"):
        load()


def test_a_copy_of_tfds_that_says_another_size(named):
    prepare, load, folder = named
    prepare()
    path = folder / "pets/2.0.0/dataset_info.json"
    path.write_text(path.read_text().replace('"30"', '"29"'))
    with pytest.raises(UserError, match="train has 30 records, .* says 29.*copy it here"):
        load()


def test_a_copy_that_may_not_be_read_is_not_called_damaged(odd, monkeypatch):
    def refuse(*args, **options):
        raise PermissionError(errno.EACCES, "Permission denied")

    load, folder = odd
    monkeypatch.setattr(tfds_records.tfds, "builder_from_directory", refuse)
    with pytest.raises(UserError, match="odd/1.0.0 cannot be read: .*Permission denied"):
        load()


def test_a_damaged_copy_of_tfds_is_to_be_made_by_it(named):
    prepare, load, folder = named
    prepare()
    load()
    (folder / "pets/2.0.0/features.json").write_text("{")
    with pytest.raises(UserError, match="damaged .*: copy it here again, or prepare it"):
        load()


def test_a_disk_that_is_full_while_it_is_prepared(tmp_path, monkeypatch):
    """The library of the records has its own class of errors."""

    def full(self):
        raise RuntimeError("write() failed:\nNo space left on device")

    monkeypatch.setitem(BUILDERS, "odd", Odd)
    monkeypatch.setattr(Odd, "download_and_prepare", full)
    said = f"data.dir='{tmp_path}' cannot be used: write.. failed: No space left on device$"
    with pytest.raises(UserError, match=said):
        prepared_folders.prepare("odd", tmp_path)


def test_a_damaged_cache_is_made_again(odd, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    load, _ = odd
    expected = np.array(load().splits["train"].images)
    (place,) = runtime.folder().iterdir()
    (place / "train.image.npy").unlink()
    np.testing.assert_array_equal(load().splits["train"].images, expected)
    (place / "train.image.npy").write_bytes(b"half")
    np.testing.assert_array_equal(load().splits["train"].images, expected)


def test_two_runs_may_prepare_at_once(tmp_path, monkeypatch):
    monkeypatch.setitem(BUILDERS, "odd", Odd)
    prepare = Odd.download_and_prepare

    def second(self):
        """Another process ends while this one prepares."""
        prepare(self)
        raise OSError("Cannot rename: destination exists")

    monkeypatch.setattr(Odd, "download_and_prepare", second)
    assert (prepared_folders.prepare("odd", tmp_path) / "dataset_info.json").exists()


class Imagenet2012(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """ImageNet as TFDS prepares it: images of any size, test images without labels."""

    VERSION = tfds.core.Version("5.1.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(names=["n01", "n02"]),
            "file_name": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features)
        )

    def _split_generators(self, dl_manager):
        del dl_manager
        counts = dict(train=8, validation=4, test=3)
        return {split: self._generate_examples(count) for split, count in counts.items()}

    def _generate_examples(self, count):
        for i in range(count):
            pixels = np.full((40 + i, 60, 3), 20 * i, np.uint8)
            image = io.BytesIO(encoded(pixels, "jpeg"))
            yield i, {"image": image, "label": i % 2, "file_name": f"{i}.JPEG"}


def test_imagenet_as_tfds_prepares_it(tmp_path):
    builder = Imagenet2012(data_dir=tmp_path, file_format="array_record")
    builder.download_and_prepare()
    (tmp_path / "imagenet2012/5.1.0.bak").mkdir()
    (tmp_path / "imagenet2012/5.1.0.bak/dataset_info.json").write_text("{}")
    files = dict(image_size=16, channels=3, centre=0.875)
    for _ in range(2):  # the second time, labels come from the cache
        dataset = loading.load("imagenet2012", str(tmp_path), files=files)
        assert dataset.sizes == {"train": 8, "validation": 4}
        assert dataset.class_names == ("n01", "n02") and dataset.image_shape == (16, 16, 3)
        train = dataset.splits["train"]
        for i in range(8):
            image = train.images.get(i)
            assert image.std() < 2 and train.labels[i] == round(image.mean() / 20) % 2


DEEP = tfds.features.Image(shape=(None, None, 1), dtype=np.uint16)


class Pets(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Images of any size beside others, two labels, and splits of many names."""

    VERSION = tfds.core.Version("2.0.0")
    features = {
        "photo": tfds.features.Image(encoding_format="jpeg"),
        "mask": tfds.features.LabeledImage(labels=2, shape=(None, None, 1)),
        "species": tfds.features.ClassLabel(names=["ant", "bee"]),
        "family": tfds.features.ClassLabel(names=["a", "b", "c"]),
        "boxes": tfds.features.Sequence({"area": np.int64}),
    }
    supervised = ("photo", "species")
    counts = dict(train=30, dev=6, extra=3)
    hidden = ()

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(self.features),
            supervised_keys=self.supervised,
        )

    def _split_generators(self, dl_manager):
        del dl_manager
        return {name: self._generate_examples(name) for name in self.counts}

    def _generate_examples(self, split):
        for i in range(self.counts[split]):
            pixels = np.full((40 + i, 60, 3), 7 * i, np.uint8)
            label = -1 if split in self.hidden else i % 2
            known = {
                "photo": io.BytesIO(encoded(pixels, "jpeg")),
                "image": io.BytesIO(encoded(pixels, "jpeg")),
                "deep": io.BytesIO(encoded(pixels[..., 0].astype(np.uint16) * 257)),
                "mask": io.BytesIO(encoded(np.zeros((4, 4), np.uint8))),
                "species": label,
                "label": label,
                "family": 2,
                "boxes": [{"area": i}],
            }
            yield i, {name: known[name] for name in self.features}


@pytest.fixture
def named(tmp_path):
    """Prepares `Pets` with these changes; opens it by its name."""

    def prepare(**changes):
        builder = type("Pets", (Pets,), changes, skip_registration=True)
        builder(data_dir=tmp_path, file_format="array_record").download_and_prepare()

    def load(name="tfds:pets", **options):
        files = dict(image_size="16x24", channels=3, centre=1.0, background="white")
        return loading.load(name, str(tmp_path), files=files | options)

    return prepare, load, tmp_path


def test_any_data_set_of_images_is_taken_by_its_name(named, capsys):
    prepare, load, folder = named
    prepare()
    for name in ("tfds:pets", "tfds:pets:2.0.0"):
        dataset = load(name)
        assert dataset.sizes == {"train": 30, "validation": 6}
        assert dataset.class_names == ("ant", "bee")
        assert dataset.image_shape == (16, 24, 3) and dataset.path == folder / "pets/2.0.0"
        train = dataset.splits["train"]
        assert train.factors == {}
        for i in range(30):
            image = train.images.get(i)
            assert image.std() < 2 and train.labels[i] == round(image.mean() / 7) % 2
    out = capsys.readouterr().out
    assert "not read, beside train: extra" in out
    assert out.count("reading the labels of train, once") == 1


def test_images_are_set_aside_where_there_is_only_train(named):
    prepare, load, _ = named
    prepare(counts=dict(train=20))
    dataset = load()
    assert dataset.sizes == {"train": 18, "test": 2}
    names = [name for split in dataset.splits.values() for name in split.images.names]
    assert len(set(names)) == 20
    for split in dataset.splits.values():
        for i, label in enumerate(split.labels):
            assert label == round(split.images.get(i).mean() / 7) % 2


def test_splits_without_labels_are_left_out_beside_one_with(named, capsys):
    prepare, load, _ = named
    prepare(counts=dict(train=20, validation=6, test=6), hidden=("test",))
    assert load().sizes == {"train": 20, "validation": 6}
    assert "test is left out, its images have no labels" in capsys.readouterr().out


@pytest.mark.parametrize(
    "features,supervised,classes,said",
    [
        (("photo",), None, (), ""),
        (("photo", "species"), None, ("ant", "bee"), ""),
        (("photo", "species", "family"), None, (), "none of family, species is 'label'"),
        (("photo", "species", "family"), ("photo", "family"), ("a", "b", "c"), ""),
        (("image", "photo", "label", "family"), None, ("x", "y"), ""),
    ],
)
def test_what_is_image_and_what_is_label(
    named, features, supervised, classes, said, capsys
):
    prepare, load, _ = named
    more = {
        "image": tfds.features.Image(),
        "label": tfds.features.ClassLabel(names=["x", "y"]),
    }
    chosen = {name: (Pets.features | more)[name] for name in features}
    prepare(features=chosen, supervised=supervised)
    dataset = load()
    assert dataset.class_names == classes
    assert (dataset.splits["train"].labels == -1).all() == (not classes)
    assert said in capsys.readouterr().out


def test_images_that_cannot_be_told(named):
    prepare, load, folder = named
    prepare(features={"mask": Pets.features["mask"]}, supervised=None)
    with pytest.raises(UserError, match="has no image among its features: mask"):
        load()
    two = dict(photo=tfds.features.Image(), deep=DEEP)
    prepare(features=two, supervised=None, VERSION=tfds.core.Version("2.0.1"))
    with pytest.raises(
        UserError, match="several images .deep, photo., and none of them is"
    ):
        load()
    # (To write floats TFDS needs TensorFlow: their form alone is enough.)
    prepare(features=dict(deep=DEEP), supervised=None, VERSION=tfds.core.Version("2.0.2"))
    path = folder / "pets/2.0.2/features.json"
    path.write_text(path.read_text().replace('"uint16"', '"float32"'))
    with pytest.raises(UserError, match="its images are of float32, not of 8 or 16 bits"):
        load()


def test_sixteen_bits_of_one_channel(named):
    prepare, load, _ = named
    prepare(features=dict(deep=DEEP), supervised=None)
    images = load().splits["train"].images
    assert sorted(round(images.get(i).mean()) for i in range(30)) == list(range(0, 210, 7))


def test_configs_and_versions_by_name(named):
    prepare, load, folder = named
    with pytest.raises(
        UserError, match="holds no pets that is prepared: .*tfds build pets"
    ):
        load()
    prepare()
    (folder / "pets/2.0.0").rename(folder / "moved")
    for config in ("small", "large"):
        (folder / "pets" / config).mkdir()
        (folder / "pets" / config / "2.0.0").symlink_to(folder / "moved")
    with pytest.raises(
        UserError, match="several configs: name one of tfds:pets/large, tfds"
    ):
        load()
    assert load("tfds:pets/small").sizes["train"] == 30
    assert load("tfds:pets/small:2.0.0").sizes["train"] == 30
    (folder / "pets/large/2.0.0").unlink()
    assert load().path == folder / "pets/small/2.0.0"
    with pytest.raises(UserError, match="has no version 1.0.0; there are 2.0.0"):
        load("tfds:pets/small:1.0.0")
    for name in ("tfds:", "tfds:../pets", "tfds:pets/", "tfds:pets:new", "tfds:pets/.."):
        with pytest.raises(UserError, match="data.name=|holds no pets/.. that is prepared"):
            load(name)


def test_a_data_set_without_images_to_train_on(named):
    prepare, load, _ = named
    prepare(counts=dict(test=6))
    with pytest.raises(UserError, match="has no split train, only test"):
        load()


def test_label_out_of_range(odd, monkeypatch):
    load, folder = odd
    features = json.loads((folder / "features.json").read_text())
    features["featuresDict"]["features"]["label"]["classLabel"]["numClasses"] = "1"
    (folder / "features.json").write_text(json.dumps(features))
    with pytest.raises(UserError, match=r"train example \d has label 1, but .* 0 to 0"):
        load()


def test_tfrecord_is_refused(odd):
    load, folder = odd
    info = json.loads((folder / "dataset_info.json").read_text())
    info["fileFormat"] = "tfrecord"
    (folder / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(UserError, match="prepared as tfrecord, which only TensorFlow"):
        load()


def test_a_data_set_without_labels_is_refused(odd):
    load, folder = odd
    features = json.loads((folder / "features.json").read_text())
    del features["featuresDict"]["features"]["label"]
    (folder / "features.json").write_text(json.dumps(features))
    with pytest.raises(UserError, match="has no feature 'label'"):
        load()


def test_a_read_only_folder_is_respected(tmp_path, capsys):
    folder = tmp_path / "given"
    folder.mkdir()
    mock_archives.write_zip(folder, mock_archives.tiny_files())
    folder.chmod(0o555)
    before = sorted(folder.rglob("*"))
    dataset = loading.load("tiny_imagenet", str(folder))
    assert dataset.sizes == {"train": 6, "validation": 2}
    assert sorted(folder.rglob("*")) == before
    assert "is read-only: tiny_imagenet is prepared in" in capsys.readouterr().out
    loading.load("tiny_imagenet", str(folder))  # found there again
    assert "prepared" not in capsys.readouterr().out
    folder.chmod(0o755)


def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    found = disk_cache.cached(["key"], lambda: {"x": np.arange(3)})
    np.testing.assert_array_equal(found["x"], [0, 1, 2])
    assert "nothing cached" in capsys.readouterr().err


def test_the_cache_keeps_nothing_half_written(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    save, calls = np.save, []

    def full(path, array, **options):
        calls.append(path)
        save(path, array, **options)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    arrays = {"x": np.arange(3), "y": np.arange(2)}
    disk_cache.cached(["key"], lambda: arrays)
    assert list(runtime.folder().iterdir()) == []
    disk_cache.cached(["key"], lambda: arrays)
    found = disk_cache.cached(["key"], lambda: pytest.fail("made again"))
    np.testing.assert_array_equal(found["y"], [0, 1])
    disk_cache.cached(["other key"], lambda: arrays)
    assert len(list(runtime.folder().iterdir())) == 2


def test_statistics_are_exact_and_can_be_divided_by():
    images = np.random.default_rng(0).integers(0, 256, (50, 4, 4, 3), np.uint8)
    images[..., 2] = 7
    mean, std = loading.statistics(images)
    expected = images.astype(np.float64)
    np.testing.assert_allclose(mean, expected.mean(axis=(0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(std[:2], expected.std(axis=(0, 1, 2))[:2], rtol=1e-6)
    assert std[2] == 1


def test_nothing_imports_tensorflow(tmp_path):
    """Not even where it is installed: a Colab TPU's would take the device."""
    mock_archives.write_cifar(tmp_path, "cifar10", mock_archives.cifar_files("cifar10"))
    program = """
import importlib.machinery, sys

class Blocked:  # installed, as far as anyone who asks can see
    def find_spec(self, name, *args):
        if name.split(".")[0] == "tensorflow":
            return importlib.machinery.ModuleSpec(name, self)

    def create_module(self, spec):
        raise AssertionError("TensorFlow was imported")

sys.meta_path.insert(0, Blocked())
import main
sys.exit(main.main())
"""
    arguments = ["data", "--config=configs/mae.py:cifar10", f"--config.data.dir={tmp_path}"]
    found = subprocess.run(
        [sys.executable, "-c", program, *arguments, f"--workdir={tmp_path / 'out'}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr
    assert "train        15 images" in found.stdout


@pytest.mark.parametrize(
    "name,message",
    [("cifar11", "did you mean 'cifar10'"), ("imagenet", "did you mean"), ("x", "known: ")],
)
def test_unknown_data_set(name, message):
    with pytest.raises(UserError, match=f"data.name='{name}' is not a known.*{message}"):
        loading.load(name, "anywhere")


def test_the_real_cifar10_as_the_command_shows_it():
    folder = mock_archives.REAL / "tfds"
    if not (folder / "cifar10").exists():
        pytest.skip(f"no CIFAR-10 in {folder}")
    records = tfds_records.Records(prepared_folders.prepare("cifar10", folder))
    sizes = {split: records.size(split) for split in records.splits}
    assert sizes == {"train": 50_000, "test": 10_000}
    assert records.class_names[3] == "cat" and records.image_shape == (32, 32, 3)
