"""Folders of images, read in place.

Either `train/` beside `val/` (or `validation/`) and `test/`, or images with no such
division. Each holds one folder per class, or images without classes.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from imae_jax.errors import UserError

# What a split's folder may be called, in lower or upper case.
SPLITS = {
    "train": ("train",),
    "validation": ("val", "valid", "validation"),
    "test": ("test",),
}
MIN_IMAGES = 4  # two to train on, two to test
TEST_SHARE = 10  # one image in ten is set aside where the folder says nothing
NO_LABEL = -1


@dataclasses.dataclass(frozen=True)
class Listing:
    """What a folder holds.

    Attributes:
      root: the folder.
      files: paths below `root` by split, sorted.
      labels: [N] int64 by split, positions in `class_names`; -1 where there are none.
      class_names: the class folders' names, sorted; empty where there are none.
    """

    root: Path
    files: Mapping[str, list[str]]
    labels: Mapping[str, np.ndarray]
    class_names: tuple[str, ...]


def _is_image(name: str) -> bool:
    return Path(name).suffix.lower() in Image.registered_extensions()


def _images_below(root: Path, folder: str) -> list[str]:
    """Image files below `folder`, sorted, as paths below `root`; hidden ones left out."""
    found, seen = [], set()
    for where, folders, files in os.walk(root / folder, followlinks=True):
        real = os.path.realpath(where)
        if real in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inside = os.path.relpath(where, root)
        found += [
            os.path.normpath(os.path.join(inside, name))
            for name in sorted(files)
            if not name.startswith(".") and _is_image(name)
        ]
    return found


def _class_folders(folder: Path) -> list[str]:
    return sorted(
        entry.name
        for entry in os.scandir(folder)
        if entry.is_dir() and not entry.name.startswith(".")
    )


def _split_folders(root: Path) -> dict[str, str]:
    """The folder of each split below `root`; raises UserError where two claim the same."""
    found = {}
    present = _class_folders(root)
    for split, names in SPLITS.items():
        own = [name for name in present if name.lower() in names]
        if len(own) > 1:
            raise UserError(f"{root} holds both {own[0]} and {own[1]}: which is {split}?")
        if own:
            found[split] = own[0]
    if "train" not in found:
        return {"train": "."}
    others = sorted(set(present) - set(found.values()))
    if others:
        print(f"{root}: not read, beside {found['train']}: {', '.join(others)}")
    return found


def _list_split(
    root: Path, folder: str, class_names: tuple[str, ...] | None
) -> tuple[list[str], np.ndarray, tuple[str, ...]]:
    """Files, labels and class names; `class_names` are those of another split, if any."""
    names = _class_folders(root / folder)
    loose = [entry for entry in os.scandir(root / folder) if entry.is_file()]
    loose = sorted(x.name for x in loose if _is_image(x.name) and x.name[0] != ".")
    where = str(root / folder)
    if names and loose:
        raise UserError(
            f"{where} holds both class folders ({names[0]}, ...) and {len(loose)} images "
            f"beside them ({loose[0]}, ...): which class are these?"
        )
    if bool(names) != bool(class_names) and class_names is not None:
        have = "no class folders" if class_names else f"class folders ({names[0]}, ...)"
        other = "has" if class_names else "has none"
        raise UserError(f"{where} has {have}, but the training images' folder {other}")
    if not names:
        files = [os.path.normpath(os.path.join(folder, name)) for name in loose]
        return files, np.full(len(files), NO_LABEL), ()
    known = class_names or tuple(names)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UserError(f"{where}/{unknown[0]} is a class that no training image has")
    files, labels = [], []
    for name in names:
        own = _images_below(root, os.path.join(folder, name))
        if not own:
            raise UserError(f"class folder {where}/{name} holds no image")
        files += own
        labels += [known.index(name)] * len(own)
    return files, np.array(labels, np.int64), known


def list_folder(root: Path, splits: Sequence[str] = tuple(SPLITS)) -> Listing:
    """Lists a folder's images; the module's docstring says which forms it may have.

    Where nothing is set aside for testing, one image in ten is, the same each time.

    Raises:
      UserError: if there is no such folder or no image in it, a class folder is empty, or
        the classes of its splits differ.
    """
    if not root.is_dir():
        raise UserError(f"data.dir={str(root)!r} is no folder")
    folders = _split_folders(root)
    files, labels, class_names = {}, {}, None
    for split, folder in folders.items():
        if split not in splits:
            continue
        if split == "test" and class_names and not _class_folders(root / folder):
            print(f"{root / folder} is left out: its images have no class folders")
            continue
        files[split], labels[split], names = _list_split(root, folder, class_names)
        class_names = names if class_names is None else class_names
        if not files[split]:
            raise UserError(f"{root / folder} holds no image")
    if len(files) == 1:
        if len(files["train"]) < MIN_IMAGES:
            raise UserError(
                f"{root} holds {len(files['train'])} images; it takes at least "
                f"{MIN_IMAGES}, since some are set aside for testing"
            )
        files, labels = _set_aside(files["train"], labels["train"])
    return Listing(root, files, labels, class_names)


def _set_aside(files: list[str], labels: np.ndarray):
    """Divides images into `train` and `test`."""
    # RandomState: its stream is frozen across NumPy versions.
    order = np.random.RandomState(0).permutation(len(files))
    # Evenly out of every class.
    order = order[np.argsort(labels[order], kind="stable")]
    every = min(TEST_SHARE, len(files) // 2)
    test = np.sort(order[every - 1 :: every])
    parts = {"train": np.setdiff1d(order, test), "test": test}
    divided = {name: [files[i] for i in part] for name, part in parts.items()}
    return divided, {name: labels[part] for name, part in parts.items()}


def list_imagenet(root: Path) -> Listing:
    """ImageNet-1K as folders: `train/<wnid>/*.JPEG` and `val/<wnid>/*.JPEG`.

    A label is the rank of its WNID among the sorted ones, as everywhere.

    Raises:
      UserError: see `list_folder`; and if a split or its class folders are missing.
    """
    # `test/` has no labels: it is left out.
    wanted = ("train", "validation")
    is_there = root.is_dir() and _split_folders(root).keys() >= set(wanted)
    listing = list_folder(root, wanted) if is_there else None
    if not listing or not listing.class_names:
        raise UserError(
            f"data.dir={str(root)!r} is not ImageNet: it must hold train/<wnid>/*.JPEG and "
            "val/<wnid>/*.JPEG"
        )
    return listing
