"""Loads data sets by name, without TensorFlow."""

import difflib
import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from imae_jax.data import disk_cache, image_files, prepared_folders, tfds_records
from imae_jax.data.builders.registry import BUILDERS, SYMMETRY
from imae_jax.data.dataset import Dataset, Split
from imae_jax.data.encoded_images import NUM_THREADS, EncodedImages, decode_all
from imae_jax.errors import UserError
from imae_jax.storage.local_paths import local_path

logger = logging.getLogger(__name__)

# Pixel statistics of image files use this many evenly spaced images: accurate to a
# thousandth, where all of ImageNet would take hours.
NUM_FOR_STATISTICS = 10_000
# Images up to this size are decoded by one thread, which is faster than several.
SMALL_PIXELS = 64 * 64


def check_known(name: str, files: Mapping | None) -> None:
    """Raises UserError for an unknown data set, or a folder without `files`."""
    known = (*BUILDERS, *image_files.FOLDERS)
    is_named = name.startswith(image_files.TFDS)
    if name not in known and not is_named:
        near = difflib.get_close_matches(name, known, n=1)
        raise UserError(
            f"data.name={name!r} is not a known data set; "
            + (f"did you mean {near[0]!r}? " if near else "")
            + f"known: {', '.join(known)}, {image_files.TFDS}NAME"
        )
    if name not in BUILDERS and files is None:
        raise UserError(f"data.name={name!r} needs a section data.files, as its preset has")


def load(
    name: str,
    data_dir: str,
    *,
    on_bad_image: str = "raise",
    files: Mapping | None = None,
    min_side: int = 1,
) -> Dataset:
    """Opens a data set, preparing it in `data_dir` first if necessary.

    Args:
      name: a key of `registry.BUILDERS` or `image_files.FOLDERS`, or "tfds:NAME".
      data_dir: folder of the data set, or where it is prepared.
      on_bad_image: "raise" or "skip".
      files: `image_size`, `channels`, `centre` and `background` of `EncodedImages`, and
        `label_maps`, their folder; unused for `registry.BUILDERS`.
      min_side: smallest usable height and width in pixels.
    Raises:
      UserError: if the data set is unknown, missing, damaged, or cannot be prepared.
    """
    check_known(name, files)
    root = local_path(data_dir, "data.dir")
    if name in BUILDERS:
        return _in_memory(name, prepared_folders.prepare(name, root), on_bad_image)
    assert files is not None, "see `check_known`"
    return of_files(image_files.open_files(name, root, files, min_side), on_bad_image)


def of_files(found: image_files.Opened, on_bad_image: str) -> Dataset:
    """Makes a `Dataset` of opened files, with pixel statistics of a sample."""
    images = found.splits["train"].images
    assert isinstance(images, EncodedImages), "see `Opened`"
    mean, std, skipped = _sampled_statistics(images, on_bad_image, found.stamps)
    return Dataset(
        found.splits,
        mean,
        std,
        found.class_names,
        found.path,
        skipped,
        ignored=found.ignored,
        pixel_classes=found.pixel_classes,
    )


def statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of [N, H, W, C] uint8 pixels, [C] float32 each.

    The std of a constant channel is 1.
    """
    # From histograms of the 256 values: exact, and with little memory.
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
    """Loads a prepared data set of small images as arrays, decoded once and cached."""
    records = tfds_records.Records(folder)

    def make() -> dict[str, np.ndarray]:
        logger.info(f"{name}: decoding images")
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
            is_small = np.prod(records.image_shape[:2]) <= SMALL_PIXELS
            threads = 1 if is_small else NUM_THREADS
            found, good = decode_all(images, np.arange(count), on_bad_image, threads)
            skipped += count - len(good)
            arrays[f"{split}.image"] = found
            if records.pixel_classes:
                arrays[f"{split}.label_map"] = records.label_maps(split)[good]
            for column, values in columns.items():
                arrays[f"{split}.{column}"] = values[good]
        mean, std = statistics(arrays["train.image"])
        return arrays | dict(mean=mean, std=std, skipped=np.array(skipped))

    key = ["decoded", name, records.fingerprint(), on_bad_image]
    arrays = dict(disk_cache.cached(key, make))
    mean, std, skipped = (np.asarray(arrays.pop(x)) for x in ("mean", "std", "skipped"))
    splits = {}
    for split in records.splits:
        own = {
            key.removeprefix(f"{split}."): array
            for key, array in arrays.items()
            if key.startswith(f"{split}.")
        }
        images, labels = own.pop("image"), own.pop("label")
        maps = own.pop("label_map") if records.pixel_classes else None
        splits[split] = Split(images, labels, own, maps)
    symmetry = SYMMETRY.get(name, {})
    return Dataset(
        splits,
        mean,
        std,
        records.class_names,
        folder,
        int(skipped),
        symmetry=symmetry,
        pixel_classes=records.pixel_classes,
    )


def _sampled_statistics(
    images: EncodedImages, on_bad_image: str, stamps: list
) -> tuple[np.ndarray, np.ndarray, int]:
    """Mean, std and number of unusable images of a sample, cached.

    `stamps` is the fingerprint of the files.
    """
    indices = image_files.sample(len(images), NUM_FOR_STATISTICS)
    names = hashlib.sha256(
        "\n".join(images.names).encode(errors="surrogateescape")
    ).hexdigest()
    form = [images.size, images.channels, images.min_side, images.centre]
    form += [images.background, on_bad_image]

    def make() -> dict[str, np.ndarray]:
        counted = f"{len(indices):,} of {len(images):,} images"
        logger.info(f"mean and std of pixels, from {counted}")
        found, good = decode_all(images, indices, on_bad_image)
        if not len(good):
            raise UserError(f"none of {counted} can be used")
        mean, std = statistics(found)
        return dict(mean=mean, std=std, skipped=np.array(len(indices) - len(good)))

    found = disk_cache.cached(["statistics", names, stamps, form], make)
    return np.asarray(found["mean"]), np.asarray(found["std"]), int(found["skipped"])
