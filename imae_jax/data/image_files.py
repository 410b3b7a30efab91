"""Opens images of any size in place: folders, and data sets prepared by TFDS."""

import dataclasses
import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from imae_jax.data import (
    disk_cache,
    folder_layouts,
    label_maps,
    prepared_folders,
    tfds_records,
)
from imae_jax.data.dataset import Split
from imae_jax.data.encoded_images import EncodedImages, parse_size
from imae_jax.data.image_folder import (
    NO_LABEL,
    Listing,
    list_folder,
    list_imagenet,
    set_aside,
)
from imae_jax.errors import UserError, require
from imae_jax.storage.local_paths import local_path

logger = logging.getLogger(__name__)

FOLDERS = {"imagenet2012": list_imagenet, "folder": list_folder}
# Prefix of the name of a data set prepared by TFDS.
TFDS = "tfds:"
NAME = re.compile(r"(?P<name>\w+)(/(?P<config>[\w.+-]+))?(:(?P<version>\d+\.\d+\.\d+))?")
# Number of files whose size and time are part of a folder's fingerprint.
NUM_STAMPS = 10_000


class Opened(NamedTuple):
    """An opened data set; no image is decoded yet.

    Attributes:
      splits: `train`, and `validation` or `test` or both; all encoded.
      class_names: one name per label; empty if there are no labels.
      path: folder of the data set.
      stamps: fingerprint of the content, JSON-serializable.
      ignored: {file extension: number of files that are not images}.
      pixel_classes: names of the values of label maps; empty if there are no label maps.
    """

    splits: Mapping[str, Split]
    class_names: tuple[str, ...]
    path: Path
    stamps: list
    ignored: Mapping[str, int]
    pixel_classes: tuple[str, ...] = ()


def open_files(name: str, root: Path, files: Mapping[str, Any], min_side: int) -> Opened:
    """Opens a data set of `FOLDERS` or "tfds:NAME"; see `load.load`."""
    form = dict(
        size=parse_size(files["image_size"], "data.files.image_size"),
        channels=files["channels"],
        min_side=min_side,
        centre=files["centre"],
        # Missing in the configs of older runs.
        background=files.get("background"),
    )
    # Missing in the configs of older runs.
    maps = files.get("label_maps") or ""
    copy = None
    if name.startswith(TFDS):
        copy = find_named(name, root)
    elif name != "folder":
        copy = prepared_folders.find_copy(name, root)
    if copy is None:
        return _with_label_maps(_list(name, root), form, maps)
    require(not maps, label_maps.KEY, maps, f"empty: {name} is not read from image files")
    if name.startswith(TFDS):
        return _of_named(tfds_records.Records(copy, is_ours=False), form)
    return _of_imagenet(tfds_records.Records(copy), form)


