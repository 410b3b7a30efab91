"""Lists the images, splits and classes of a folder.

The folder holds `train/` beside `val/` (or `validation/`) and `test/`, or has no splits.
Each split holds one folder per class, or images without classes. `folder_layouts`
recognizes further variants.
"""

import dataclasses
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from imae_jax.data import folder_layouts
from imae_jax.data.folder_layouts import SPLITS, Folder
from imae_jax.errors import UserError

logger = logging.getLogger(__name__)

MIN_TEST = 2
MIN_IMAGES = 2 + MIN_TEST  # two to train on
TEST_SHARE = 10  # one image in ten is set aside for testing if there is no test split
NO_LABEL = -1


@dataclasses.dataclass(frozen=True)
class Listing:
    """Images of a folder by split.

    Attributes:
      root: the folder.
      files: {split: sorted paths relative to `root`}.
      labels: {split: [N] int64, indices into `class_names`; -1 without classes}.
      class_names: names of the class folders, sorted; empty without classes.
      ignored: {file extension: number of files that are not images}.
    """

    root: Path
    files: Mapping[str, list[str]]
    labels: Mapping[str, np.ndarray]
    class_names: tuple[str, ...]
    ignored: Mapping[str, int] = dataclasses.field(default_factory=dict)


def _no_image(folder: Folder) -> str:
    ignored = folder_layouts.as_words(folder.ignored())
    return f"holds no image{f' (what it holds: {ignored})' if ignored else ''}"


def _check_classes(folder: Folder, where: Path) -> None:
    """Raises UserError if the class folders are ambiguous or empty."""
    names, classes = folder_layouts.names_of(folder.classes), folder.classes
    if folder.images:
        raise UserError(
            f"{where} holds both class folders ({classes[0].name}, ...) and "
            f"{len(folder.images)} images beside them ({folder.images[0]}, ...): which "
            "class are these?"
        )
    for empty in folder.folders:
        if not empty.has_images:
            raise UserError(
                f"class folder {where / empty.name} {_no_image(empty)}; if it is no class, "
                "move it away"
            )
    holders = [x.name for x in classes if folder_layouts.HOLDERS.fullmatch(x.name)]
    if holders and len(classes) > 1:
        raise UserError(
            f"{where} holds {names}, which are no classes by their names: give the folder "
            f"of the images themselves, {where / holders[0]}"
        )
    splits = [x for x in classes if _is_split(x)]
    if splits:
        others = folder_layouts.names_of(x for x in classes if x not in splits)
        beside = f" beside {others}" if others else ""
        raise UserError(
            f"{where} holds {folder_layouts.names_of(splits)}{beside}: lay the images "
            f"out as train/CLASS and test/CLASS, or give {splits[0].name} another name if "
            "it is a class"
        )
    if all(not x.images and all(map(_is_split, x.classes)) for x in classes):
        parts = folder_layouts.names_of(classes[0].classes)
        raise UserError(
            f"{where}: each class ({names}) is divided into {parts}, which is not read: "
            "divide first, as train/CLASS and test/CLASS"
        )


def _is_split(folder: Folder) -> bool:
    return folder_layouts.split_of(folder.name) is not None


def _say_classes(folder: Folder, where: Path) -> None:
    """Logs possible mistakes: a single class, and folders inside the class folders."""
    classes = folder.classes
    if len(classes) == 1:
        logger.info(f"{where}: one class only, {classes[0].name}")
    deeper = [x for x in classes if not x.images and len(x.classes) > 1]
    if deeper and not any(x.images for x in classes):
        inside = f"{deeper[0].name}/{deeper[0].classes[0].name}"
        logger.info(
            f"{where}: its classes are {folder_layouts.names_of(classes)}; folders within "
            f"them ({inside}, ...) are not told apart"
        )


def _list_split(
    root: Path, folder: Folder, class_names: tuple[str, ...] | None
) -> tuple[list[str], np.ndarray, tuple[str, ...]]:
    """Lists files, labels and class names of a split; None: its class names define them."""
    where = root / folder.path
    names = [part.name for part in folder.classes]
    if bool(names) != bool(class_names) and class_names is not None:
        have = "no class folders" if class_names else f"class folders ({names[0]}, ...)"
        other = "has" if class_names else "has none"
        raise UserError(f"{where} has {have}, but the training images' folder {other}")
    if not names:
        if folder.folders:
            others = folder_layouts.names_of(folder.folders)
            logger.info(f"{where}: not read, beside its images: {others}")
        files = [os.path.join(folder.path, name) for name in folder.images]
        return files, np.full(len(files), NO_LABEL), ()
    _check_classes(folder, where)
    known = class_names or tuple(names)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UserError(f"{where}/{unknown[0]} is a class that no training image has")
    if class_names is None:
        _say_classes(folder, where)
    files, labels = [], []
    for part in folder.classes:
        own = part.all_images()
        files += own
        labels += [known.index(part.name)] * len(own)
    return files, np.array(labels, np.int64), known


