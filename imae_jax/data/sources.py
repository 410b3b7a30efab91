"""Data sets behind one random-access interface, free of TensorFlow."""

import dataclasses
import difflib
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from imae_jax.data import cache, prepared
from imae_jax.data.folder import Listing, list_folder, list_imagenet
from imae_jax.data.images import EncodedImages, decode_all
from imae_jax.errors import UserError
from imae_jax.paths import local_path

# Read in place; every other name is one of `prepared.BUILDERS`.
FOLDERS = {"imagenet2012": list_imagenet, "folder": list_folder}
# Mean and deviation of files are taken from this many images, evenly spaced: that is
# exact to a thousandth, and the whole of ImageNet would take hours.
NUM_FOR_STATISTICS = 10_000


@dataclasses.dataclass(frozen=True)
class Split:
    """Images and what is known of them.

    Attributes:
      images: [N, H, W, C] uint8, or as many encoded files.
      labels: [N] int64; -1 where there are none.
      factors: other known numbers, [N] each, by name: int of categories, float of
        quantities.
    """

    images: np.ndarray | EncodedImages
    labels: np.ndarray
    factors: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def take(self, indices: np.ndarray) -> "Split":
        """The examples at `indices`; the images must be an array."""
        factors = {name: values[indices] for name, values in self.factors.items()}
        return Split(self.images[indices], self.labels[indices], factors)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set.

    Attributes:
      splits: `train`, and `validation` or `test` or both, as they were published.
      mean, std: [C] float32, of the train split's pixels in 0..255.
      class_names: one name per label; empty where there are no labels.
      path: where it lies.
      num_skipped: images that could not be used and are left out.
      published: of a data set in `parts`, the published split that each comes from.
      symmetry: which factors are angles, in radians, and how often a full turn brings each
        class back onto itself: n times tells the angle modulo 2 pi / n, 0 not at all.
    """

    splits: Mapping[str, Split]
    mean: np.ndarray
    std: np.ndarray
    class_names: tuple[str, ...]
    path: Path | None = None
    num_skipped: int = 0
    published: Mapping[str, str] = dataclasses.field(default_factory=dict)
    symmetry: Mapping[str, Sequence[int]] = dataclasses.field(default_factory=dict)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return self.splits["train"].images.shape[1:]

    @property
    def sizes(self) -> dict[str, int]:
        """Images in each split."""
        return {name: len(split.images) for name, split in self.splits.items()}


def check_known(name: str, files: Mapping | None) -> None:
    """Raises UserError for an unknown data set, or a folder without `files`."""
    known = (*prepared.BUILDERS, *FOLDERS)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        raise UserError(
            f"data.name={name!r} is not a known data set; "
            + (f"did you mean {near[0]!r}? " if near else "")
            + f"known: {', '.join(known)}"
        )
    if name in FOLDERS and files is None:
        raise UserError(f"data.name={name!r} needs a section data.files, as its preset has")


def load(
    name: str,
    data_dir: str,
    *,
    on_bad_image: str = "raise",
    files: Mapping | None = None,
    min_side: int = 1,
) -> Dataset:
    """Opens a data set, preparing it in `data_dir` first where that was not done yet.

    Args:
      name: one of `prepared.BUILDERS` or FOLDERS.
      data_dir: where it lies, or is made.
      on_bad_image: "raise" or "skip".
      files: of a folder of images, `image_size`, `channels` and `centre`, see
        `EncodedImages`.
      min_side: the least height and width, in pixels, of an image that can be used.
    Raises:
      UserError: if the data set is unknown, missing, damaged, or cannot be prepared.
    """
    check_known(name, files)
    root = local_path(data_dir, "data.dir")
    if name in prepared.BUILDERS:
        return _in_memory(name, prepared.prepare(name, root), on_bad_image)
    copy = prepared.find_copy(name, root)
    if copy:
        records = prepared.Records(copy)
        splits, class_names = _of_records(records, files, min_side), records.class_names
        stamps = records.fingerprint()
    else:
        listing = _list(name, root)
        splits, class_names = _of_files(listing, files, min_side), listing.class_names
        names = listing.files["train"]
        stats = [(root / names[i]).stat() for i in _sample(len(names))]
        stamps = [[stat.st_size, stat.st_mtime_ns] for stat in stats]
    images = splits["train"].images
    mean, std, skipped = _sampled_statistics(images, on_bad_image, stamps)
    return Dataset(splits, mean, std, class_names, copy or root, skipped)


def statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of [N, H, W, C] uint8 pixels, [C] float32 each.

    The deviation of a channel that never varies is given as 1, to be divided by.
    """
    # Through counts of the 256 values: exact, and in little memory.
    counts = np.zeros((images.shape[-1], 256), np.int64)
    for start in range(0, len(images), 256):
        part = images[start : start + 256]
        for c in range(images.shape[-1]):
            counts[c] += np.bincount(part[..., c].reshape(-1), minlength=256)
    values = np.arange(256.0)
    total = counts.sum(axis=1)
    mean = counts @ values / total
    variance = counts @ values**2 / total - mean**2
    std = np.sqrt(np.where(variance > 1e-6, variance, 1.0))
    return mean.astype(np.float32), std.astype(np.float32)


