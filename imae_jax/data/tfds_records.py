"""Data sets that TFDS has prepared, read without TensorFlow (array_record)."""

import contextlib
import hashlib
import io
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from imae_jax import runtime
from imae_jax.data.builders.download import FromArchive
from imae_jax.data.builders.registry import BUILDERS
from imae_jax.errors import UserError

logger = logging.getLogger(__name__)

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
    base = data_dir
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        own = hashlib.sha256(str(data_dir.resolve()).encode()).hexdigest()[:12]
        elsewhere = runtime.folder() / "prepared" / own
        for base in (data_dir, elsewhere):
            if (base / name / version / INFO_FILE).exists():
                return base / name / version
        base = data_dir if is_writable(data_dir) else elsewhere
        if base != data_dir:
            logger.info(
                f"data.dir={str(data_dir)!r} is read-only: {name} is prepared in {base}"
            )
            base.mkdir(parents=True, exist_ok=True)
        options = dict(data_dir=base, file_format="array_record")
        if issubclass(BUILDERS[name], FromArchive):
            options["archive_dir"] = data_dir
        builder = BUILDERS[name](**options)
        tfds.disable_progress_bar()
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS speaks of downloads
            builder.download_and_prepare()
    except OSError as error:
        if not (base / name / version / INFO_FILE).exists():  # no other process was first
            message = f"data.dir={str(data_dir)!r} cannot be used: {error}"
            raise UserError(message) from error
    return base / name / version