def sample(count: int, most: int) -> np.ndarray:
    """Chooses at most `most` of `count` positions, evenly spaced: [n] int."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int)


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


def _stamp(path: Path) -> list[int]:
    """Size and modification time of a file, or of the link itself if it is broken."""
    stat = os.stat(path) if path.exists() else os.lstat(path)
    return [stat.st_size, stat.st_mtime_ns]


def _of_files(listing: Listing, form: Mapping[str, Any]) -> Opened:
    splits = {}
    for split, names in listing.files.items():

        def read(index: int, names: Sequence[str] = names) -> bytes:
            return (listing.root / names[index]).read_bytes()

        shown = [str(listing.root / name) for name in names]
        splits[split] = Split(EncodedImages(shown, read, **form), listing.labels[split])
    names = listing.files["train"]
    stamps = [_stamp(listing.root / names[i]) for i in sample(len(names), NUM_STAMPS)]
    fixed = listing.class_names, listing.root, stamps, listing.ignored
    return Opened(splits, *fixed)


def _with_label_maps(listing: Listing, form: Mapping[str, Any], given: str) -> Opened:
    """Opens files, with the label maps in the folder `given`; empty: without."""
    opened = _of_files(listing, form)
    if not given:
        return opened
    folder = local_path(given, label_maps.KEY)
    classes = label_maps.read_classes(folder, listing.root)
    paths = label_maps.paths_beside(folder, listing.files)
    splits = {}
    for name, split in opened.splits.items():
        assert isinstance(split.images, EncodedImages), "see `Opened`"
        maps = label_maps.EncodedLabelMaps(split.images, paths[name], len(classes))
        splits[name] = dataclasses.replace(split, label_maps=maps)
    return opened._replace(splits=splits, pixel_classes=classes)


def _images(
    records: tfds_records.Records, split: str, form: Mapping, indices: Sequence[int]
) -> EncodedImages:
    names = [f"{records.folder}: {split} example {i}" for i in indices]
    reader = records.reader(split)
    return EncodedImages(names, lambda index: reader(indices[index]), **form)


def _columns(
    records: tfds_records.Records, split: str, label: str
) -> dict[str, np.ndarray]:
    """Cached `tfds_records.Records.columns`."""

    def make() -> Mapping[str, np.ndarray]:
        logger.info(f"reading the labels of {split}, once")
        return records.columns(split)

    return dict(disk_cache.cached(["columns", split, label, records.fingerprint()], make))


def _of_imagenet(records: tfds_records.Records, form: Mapping[str, Any]) -> Opened:
    splits = {}
    for split in records.splits:
        if split == "test":  # has no labels
            continue
        columns = _columns(records, split, "label")
        images = _images(records, split, form, range(records.size(split)))
        splits[split] = Split(images, np.asarray(columns.pop("label")), columns)
    return Opened(splits, records.class_names, records.folder, records.fingerprint(), {})


def find_named(name: str, data_dir: Path) -> Path:
    """Finds the folder of "tfds:NAME", "tfds:NAME/CONFIG" or either with ":VERSION".

    Defaults: the newest version and the only config.

    Raises:
      UserError: if there is no such data set in `data_dir`, or several configs of it.
    """
    parts = NAME.fullmatch(name.removeprefix(TFDS))
    if parts is None:
        allowed = "tfds:NAME, tfds:NAME/CONFIG, or either with :VERSION such as :3.0.0"
        raise UserError(f"invalid data.name={name!r}: must be {allowed}")
    folder = data_dir / parts["name"]
    if parts["config"]:
        folder = folder / parts["config"]
    found = prepared_folders.versions(folder)
    if not found and not parts["config"]:
        configs = [
            path for path in sorted(folder.glob("*/")) if prepared_folders.versions(path)
        ]
        if len(configs) > 1:
            known = ", ".join(f"{TFDS}{parts['name']}/{path.name}" for path in configs)
            raise UserError(f"{folder} holds several configs: name one of {known}")
        found = prepared_folders.versions(configs[0]) if configs else {}
    if not found:
        raise UserError(
            f"data.dir={str(data_dir)!r} holds no {folder.relative_to(data_dir)} that is "
            "prepared: give the folder that holds it, or have TFDS (which needs TensorFlow "
            f"for that) make it: tfds build {parts['name']} --file_format=array_record "
            "--data_dir=DIR"
        )
    version = parts["version"]
    wanted = (
        max(found) if version is None else next((x for x in found if x == version), None)
    )
    if wanted is None:
        known = ", ".join(str(x) for x in sorted(found))
        raise UserError(f"{folder} has no version {version}; there are {known}")
    return found[wanted]


def _split_names(records: tfds_records.Records) -> dict[str, str]:
    """Maps `train`, `validation` and `test` to published splits; logs unused ones."""
    known = [name for name in records.splits if records.size(name)]
    found = {name: name for name in folder_layouts.SPLITS if name in known}
    for name in known:
        found.setdefault(folder_layouts.split_of(name) or name, name)
    if "train" not in found:
        splits = ", ".join(records.splits)
        raise UserError(f"{records.folder} has no split train, only {splits}")
    found = {split: found[split] for split in folder_layouts.SPLITS if split in found}
    others = [name for name in known if name not in found.values()]
    if others:
        logger.info(f"{records.folder}: not read, beside train: {', '.join(others)}")
    return found


def _of_named(records: tfds_records.Records, form: Mapping[str, Any]) -> Opened:
    """Opens any data set prepared by TFDS.

    Raises:
      UserError: if it has no images to train on, or a label outside its classes.
    """
    names, labels = _split_names(records), {}
    for split, name in list(names.items()):
        own = np.asarray(_columns(records, name, "found")["label"])
        if split != "train" and records.class_names and (own == NO_LABEL).all():
            logger.info(f"{records.folder}: {name} is left out, its images have no labels")
            del names[split]
        else:
            labels[split] = own
    indices: dict[str, Sequence[int]]
    indices = {split: range(len(own)) for split, own in labels.items()}
    if len(indices) == 1:
        divided = set_aside(indices["train"], labels["train"], records.folder)
        indices, labels = {**divided[0]}, divided[1]
    splits = {
        split: Split(
            _images(records, names.get(split, names["train"]), form, indices[split]),
            labels[split],
        )
        for split in indices
    }
    has_labels = (labels["train"] != NO_LABEL).all()
    class_names = records.class_names if has_labels else ()
    return Opened(splits, class_names, records.folder, records.fingerprint(), {})