def _in_memory(name: str, folder: Path, on_bad_image: str) -> Dataset:
    """A prepared data set of small images, decoded once and for all."""
    records = prepared.Records(folder)

    def make() -> dict[str, np.ndarray]:
        print(f"{name}: decoding images", flush=True)
        arrays, skipped = {}, 0
        for split in records.splits:
            count, columns = records.size(split), records.columns(split)
            images = EncodedImages(
                names=[f"{folder}: {split} example {i}" for i in range(count)],
                read=records.reader(split),
                size=records.image_shape[:2],
                channels=records.image_shape[2],
                min_side=1,
                centre=1.0,
            )
            found, good = decode_all(images, np.arange(count), on_bad_image)
            skipped += count - len(good)
            arrays[f"{split}.image"] = found
            for column, values in columns.items():
                arrays[f"{split}.{column}"] = values[good]
        mean, std = statistics(arrays["train.image"])
        return arrays | dict(mean=mean, std=std, skipped=np.array(skipped))

    key = ["decoded", name, records.fingerprint(), on_bad_image]
    arrays = dict(cache.cached(key, make))
    mean, std, skipped = (np.asarray(arrays.pop(x)) for x in ("mean", "std", "skipped"))
    splits = {}
    for split in records.splits:
        own = {
            key.removeprefix(f"{split}."): array
            for key, array in arrays.items()
            if key.startswith(f"{split}.")
        }
        splits[split] = Split(own.pop("image"), own.pop("label"), own)
    symmetry = prepared.SYMMETRY.get(name, {})
    return Dataset(
        splits,
        mean,
        std,
        records.class_names,
        folder,
        int(skipped),
        symmetry=symmetry,
    )


def _list(name: str, root: Path) -> Listing:
    try:
        return FOLDERS[name](root)
    except UserError as error:
        if name != "imagenet2012":
            raise
        raise UserError(
            f"{error}. (Or it holds imagenet2012/<version>/, prepared by TFDS as "
            "array_record; for that, TFDS needs TensorFlow and the original archives)"
        ) from None


def _encoded(names, read, files: Mapping, min_side: int) -> EncodedImages:
    size = (files["image_size"], files["image_size"])
    return EncodedImages(names, read, size, files["channels"], min_side, files["centre"])


def _of_files(listing: Listing, files: Mapping, min_side: int) -> dict[str, Split]:
    """The splits of a folder of images."""
    splits = {}
    for split, names in listing.files.items():

        def read(index: int, names=names) -> bytes:
            return (listing.root / names[index]).read_bytes()

        shown = [str(listing.root / name) for name in names]
        images = _encoded(shown, read, files, min_side)
        splits[split] = Split(images, listing.labels[split])
    return splits


def _of_records(
    records: prepared.Records, files: Mapping, min_side: int
) -> dict[str, Split]:
    """The splits of a prepared copy of large images."""
    splits = {}
    for split in records.splits:
        if split == "test":  # ImageNet's has no labels
            continue

        def columns_of(split=split):
            print(f"reading the labels of {split}, once", flush=True)
            return records.columns(split)

        key = ["columns", split, records.fingerprint()]
        columns = dict(cache.cached(key, columns_of))
        count = records.size(split)
        names = [f"{records.folder}: {split} example {i}" for i in range(count)]
        images = _encoded(names, records.reader(split), files, min_side)
        splits[split] = Split(images, np.asarray(columns.pop("label")), columns)
    return splits


def _sample(count: int) -> np.ndarray:
    """The images whose pixels are counted, [n] indices."""
    number = min(count, NUM_FOR_STATISTICS)
    return np.linspace(0, count - 1, number).round().astype(int)


def _sampled_statistics(images: EncodedImages, on_bad_image: str, stamps: list):
    """Mean, deviation, and how many of the sampled images could not be used.

    `stamps` tells these files from others of the same names.
    """
    indices = _sample(len(images))
    names = hashlib.sha256(
        "\n".join(images.names).encode(errors="surrogateescape")
    ).hexdigest()
    form = [images.size, images.channels, images.min_side, images.centre, on_bad_image]

    def make() -> dict[str, np.ndarray]:
        counted = f"{len(indices):,} of {len(images):,} images"
        print(f"mean and deviation of pixels, from {counted}", flush=True)
        found, good = decode_all(images, indices, on_bad_image)
        if not len(good):
            raise UserError(f"none of {counted} can be used")
        mean, std = statistics(found)
        return dict(mean=mean, std=std, skipped=np.array(len(indices) - len(good)))

    found = cache.cached(["statistics", names, stamps, form], make)
    return np.asarray(found["mean"]), np.asarray(found["std"]), int(found["skipped"])