def _open(root: Path) -> tuple[Folder, dict[str, Folder]]:
    """Scans the folder; returns it and the folder of each split."""
    if not root.is_dir():
        what = "a file: unpack it, and give the folder" if root.exists() else "no folder"
        raise UserError(f"data.dir={str(root)!r} is {what}")
    whole = folder_layouts.scan(root)
    folder = folder_layouts.inner(whole, root, may_be_divided=True)
    return whole, folder_layouts.split_folders(folder, root)


def list_folder(root: Path, splits: Sequence[str] = tuple(SPLITS)) -> Listing:
    """Lists the images of a folder, laid out as in the module's docstring.

    Without a second split, one image in ten is set aside for testing (deterministic).

    Raises:
      UserError: if there is no such folder or no image in it, a class folder is empty, or
        the classes of its splits differ.
    """
    return _list(root, *_open(root), splits)


def _list(
    root: Path, whole: Folder, folders: Mapping[str, Folder], splits: Sequence[str]
) -> Listing:
    files, labels = {}, {}
    class_names: tuple[str, ...] | None = None
    for split in splits:
        if split not in folders:
            continue
        folder = folder_layouts.inner(folders[split], root)
        where = root / folder.path
        if not folder.has_images:
            raise UserError(f"{where} {_no_image(folder)}")
        if split == "test" and class_names and not folder.classes:
            logger.info(f"{where} is left out: its images have no class folders")
            continue
        files[split], labels[split], names = _list_split(root, folder, class_names)
        class_names = names if class_names is None else class_names
    if len(files) == 1:
        files, labels = set_aside(files["train"], labels["train"], root)
    return Listing(root, files, labels, class_names or (), whole.ignored())


def set_aside(
    files: Sequence, labels: np.ndarray, where: Path
) -> tuple[dict[str, list], dict[str, np.ndarray]]:
    """Sets one image in ten aside as `test`, deterministically and stratified by class.

    The only image of a class stays in `train`.

    Args:
      files: the N images.
      labels: [N] int64.
      where: folder of the images, for messages.
    Returns:
      {`train`, `test`: images}, and {`train`, `test`: their labels}.
    Raises:
      UserError: if there are too few images, in all or to set aside.
    """
    if len(files) < MIN_IMAGES:
        raise UserError(
            f"{where} holds {len(files)} images; it takes at least {MIN_IMAGES}, since "
            "some are set aside for testing"
        )
    # RandomState: its stream is frozen across NumPy versions.
    order = np.random.RandomState(0).permutation(len(files))
    # Stratified: every class in turn.
    order = order[np.argsort(labels[order], kind="stable")]
    every = min(TEST_SHARE, len(files) // 2)
    is_test = np.zeros(len(files), bool)
    is_test[order[every - 1 :: every]] = True
    # A class that is never trained on could not be recognized.
    is_test &= np.isin(labels, labels[~is_test])
    count = int(is_test.sum())
    if count < MIN_TEST:
        raise UserError(
            f"{where}: {folder_layouts.counted(count, 'image')} can be set aside for "
            f"testing, and it takes {MIN_TEST}, since the only image of a class is trained "
            "on: add images, or divide them yourself into train and test"
        )
    parts = {"train": np.flatnonzero(~is_test), "test": np.flatnonzero(is_test)}
    divided = {name: [files[i] for i in part.tolist()] for name, part in parts.items()}
    return divided, {name: labels[part] for name, part in parts.items()}


def list_imagenet(root: Path) -> Listing:
    """Lists ImageNet-1K: `train/<wnid>/*.JPEG` and `val/<wnid>/*.JPEG`.

    Labels are indices into the sorted WNIDs, as usual.

    Raises:
      UserError: see `list_folder`; also if a split or its class folders are missing.
    """
    # `test/` has no labels.
    wanted = ("train", "validation")
    listing = None
    if root.is_dir():
        whole, folders = _open(root)
        if folders.keys() >= set(wanted):
            listing = _list(root, whole, folders, wanted)
    if not listing or not listing.class_names:
        raise UserError(
            f"data.dir={str(root)!r} is not ImageNet: it must hold train/<wnid>/*.JPEG and "
            "val/<wnid>/*.JPEG"
        )
    return listing
