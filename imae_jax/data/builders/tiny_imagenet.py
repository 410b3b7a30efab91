"""TFDS builder of Tiny-ImageNet from its original zip, or from the unpacked folder."""

import collections
import io
import os
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from PIL import Image

from imae_jax.data.builders import download
from imae_jax.errors import UserError

# The publishers give no digest; this is the MD5 that other projects use.
ARCHIVE = download.Archive(
    url="http://cs231n.stanford.edu/tiny-imagenet-200.zip",
    size=248_100_043,
    digest="md5:90528d7ca1a48142e341f4ef8d21d0de",
)
FOLDER = "tiny-imagenet-200"
SIZE = (64, 64)


class _Files:
    """Files of the unpacked archive, by their names inside `tiny-imagenet-200/`."""

    def __init__(self, path: Path, names: Iterable[str]):
        self.path = path
        self.names = set(names)
        self._images = collections.defaultdict(set)
        for name in self.names:
            folder, _, file = name.rpartition("/")
            if file.endswith(".JPEG") and not file.startswith("."):
                self._images[folder].add(file)

    def read(self, name: str) -> bytes:
        """Reads a file."""
        return (self.path / name).read_bytes()

    def lines(self, name: str) -> list[str]:
        """Reads the lines of a text file; raises UserError if it is missing."""
        if name not in self.names:
            raise UserError(f"{name} is missing in {self.path}")
        return self.read(name).decode(errors="replace").splitlines()

    def images(self, folder: str) -> set[str]:
        """Names of the images directly in `folder`."""
        return self._images[folder]

    def image(self, name: str) -> io.BytesIO:
        """Reads an encoded image; raises UserError if it does not decode to 64x64.

        Grey images stay as they are: TFDS repeats their channel when reading.
        """
        data = self.read(name)
        try:
            with Image.open(io.BytesIO(data)) as image:
                image.load()
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise UserError(f"{name} in {self.path} is damaged: {error}") from error
        if image.size != SIZE or image.mode not in ("RGB", "L"):
            raise UserError(
                f"{name} in {self.path} is {image.mode} of {image.width}x{image.height} "
                "pixels, should be RGB or grey of 64x64"
            )
        return io.BytesIO(data)


class _ZippedFiles(_Files):
    """Files of the zip; raises UserError if it is damaged."""

    def __init__(self, path: Path):
        with download.reading(path):
            self._zip = zipfile.ZipFile(path)
        inside = f"{FOLDER}/"
        names = (name for name in self._zip.namelist() if name.startswith(inside))
        super().__init__(path, (name.removeprefix(inside) for name in names))

    def read(self, name: str) -> bytes:
        with download.reading(self.path):
            return self._zip.read(f"{FOLDER}/{name}")


def _open(data_dir: Path) -> _Files:
    # The zip is preferred: it has checksums.
    root = data_dir / FOLDER
    if not root.is_dir() or (data_dir / ARCHIVE.filename).exists():
        return _ZippedFiles(download.find(data_dir, ARCHIVE))
    paths = (Path(top, file) for top, _, files in os.walk(root) for file in files)
    return _Files(root, (path.relative_to(root).as_posix() for path in paths))


def _classes(files: _Files) -> list[str]:
    """Sorted WNIDs; labels are indices into them."""
    wnids = {line.strip() for line in files.lines("wnids.txt")} - {""}
    if not wnids:
        raise UserError(f"wnids.txt in {files.path} is empty")
    return sorted(wnids)


def class_names(wnids: Sequence[str], words: Mapping[str, str]) -> list[str]:
    """Readable and unique names of classes.

    Args:
      wnids: WordNet identifiers, such as `n01443537`.
      words: known synonyms by WNID, such as `goldfish, Carassius auratus`.
    Returns:
      The first synonym; `goldfish (n01443537)` if several classes share it; the WNID if
      there is none.
    """
    firsts = [words.get(wnid, wnid).split(",")[0].strip() for wnid in wnids]
    count = collections.Counter(firsts)
    return [
        first if count[first] == 1 else f"{first} ({wnid})"
        for first, wnid in zip(firsts, wnids, strict=True)
    ]


