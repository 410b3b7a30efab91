"""Reads data sets prepared by TFDS (array_record) without TensorFlow."""

import contextlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource

from imae_jax.data.builders.registry import BUILDERS
from imae_jax.data.label_maps import decode
from imae_jax.data.prepared_folders import INFO_FILE
from imae_jax.errors import UserError, one_line

logger = logging.getLogger(__name__)

LABEL_MAP = "label_map"  # name of the feature


@contextlib.contextmanager
def reading(folder: Path, is_prepared_here: bool) -> Iterator[None]:
    """Turns errors of damaged files into a UserError.

    Nothing is deleted: a folder of this name may also be a user's own, or TFDS's.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # TFDS raises errors of any class
        reason = one_line(error)[:120]
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            raise UserError(f"{folder} cannot be read: {reason}") from error
        remedy = "copy it here again, or prepare it again with TFDS"
        if is_prepared_here:
            remedy = "delete it and run again, which prepares it anew"
        raise UserError(f"{folder} is damaged ({reason}): {remedy}") from error


def find_features(info: tfds.core.DatasetInfo, folder: Path) -> tuple[str, str | None]:
    """Finds the names of the image feature and the label feature (None: no labels).

    Of several, TFDS's supervised keys are chosen, then `image` and `label`.

    Raises:
      UserError: if the image feature is missing, ambiguous or of floats.
    """
    Image, ClassLabel = tfds.features.Image, tfds.features.ClassLabel
    supervised = info.supervised_keys or ()

    def choose(kind: type, name: str) -> tuple[str | None, list[str]]:
        # Exact type: subclasses of Image are masks. Sorted: TFDS's order varies.
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
    """Examples of a prepared data set, with encoded images.

    Attributes:
      folder: folder of the data set.
      image_shape: (H, W, C); H and W are None if images differ in size.
      class_names: one name per label; empty if there are no labels.
      pixel_classes: names of the classes of pixels, if there is a feature `label_map` and
        the data set is ours; else empty.
      splits: names of the splits.
    """

    def __init__(self, folder: Path, is_ours: bool = True):
        """Opens the data set in `folder`.

        Args:
          folder: data set prepared by TFDS or a builder of ours.
          is_ours: features are `image`, `label`, numeric factors, and maybe `label_map`;
            otherwise image and label are found by `find_features`, and other features are
            ignored.
        Raises:
          UserError: if its files are not array_record, or its image feature is missing or
            ambiguous.
        """
        self._is_prepared_here = is_ours and folder.parent.name in BUILDERS
        with reading(folder, self._is_prepared_here):
            info = json.loads((folder / INFO_FILE).read_text("utf-8"))
        kind = info.get("fileFormat", "tfrecord")
        if kind != "array_record":
            raise UserError(
                f"{folder} was prepared as {kind}, which only TensorFlow can read: take "
                "another data.dir, or prepare it with file_format='array_record'"
            )
        self.folder = folder
        with reading(folder, self._is_prepared_here):
            self._builder = tfds.builder_from_directory(folder)
        features = self._builder.info.features
        self._label: str | None
        if is_ours:
            missing = {"image", "label"} - set(features)
            if missing:
                raise UserError(f"{folder} has no feature {min(missing)!r}")
            self._image, self._label = "image", "label"
        else:
            self._image, self._label = find_features(self._builder.info, folder)
        self.image_shape = tuple(features[self._image].shape)
        self.class_names = tuple(features[self._label].names) if self._label else ()
        has_label_maps = is_ours and LABEL_MAP in features
        self.pixel_classes = tuple(features[LABEL_MAP].names) if has_label_maps else ()
        self.splits = tuple(self._builder.info.splits)
        with reading(folder, self._is_prepared_here):
            self._check_form()
        self._factors = [
            name
            for name, feature in sorted(features.items())
            if is_ours
            and name not in ("image", "label")
            and feature.shape == ()
            and np.issubdtype(feature.np_dtype, np.number)
        ]

    def _check_form(self) -> None:
        """Raises ValueError if a data set that is prepared here has another form."""
        if not self._is_prepared_here:
            return
        if "train" not in self.splits:
            raise ValueError(f"its splits are {', '.join(self.splits)}")
        shape, most, _ = BUILDERS[self.folder.parent.name].FORM
        if self.image_shape != shape:
            raise ValueError(f"its images are of {self.image_shape}, not {shape}")
        if len(self.class_names) > most:
            raise ValueError(f"its classes are {len(self.class_names)}, not {most}")

    def _check_size(self, split: str) -> None:
        """Raises ValueError if the files have another number of records than is said."""
        paths = [Path(path) for path in self._builder.info.splits[split].filepaths]
        with ArrayRecordDataSource(paths) as source:
            count = len(source)
        if count != self.size(split):
            said = f"{INFO_FILE} says {self.size(split)}"
            raise ValueError(f"{split} has {count} records, and {said}")

    def _read(self, split: str, names: Sequence[str]) -> tuple[Any, Callable]:
        """Returns a sequence of raw examples and a parser of the features `names`.

        Images stay encoded.
        """
        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        source = self._builder.as_data_source(split, deserialize_method=raw)
        features = self._builder.info.features
        some = tfds.features.FeaturesDict({name: features[name] for name in names})
        encoded = {self._image, LABEL_MAP}.intersection(names)
        skip = {name: tfds.decode.SkipDecoding() for name in encoded} or None
        return source, lambda raw: some.deserialize_example_np(raw, decoders=skip)

    def size(self, split: str) -> int:
        """Number of examples."""
        return self._builder.info.splits[split].num_examples

    def reader(self, split: str) -> Callable[[int], bytes]:
        """Returns a function from an index to the encoded image.

        Raises:
          UserError: here or in that function, if the files are damaged.
        """
        with reading(self.folder, self._is_prepared_here):
            source, parse = self._read(split, [self._image])

        def read(index: int) -> bytes:
            with reading(self.folder, self._is_prepared_here):
                return parse(source[index])[self._image]

        return read

    def label_maps(self, split: str) -> np.ndarray:
        """Reads the label map of every example, [N, H, W] uint8; see `pixel_classes`.

        Raises:
          UserError: if one is not of the images' size or beyond the classes, or the files
            are damaged.
        """
        found = np.empty((self.size(split), *self.image_shape[:2]), np.uint8)
        with reading(self.folder, self._is_prepared_here):
            source, parse = self._read(split, [LABEL_MAP])
            for index in range(len(source)):
                data = parse(source[index])[LABEL_MAP]
                name = f"of {split} example {index}"
                found[index] = decode(data, name, len(self.pixel_classes))
        return found

    def columns(self, split: str) -> Mapping[str, np.ndarray]:
        """Reads `label` [N] int64 (all -1 if there are none) and every factor, [N] each.

        Raises:
          UserError: if a label is outside the classes, or the files are damaged.
        """
        with reading(self.folder, self._is_prepared_here):
            self._check_size(split)
        if self._label is None:
            return {"label": np.full(self.size(split), -1)}
        names = (self._label, *self._factors)
        rows = []
        with reading(self.folder, self._is_prepared_here):
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
        """Names, sizes and modification times of the files."""
        stats = [(path.name, path.stat()) for path in sorted(self.folder.iterdir())]
        return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]
