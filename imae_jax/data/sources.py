"""Data sets as arrays in memory, read through `tfds.data_source` (no TensorFlow)."""

import contextlib
import dataclasses
import difflib
import io
import os
from collections.abc import Mapping

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from imae_jax.data.digits import Digits
from imae_jax.errors import UserError

# Data sets with a builder of our own, prepared on first use.
BUILDERS = {"digits": Digits}


@dataclasses.dataclass(frozen=True)
class Split:
    """images: [N, H, W, C] uint8; labels: [N] int64."""

    images: np.ndarray
    labels: np.ndarray


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set held in memory.

    Attributes:
      splits: `train`, `validation` and `test`.
      mean, std: [C] float32, of the train split's pixels in 0..255.
      class_names: one name per label.
    """

    splits: Mapping[str, Split]
    mean: np.ndarray
    std: np.ndarray
    class_names: tuple[str, ...]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return self.splits["train"].images.shape[1:]


def _read(source) -> Split:
    examples = [source[i] for i in range(len(source))]
    return Split(
        images=np.stack([example["image"] for example in examples]),
        labels=np.array([example["label"] for example in examples], np.int64),
    )


def load(name: str, data_dir: str) -> Dataset:
    """Reads a data set, preparing it in `data_dir` first where that was not done yet.

    Raises:
      UserError: if the data set is unknown or `data_dir` cannot be written.
    """
    if name not in BUILDERS:
        near = difflib.get_close_matches(name, BUILDERS, n=1)
        raise UserError(
            f"data.name={name!r} is not a known data set; "
            + (f"did you mean {near[0]!r}? " if near else "")
            + f"known: {', '.join(BUILDERS)}"
        )
    data_dir = os.path.expanduser(data_dir)
    try:
        builder = BUILDERS[name](data_dir=data_dir, file_format="array_record")
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS speaks of downloads
            tfds.disable_progress_bar()
            builder.download_and_prepare()
    except OSError as error:
        raise UserError(f"data.dir={data_dir!r} cannot be used: {error}") from error
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)  # TFDS recommends OpenCV at every decode
    try:
        sources = tfds.data_source(name, data_dir=data_dir)
        splits = {split: _read(source) for split, source in sources.items()}
    finally:
        logging.set_verbosity(verbosity)
    pixels = splits["train"].images.astype(np.float64)
    return Dataset(
        splits=splits,
        mean=pixels.mean(axis=(0, 1, 2)).astype(np.float32),
        std=pixels.std(axis=(0, 1, 2)).astype(np.float32),
        class_names=tuple(builder.info.features["label"].names),
    )
