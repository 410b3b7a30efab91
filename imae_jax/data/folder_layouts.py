"""Layouts of folders of images: scanned, and told apart into splits and classes."""

import collections
import dataclasses
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from PIL import Image

from imae_jax.errors import UserError

logger = logging.getLogger(__name__)

# Pictures as cameras, scanners and programs save them. (Pillow registers other files, too:
# films, documents, tables of numbers.)
ENDINGS = frozenset(
    ".jpg .jpeg .jpe .jfif .jp2 .j2k .jpc .jpf .jpx .j2c .png .apng .webp .avif .gif .bmp "
    ".dib .tif .tiff .ppm .pgm .pbm .pnm .tga .pcx .sgi .qoi .psd .ico".split()
)
# What systems leave behind, beside hidden files.
JUNK = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found")
# What a split's folder is called, in lower or upper case: `Training`, `val2017`,
# `test_images`.
_TAIL = r"([ _-]?(set|data|split|images|imgs))?[ _-]?\d*"
SPLITS = {
    "train": re.compile(f"(train|training){_TAIL}", re.IGNORECASE),
    "validation": re.compile(f"(val|valid|validation|dev){_TAIL}", re.IGNORECASE),
    "test": re.compile(f"(test|testing){_TAIL}", re.IGNORECASE),
}
# Folders that hold the images of all classes, and so are none themselves; of the second
# kind, if nothing lies beside them.
HOLDERS = re.compile("(images?|imgs?|jpegimages)", re.IGNORECASE)
MAYBE_HOLDERS = re.compile("(pictures?|pics|photos?|data|dataset)", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Folder:
    """A folder and all below it, hidden and left-over files aside.

    Attributes:
      name: its own.
      path: where it lies below the root of all, "" for the root itself.
      images: the files right in it that are images by their endings, sorted.
      folders: those right in it, sorted.
      others: how many other files of each ending lie right in it.
    """

    name: str
    path: str
    images: tuple[str, ...]
    folders: tuple["Folder", ...]
    others: Mapping[str, int]

    def walk(self) -> Iterator["Folder"]:
        """Itself and every folder below."""
        yield self
        for folder in self.folders:
            yield from folder.walk()

    def all_images(self) -> list[str]:
        """Every image, as paths below the root."""
        return [
            os.path.join(folder.path, image)
            for folder in self.walk()
            for image in folder.images
        ]

    def ignored(self) -> dict[str, int]:
        """Number of files that are no images, by ending; the most numerous first."""
        counts = collections.Counter()
        for folder in self.walk():
            counts.update(folder.others)
        return dict(counts.most_common())

    @property
    def has_images(self) -> bool:
        """Whether an image lies anywhere in it."""
        return any(folder.images for folder in self.walk())

    @property
    def classes(self) -> list["Folder"]:
        """The folders right in it that hold images."""
        return [folder for folder in self.folders if folder.has_images]


def is_image(name: str) -> bool:
    """Whether a file's ending is one of pictures', and of a kind that Pillow can open."""
    ending = Path(name).suffix.lower()
    return ending in ENDINGS and ending in Image.registered_extensions()


def _asked(question, entry: os.DirEntry) -> bool:
    """Of a link that leads round in a circle, nothing is true."""
    try:
        return question(entry)
    except OSError:
        return False


def scan(root: Path, path: str = "", above: tuple[str, ...] = ()) -> Folder:
    """What lies in `root`. Links are followed, except back to a folder that they lie in.

    Broken links count as files: whoever reads them is told.

    Raises:
      UserError: if a folder cannot be read.
    """
    here = os.path.join(root, path)
    above = (*above, os.path.realpath(here))
    images, folders, others = [], [], collections.Counter()
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
    """ "1 file", "31 files"."""
    return f"{count:,} {what}{'s' * (count != 1)}"


def as_words(ignored: Mapping[str, int], most: int = 8) -> str:
    """Counts by ending, for people: ".heic: 31 files, .txt: 1 file"."""
    shown = [f"{key}: {counted(n, 'file')}" for key, n in list(ignored.items())[:most]]
    return ", ".join(shown) + (", ..." if len(ignored) > most else "")


def names_of(folders: Iterable[Folder]) -> str:
    """Some of their names."""
    names = [folder.name for folder in folders]
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def split_of(name: str) -> str | None:
    """Which split a folder of this name is, if any: `Training` is train."""
    for split, pattern in SPLITS.items():
        if pattern.fullmatch(name):
            return split
    return None


def is_divided(folder: Folder) -> bool:
    """Whether it holds a folder by the name of a split."""
    return any(split_of(part.name) for part in folder.folders)


def inner(folder: Folder, root: Path, may_be_divided: bool = False) -> Folder:
    """The folder that holds classes or images: itself or, said so, the only one in it.

    Args:
      folder: to begin with.
      root: of all.
      may_be_divided: stop at a folder that holds splits.
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
    """The folder of each split; all of it as `train` where it is not divided.

    Raises:
      UserError: where two folders claim to be the same split, where there is no `train`,
        and where `train` may be a class.
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