def _train(files: _Files, wnids: Sequence[str]) -> dict[str, int]:
    """Returns {image: label}; raises UserError for a class with missing images."""
    labels: dict[str, int] = {}
    for label, wnid in enumerate(wnids):
        folder = f"train/{wnid}"
        images = files.images(f"{folder}/images")
        if not images:
            raise UserError(
                f"{folder}/images in {files.path} holds no images, but {wnid} is in "
                "wnids.txt"
            )
        # The only way to notice an incompletely unpacked folder.
        boxes = f"{folder}/{wnid}_boxes.txt"
        for number, line in enumerate(
            files.lines(boxes) if boxes in files.names else (), 1
        ):
            file = line.split("\t")[0].strip()
            if file and file not in images:
                raise UserError(
                    f"{boxes} in {files.path}, line {number}: {folder}/images/{file} does "
                    "not exist"
                )
        labels |= {f"{folder}/images/{file}": label for file in sorted(images)}
    return labels


def _validation(files: _Files, wnids: Sequence[str]) -> dict[str, int]:
    """Returns {image: label}; raises UserError if images and annotations do not match."""
    annotations, folder = "val/val_annotations.txt", "val/images"
    images = files.images(folder)
    known = {wnid: label for label, wnid in enumerate(wnids)}
    labels = {}
    for number, line in enumerate(files.lines(annotations), 1):
        if not line.strip():
            continue
        file, wnid = (*line.split("\t"), "")[:2]
        image = f"{folder}/{file}"
        if wnid not in known:
            what = f"class {wnid!r} is not in wnids.txt"
        elif file not in images:
            what = f"{image} does not exist"
        elif image in labels:
            what = f"{file} has a line already"
        else:
            labels[image] = known[wnid]
            continue
        raise UserError(f"{annotations} in {files.path}, line {number}: {what}")
    for file in sorted(images):
        if f"{folder}/{file}" not in labels:
            raise UserError(f"{annotations} in {files.path} has no line for {file}")
    if not labels:
        raise UserError(f"{annotations} in {files.path} is empty")
    return labels


class TinyImagenet(download.FromArchive, tfds.core.GeneratorBasedBuilder):
    """Tiny-ImageNet: 64x64x3 images of 200 classes, 500 + 50 of each.

    Prepared from `tiny-imagenet-200.zip` or `tiny-imagenet-200/` in `archive_dir`; see
    `download.find`. Fewer classes or images in the same layout work too. The original's
    test images have no labels and are left out. JPEG files are kept unchanged.
    """

    VERSION = tfds.core.Version("1.0.0")
    FORM = ((64, 64, 3), 200, 100_000)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(*SIZE, 3), encoding_format="jpeg"),
                    "label": tfds.features.ClassLabel(),  # named when the archive is read
                    "filename": tfds.features.Text(),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="http://cs231n.stanford.edu/tiny-imagenet-200.zip",
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        del dl_manager  # our download gives advice if there is no network
        files = _open(Path(self.archive_dir))
        wnids = _classes(files)
        lines = files.lines("words.txt") if "words.txt" in files.names else []
        words = dict(line.split("\t", 1) for line in lines if "\t" in line)
        self.info.features["label"].names = class_names(wnids, words)
        # Check both splits before writing either.
        splits = {"train": _train(files, wnids), "validation": _validation(files, wnids)}
        return {
            split: self._generate_examples(files, labels)
            for split, labels in splits.items()
        }

    def _generate_examples(
        self, files: _Files, labels: Mapping[str, int]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        for image, label in labels.items():
            filename = image.rpartition("/")[-1]
            file = files.image(image)
            yield image, {"image": file, "label": label, "filename": filename}
