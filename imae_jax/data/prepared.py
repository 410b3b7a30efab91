"""Data sets that TFDS has prepared, read without TensorFlow (array_record)."""

import contextlib
import hashlib
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from imae_jax.data import cache
from imae_jax.data.archives import FromArchive
from imae_jax.data.cifar import Cifar10, Cifar100
from imae_jax.data.digits import Digits
from imae_jax.data.shapes import Shapes
from imae_jax.data.tiny_imagenet import TinyImagenet
from imae_jax.errors import UserError

# Data sets with a builder of our own, prepared on first use.
BUILDERS = {
    "digits": Digits,
    "shapes": Shapes,
    "cifar10": Cifar10,
    "cifar100": Cifar100,
    "tiny_imagenet": TinyImagenet,
}
INFO_FILE = "dataset_info.json"


def is_writable(folder: Path) -> bool:
    """Whether files can be made in a folder; one marked read-only is respected."""
    return bool(folder.stat().st_mode & 0o222) and os.access(folder, os.W_OK)


def prepare(name: str, data_dir: Path) -> Path:
    """The folder of a prepared data set, which is prepared first where it is not yet.

    It lies in `data_dir`, or, where that is read-only, in the cache folder.

    Raises:
      UserError: if `data_dir` cannot be made, or the data set cannot be prepared.
    """
    version = str(BUILDERS[name].VERSION)
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        own = hashlib.sha256(str(data_dir.resolve()).encode()).hexdigest()[:12]
        elsewhere = cache.folder() / "prepared" / own
        for base in (data_dir, elsewhere):
            if (base / name / version / INFO_FILE).exists():
                return base / name / version
        base = data_dir if is_writable(data_dir) else elsewhere
        if base != data_dir:
            print(f"data.dir={str(data_dir)!r} is read-only: {name} is prepared in {base}")
            base.mkdir(parents=True, exist_ok=True)
        options = dict(data_dir=base, file_format="array_record")
        if issubclass(BUILDERS[name], FromArchive):
            options["archive_dir"] = data_dir
        builder = BUILDERS[name](**options)
        tfds.disable_progress_bar()
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS speaks of downloads
            builder.download_and_prepare()
    except OSError as error:
        raise UserError(f"data.dir={str(data_dir)!r} cannot be used: {error}") from error
    return base / name / version


def find_copy(name: str, data_dir: Path) -> Path | None:
    """The newest version of a data set that lies prepared in `data_dir`, if any."""
    found = list(data_dir.glob(f"{name}/*/{INFO_FILE}"))
    if not found:
        return None
    return max(found, key=lambda x: tfds.core.Version(x.parent.name)).parent


class Records:
    """A prepared data set's examples, images still encoded.

    Attributes:
      image_shape: (H, W, C); H and W are None where images differ in size.
      class_names: a name per label.
      splits: the names of its splits.
    """

    def __init__(self, folder: Path):
        """Opens the data set in `folder`.

        Raises:
          UserError: if its files are not array_record, or it has no images and labels.
        """
        info = json.loads((folder / INFO_FILE).read_text())
        kind = info.get("fileFormat", "tfrecord")
        if kind != "array_record":
            raise UserError(
                f"{folder} was prepared as {kind}, which only TensorFlow can read: prepare "
                "it with file_format='array_record'"
            )
        self.folder = folder
        self._builder = tfds.builder_from_directory(folder)
        features = self._builder.info.features
        missing = {"image", "label"} - set(features)
        if missing:
            raise UserError(f"{folder} has no feature {min(missing)!r}")
        self.image_shape = tuple(features["image"].shape)
        self.class_names = tuple(features["label"].names)
        self.splits = tuple(self._builder.info.splits)
        self._factors = [
            name
            for name, feature in features.items()
            if name not in ("image", "label")
            and feature.shape == ()
            and np.issubdtype(feature.np_dtype, np.number)
        ]

    def source(self, split: str):
        """A random-access sequence of examples, `image` as an encoded file."""
        skip = {"image": tfds.decode.SkipDecoding()}
        return self._builder.as_data_source(split, decoders=skip)

    def columns(self, split: str) -> Mapping[str, np.ndarray]:
        """`label` [N] int64 and every other number that examples have, [N] each.

        Raises:
          UserError: if a label is none of the classes.
        """
        source = self.source(split)
        names = ("label", *self._factors)
        rows = []
        for start in range(0, len(source), 1000):
            part = range(start, min(start + 1000, len(source)))
            examples = source.__getitems__(list(part))
            rows += [[example[name] for name in names] for example in examples]
        found = dict(zip(names, map(np.array, zip(*rows, strict=True)), strict=True))
        labels = found["label"] = found["label"].astype(np.int64)
        highest = len(self.class_names) - 1
        out = np.flatnonzero((labels < 0) | (labels > highest))
        if len(out):
            raise UserError(
                f"{self.folder}: {split} example {out[0]} has label {labels[out[0]]}, but "
                f"the classes are 0 to {highest}"
            )
        return found

    def fingerprint(self) -> list:
        """Tells this copy from any other: its files' names, sizes and times."""
        stats = [(path.name, path.stat()) for path in sorted(self.folder.iterdir())]
        return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]