@contextlib.contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Around code that reads a prepared data set: damage becomes a UserError."""
    try:
        yield
    except (RuntimeError, ValueError, TypeError, KeyError, OSError) as error:
        first = str(error).strip().split("\n")[0][:120]
        raise UserError(
            f"{folder} is damaged ({first}): delete it and run again"
        ) from error


def versions(folder: Path) -> dict[tfds.core.Version, Path]:
    """What lies prepared right in a folder, by version."""
    return {
        tfds.core.Version(path.parent.name): path.parent
        for path in folder.glob(f"*/{INFO_FILE}")
        if tfds.core.Version.is_valid(path.parent.name)
    }


def find_copy(name: str, data_dir: Path) -> Path | None:
    """The newest version of a data set that lies prepared in `data_dir`, if any."""
    found = versions(data_dir / name)
    return found[max(found)] if found else None


def find_features(info: tfds.core.DatasetInfo, folder: Path) -> tuple[str, str | None]:
    """The names of a data set's image and label; None: the images have no labels.

    Where there are several, those that TFDS names for supervised learning, or those called
    `image` and `label`.

    Raises:
      UserError: if no feature, or none of several, is the image, or it is of floats.
    """
    Image, ClassLabel = tfds.features.Image, tfds.features.ClassLabel
    supervised = info.supervised_keys or ()

    def choose(kind: type, name: str) -> tuple[str | None, list[str]]:
        # Kinds derived from images are masks. (TFDS reads features in any order.)
        names = sorted(key for key in info.features if type(info.features[key]) is kind)
        wanted = [key for key in (*supervised, name) if key in names]
        return next(iter(wanted), names[0] if len(names) == 1 else None), names

    image, images = choose(Image, "image")
    if image is None:
        kinds = ", ".join(sorted(info.features))
        several = f"several images ({', '.join(images)}), and none of them is 'image'"
        raise UserError(
            f"{folder} has "
            + (several if images else f"no image among its features: {kinds}")
        )
    if info.features[image].np_dtype not in (np.uint8, np.uint16):
        kind = np.dtype(info.features[image].np_dtype).name
        raise UserError(f"{folder}: its images are of {kind}, not of 8 or 16 bits")
    label, labels = choose(ClassLabel, "label")
    if label is None and labels:
        logger.info(
            f"{folder}: without classes, since none of {', '.join(labels)} is 'label'"
        )
    return image, label


class Records:
    """A prepared data set's examples, images still encoded.

    Attributes:
      folder: where it lies.
      image_shape: (H, W, C); H and W are None where images differ in size.
      class_names: a name per label; empty where there are none.
      splits: the names of its splits.
    """

    def __init__(self, folder: Path, is_ours: bool = True):
        """Opens the data set in `folder`.

        Args:
          folder: that TFDS, or a builder of ours, has prepared.
          is_ours: it has features `image` and `label`, and other numbers are factors; else
            what is image and what is label is found, and there may be no label.
        Raises:
          UserError: if its files are not array_record, or it has no images, or several.
        """
        with reading(folder):
            info = json.loads((folder / INFO_FILE).read_text())
        kind = info.get("fileFormat", "tfrecord")
        if kind != "array_record":
            raise UserError(
                f"{folder} was prepared as {kind}, which only TensorFlow can read: take "
                "another data.dir, or prepare it with file_format='array_record'"
            )
        self.folder = folder
        with reading(folder):
            self._builder = tfds.builder_from_directory(folder)
        features = self._builder.info.features
        if is_ours:
            missing = {"image", "label"} - set(features)
            if missing:
                raise UserError(f"{folder} has no feature {min(missing)!r}")
            self._image, self._label = "image", "label"
        else:
            self._image, self._label = find_features(self._builder.info, folder)
        self.image_shape = tuple(features[self._image].shape)
        self.class_names = tuple(features[self._label].names) if self._label else ()
        self.splits = tuple(self._builder.info.splits)
        self._factors = [
            name
            for name, feature in sorted(features.items())
            if is_ours
            and name not in ("image", "label")
            and feature.shape == ()
            and np.issubdtype(feature.np_dtype, np.number)
        ]

    def _read(self, split: str, names: Sequence[str]):
        """A random-access sequence of raw examples, and what reads these features of one.

        Images stay encoded, and nothing else is decoded.
        """
        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        source = self._builder.as_data_source(split, deserialize_method=raw)
        features = self._builder.info.features
        some = tfds.features.FeaturesDict({name: features[name] for name in names})
        skip = {self._image: tfds.decode.SkipDecoding()} if self._image in names else None
        return source, lambda raw: some.deserialize_example_np(raw, decoders=skip)

    def size(self, split: str) -> int:
        """The number of examples."""
        return self._builder.info.splits[split].num_examples

    def reader(self, split: str) -> Callable[[int], bytes]:
        """A function from an index to the encoded image.

        Raises:
          UserError: it or this, if the files are damaged.
        """
        with reading(self.folder):
            source, parse = self._read(split, [self._image])

        def read(index: int) -> bytes:
            with reading(self.folder):
                return parse(source[index])[self._image]

        return read

    def columns(self, split: str) -> Mapping[str, np.ndarray]:
        """`label` [N] int64 and every other number that examples have, [N] each.

        A label is -1 where there are none, in all of the split.

        Raises:
          UserError: if a label is none of the classes, or the files are damaged.
        """
        if self._label is None:
            return {"label": np.full(self.size(split), -1)}
        names = (self._label, *self._factors)
        rows = []
        with reading(self.folder):
            source, parse = self._read(split, names)
            for start in range(0, len(source), 1000):
                part = range(start, min(start + 1000, len(source)))
                examples = map(parse, source.__getitems__(list(part)))
                rows += [[example[name] for name in names] for example in examples]
            columns = map(np.array, zip(*rows, strict=True))
            found = dict(zip(("label", *self._factors), columns, strict=True))
            labels = found["label"] = found["label"].astype(np.int64)
        highest = len(self.class_names) - 1
        out = np.flatnonzero((labels < 0) | (labels > highest))
        if len(out) and not (labels == -1).all():
            raise UserError(
                f"{self.folder}: {split} example {out[0]} has label {labels[out[0]]}, but "
                f"the classes are 0 to {highest}"
            )
        return found

    def fingerprint(self) -> list:
        """Tells this copy from any other: its files' names, sizes and times."""
        stats = [(path.name, path.stat()) for path in sorted(self.folder.iterdir())]
        return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]
