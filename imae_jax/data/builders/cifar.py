"""CIFAR-10 and CIFAR-100 from their original archives, without TensorFlow."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.image_classification import cifar

from imae_jax.data.builders import download
from imae_jax.data.image_io import png
from imae_jax.errors import UserError

# Sizes and digests as in TFDS's url_checksums/cifar10.txt and cifar100.txt.
ARCHIVES = {
    "cifar10": download.Archive(
        url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        size=170_052_171,
        digest="sha256:c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    ),
    "cifar100": download.Archive(
        url="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        size=168_513_733,
        digest="sha256:58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
    ),
}
PIXELS = 3 * 32 * 32  # bytes of an image, channel by channel


class _FromBinary(download.FromArchive):
    """Prepares either data set from its binary archive.

    Features, keys and splits are those of TFDS's builders, so prepared copies are
    interchangeable.
    """

    _cifar_info: Any  # of TFDS's builder

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        del dl_manager  # our download gives advice if there is no network
        layout = self._cifar_info
        archive = download.find(self.archive_dir, ARCHIVES[self.name])
        names = [*layout.label_files, *layout.train_files, *layout.test_files]
        files = download.read_tar(archive, [layout.prefix + name for name in names])
        for key, name in zip(layout.label_keys, layout.label_files, strict=True):
            lines = files[layout.prefix + name].decode().split("\n")
            self.info.features[key].names = [line for line in lines if line]

        def examples(split: str, names: Iterable[str]) -> Iterator:
            parts = [
                self._records(files[layout.prefix + name], f"{name} in {archive}")
                for name in names
            ]
            return self._generate_examples(f"{split}_", np.concatenate(parts))

        return {
            "train": examples("train", layout.train_files),
            "test": examples("test", layout.test_files),
        }

    def _records(self, data: bytes, where: str) -> np.ndarray:
        """Parses and checks a file of records, [N, labels + PIXELS] uint8."""
        keys = self._cifar_info.label_keys
        length = len(keys) + PIXELS
        if not data or len(data) % length:
            raise UserError(
                f"{where} has {len(data)} bytes, which is not a whole number of records "
                f"of {length} bytes: delete the archive and run again"
            )
        records = np.frombuffer(data, np.uint8).reshape(-1, length)
        for column, key in enumerate(keys):
            classes = self.info.features[key].num_classes
            highest = records[:, column].max()
            if highest >= classes:
                raise UserError(
                    f"{where}: record {records[:, column].argmax()} has {key} {highest}, "
                    f"but there are {classes} classes: delete the archive and run again"
                )
        return records

    def _generate_examples(
        self, prefix: str, records: Iterable[np.ndarray]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        keys = self._cifar_info.label_keys
        for index, record in enumerate(records):
            labels, pixels = np.split(record, [len(keys)])
            image = np.moveaxis(pixels.reshape(3, 32, 32), 0, -1)
            yield (
                index,
                {
                    "id": f"{prefix}{index:05d}",
                    "image": png(image),
                    **dict(zip(keys, labels.tolist(), strict=True)),
                },
            )


# Not registered: TFDS's builders already have these names. (mypy does not see that they
# take the keyword, since TFDS has no types.)
class Cifar10(_FromBinary, cifar.Cifar10, skip_registration=True):  # type: ignore[call-arg]
    """CIFAR-10: 50,000 + 10,000 images, 32x32x3, 10 classes, as TFDS's `cifar10`.

    Prepared from `cifar-10-binary.tar.gz` in `archive_dir`; see `download.find`.
    """

    VERSION = tfds.core.Version("3.0.2")
    FORM = ((32, 32, 3), 10, 50_000)


class Cifar100(_FromBinary, cifar.Cifar100, skip_registration=True):  # type: ignore[call-arg]
    """CIFAR-100: 50,000 + 10,000 images, 32x32x3, 100 classes, as TFDS's `cifar100`.

    `label` is the fine label, `coarse_label` one of 20. Prepared from
    `cifar-100-binary.tar.gz` in `archive_dir`; see `download.find`.
    """

    VERSION = tfds.core.Version("3.0.2")
    FORM = ((32, 32, 3), 100, 50_000)
