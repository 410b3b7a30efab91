"""Scans folders of images and finds their splits and classes."""

import collections
import dataclasses
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from PIL import Image

from imae_jax.errors import UserError

logger = logging.getLogger(__name__)

# Extensions of pictures. (Pillow also registers films, documents and numeric tables.)
ENDINGS = frozenset(
    ".jpg .jpeg .jpe .jfif .jp2 .j2k .jpc .jpf .jpx .j2c .png .apng .webp .avif .gif .bmp "
    ".dib .tif .tiff .ppm .pgm .pbm .pnm .tga .pcx .sgi .qoi .psd .ico".split()
)
# Ignored like hidden files: left behind by operating systems.
JUNK = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found")
# Folder names of splits, such as `Training`, `val2017` or `test_images`.
_TAIL = r"([ _-]?(set|data|split|images|imgs))?[ _-]?\d*"
SPLITS = {
    "train": re.compile(f"(train|training){_TAIL}", re.IGNORECASE),
    "validation": re.compile(f"(val|valid|validation|dev){_TAIL}", re.IGNORECASE),
    "test": re.compile(f"(test|testing){_TAIL}", re.IGNORECASE),
}
# Names of folders that hold all classes and are not a class themselves; the second kind
# only if nothing lies beside them.
HOLDERS = re.compile("(images?|imgs?|jpegimages)", re.IGNORECASE)
MAYBE_HOLDERS = re.compile("(pictures?|pics|photos?|data|dataset)", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Folder:
    """A folder and its subfolders, without hidden files and those of `JUNK`.

    Attributes:
      name: name of the folder.
      path: path relative to the scanned root; "" for the root itself.
      images: file names of the images directly in it (by extension), sorted.
      folders: subfolders directly in it, sorted.
      others: {extension: number of other files directly in it}.
    """

    name: str
    path: str
    images: tuple[str, ...]
    folders: tuple["Folder", ...]
    others: Mapping[str, int]

    def walk(self) -> Iterator["Folder"]:
        """Iterates over this folder and all folders below it."""
        yield self
        for folder in self.folders:
            yield from folder.walk()

    def all_images(self) -> list[str]:
        """Paths of all images, relative to the root."""
        return [
            os.path.join(folder.path, image)
            for folder in self.walk()
            for image in folder.images
        ]

    def ignored(self) -> dict[str, int]:
        """Number of files that are not images by extension, most frequent first."""
        counts: collections.Counter[str] = collections.Counter()
        for folder in self.walk():
            counts.update(folder.others)
        return dict(counts.most_common())

    @property
    def has_images(self) -> bool:
        """True if the folder or one below it holds an image."""
        return any(folder.images for folder in self.walk())

    @property
    def classes(self) -> list["Folder"]:
        """Direct subfolders that hold images."""
        return [folder for folder in self.folders if folder.has_images]


def is_image(name: str) -> bool:
    """True if the file has an extension of `ENDINGS` that Pillow can open."""
    ending = Path(name).suffix.lower()
    return ending in ENDINGS and ending in Image.registered_extensions()


def _asked(question: Callable[[os.DirEntry], bool], entry: os.DirEntry) -> bool:
    """Answers a question about an entry; False for a circular link."""
    try:
        return question(entry)
    except OSError:
        return False


def scan(root: Path, path: str = "", above: tuple[str, ...] = ()) -> Folder:
    """Scans `root`. Links are followed, except to a folder that contains them.

    Broken links count as files; reading them raises an error later.

    Raises:
      UserError: if a folder cannot be read.
    """
    here = os.path.join(root, path)
    above = (*above, os.path.realpath(here))
    images, folders = [], []
    others: collections.Counter[str] = collections.Counter()
    try:
        with os.scandir(here) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{here} cannot be read: {error.strerror}") from None
    for entry in entries:
        if entry.name.startswith(".") or entry.name in JUNK:
            continue
        inside = os.path.join(path, entry.name)
        if _asked(os.DirEntry.is_dir, entry):
            if not entry.is_symlink() or os.path.realpath(entry.path) not in above:
                folders.append(scan(root, inside, above))
        elif not (_asked(os.DirEntry.is_file, entry) or entry.is_symlink()):
            continue  # a pipe or a device
        elif is_image(entry.name):
            images.append(entry.name)
        else:
            others[Path(entry.name).suffix.lower() or "no ending"] += 1
    return Folder(os.path.basename(here), path, tuple(images), tuple(folders), others)


def counted(count: int, what: str) -> str:
    """Formats a count: "1 file", "31 files"."""
    return f"{count:,} {what}{'s' * (count != 1)}"


def as_words(ignored: Mapping[str, int], most: int = 8) -> str:
    """Formats counts by extension: ".heic: 31 files, .txt: 1 file"."""
    shown = [f"{key}: {counted(n, 'file')}" for key, n in list(ignored.items())[:most]]
    return ", ".join(shown) + (", ..." if len(ignored) > most else "")


def names_of(folders: Iterable[Folder]) -> str:
    """Names of the first three folders, comma-separated."""
    names = [folder.name for folder in folders]
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def split_of(name: str) -> str | None:
    """Split that a folder name stands for (`Training`: "train"), or None."""
    for split, pattern in SPLITS.items():
        if pattern.fullmatch(name):
            return split
    return None


def is_divided(folder: Folder) -> bool:
    """True if a direct subfolder has the name of a split."""
    return any(split_of(part.name) for part in folder.folders)


def inner(folder: Folder, root: Path, may_be_divided: bool = False) -> Folder:
    """Descends through folders that only wrap another; logs each step.

    Args:
      folder: folder to start from.
      root: root of the scan.
      may_be_divided: stop at a folder that holds splits.
    Returns:
      The folder that holds the classes or images.
    """
    while not folder.images and len(folder.classes) == 1:
        if may_be_divided and is_divided(folder):
            break
        only = folder.classes[0]
        holds_all = not only.images or split_of(only.name) or HOLDERS.fullmatch(only.name)
        is_alone = len(folder.folders) == 1
        if not holds_all and not (is_alone and MAYBE_HOLDERS.fullmatch(only.name)):
            break
        others = [x for x in folder.folders if x is not only]
        beside = f"; not read, beside it: {names_of(others)}" if others else ""
        where = root / folder.path
        logger.info(f"{where}: its images lie one level deeper, in {only.name}{beside}")
        folder = only
    return folder


def split_folders(folder: Folder, root: Path) -> dict[str, Folder]:
    """Finds the folder of each split; the whole folder is `train` if it has no splits.

    Raises:
      UserError: if two folders name the same split, `train` is missing, or `train` may be
        a class.
    """
    found: dict[str, Folder] = {}
    where = root / folder.path
    for part in folder.folders:
        split = split_of(part.name)
        if split in found:
            both = f"{found[split].name} and {part.name}"
            raise UserError(f"{where} holds both {both}: which is {split}?")
        if split:
            found[split] = part
    others = [part for part in folder.classes if part not in found.values()]
    if "train" not in found:
        if found and not others:
            raise UserError(
                f"{where} holds {names_of(found.values())} but no train: give the folder "
                "that holds train, or name one of them so"
            )
        return {"train": folder}
    name = found["train"].name
    if others and len(found) == 1:
        raise UserError(
            f"{where} holds {name} beside {names_of(others)}: if these are classes, give "
            f"{name} another name; if {name} holds the images to train on, move the others "
            "away"
        )
    beside = names_of(others) if others else ""
    if folder.images:
        beside += f"{' and ' if beside else ''}{counted(len(folder.images), 'image')}"
    if beside:
        logger.info(f"{where}: not read, beside {name}: {beside}")
    return found
