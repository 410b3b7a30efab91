"""Label maps: PNG files whose pixels are classes, one beside each image."""

import dataclasses
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from imae_jax.data.encoded_images import EncodedImages
from imae_jax.data.image_io import BadImageError, reading, upright_size
from imae_jax.errors import UserError
from imae_jax.probing.segmentation_scores import IGNORED

KEY = "data.files.label_maps"
CLASSES_FILE = "classes.txt"
SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Place in a PNG file of the bits per channel and of the kind of pixel. Pillow would scale
# grey of fewer than 8 bits to 0..255.
FORM = slice(24, 26)
GREY, PALETTE = 0, 3


def decode(data: bytes, name: str, num_classes: int) -> np.ndarray:
    """Decodes a PNG file of class indices.

    Args:
      data: the file: with a palette, whose colours do not matter, or of 8-bit grey.
      name: name of the file, for messages.
      num_classes: number of classes.
    Returns:
      [H, W] uint8, in 0..num_classes - 1, or IGNORED.
    Raises:
      BadImageError: for any other file, and for other values.
    """
    bits, kind = data[FORM] if len(data) >= FORM.stop else (0, 0)
    is_index = kind == PALETTE or (kind, bits) == (GREY, 8)
    if not data.startswith(SIGNATURE) or not is_index:
        raise BadImageError(
            f"label map {name} is not a PNG of class indices, with a palette or 8-bit grey"
        )
    with reading(f"label map {name}"), Image.open(io.BytesIO(data)) as image:
        found = np.asarray(image)
    beyond = found[(found >= num_classes) & (found != IGNORED)]
    if len(beyond):
        raise BadImageError(
            f"label map {name} holds {beyond[0]}, but its classes are 0 to "
            f"{num_classes - 1}, and {IGNORED} for pixels that do not count"
        )
    return found


def nearest(
    label_map: np.ndarray, box: tuple[float, float, float, float], size: tuple[int, int]
) -> np.ndarray:
    """Crops a label map [h, w] to a box and resizes it to `size`, by nearest pixels.

    Args:
      label_map: the whole map.
      box: (top, left, height, width) in pixels, inside the map.
      size: (H, W) of the result.
    """
    rows, columns = (
        np.floor(start + (np.arange(count) + 0.5) * length / count).astype(int)
        for start, length, count in zip(box[:2], box[2:], size, strict=True)
    )
    return label_map[rows[:, None], columns]


@dataclasses.dataclass(frozen=True)
class EncodedLabelMaps:
    """Label maps of a split's images, as PNG files that are decoded on access.

    Attributes:
      images: the images.
      paths: file of each image's label map.
      num_classes: number of classes.
    """

    images: EncodedImages
    paths: Sequence[Path]
    num_classes: int

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the decoded label maps, (N, H, W)."""
        return len(self), *self.images.size

    def get(self, index: int) -> np.ndarray:
        """Decodes label map `index`, cropped and resized as the image is: [H, W] uint8.

        Raises:
          BadImageError: if it is missing, not of the upright image's size, or unusable, see
            `decode`; and if the image cannot be read.
        """
        name, path = self.images.names[index], self.paths[index]
        size = upright_size(self.images.file(index), name)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise BadImageError(f"{name} has no label map {path}") from None
        except OSError as error:
            why = error.strerror or error
            raise BadImageError(f"label map {path} cannot be read: {why}") from error
        label_map = decode(data, str(path), self.num_classes)
        if label_map.shape != size:
            height, width = label_map.shape
            raise BadImageError(
                f"label map {path} is {height}x{width} pixels, but the image {name} is "
                f"{size[0]}x{size[1]}"
            )
        return nearest(label_map, self.images.central_box(*size), self.images.size)


def read_classes(folder: Path, root: Path) -> tuple[str, ...]:
    """Reads the names of the classes: a line each, that of value 0 first.

    Args:
      folder: folder of the label maps.
      root: folder of the images.
    Raises:
      UserError: if there is no such file, or fewer than 2 names, more than 255, one that is
        empty or one that occurs twice; and for a folder among the images.
    """
    path = folder / CLASSES_FILE
    if folder.resolve().is_relative_to(root.resolve()):
        raise UserError(
            f"invalid {KEY}={str(folder)!r}: must be a folder outside data.dir, whose "
            "folders are splits and classes"
        )
    try:
        names = [line.strip() for line in path.read_text("utf-8").rstrip().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"invalid {KEY}={str(folder)!r}: it must hold {CLASSES_FILE}, the name of a "
            f"class in each line ({getattr(error, 'strerror', None) or error})"
        ) from None
    if not 2 <= len(names) <= IGNORED or len(set(names)) < len(names) or "" in names:
        raise UserError(
            f"{path} has {len(names)} lines; it must hold 2 to {IGNORED} different names, "
            "that of value 0 first"
        )
    return tuple(names)


def paths_beside(folder: Path, files: Mapping[str, Sequence[str]]) -> dict[str, list[Path]]:
    """Returns the files of label maps: the images' paths in another folder, as .png.

    Args:
      folder: folder of the label maps.
      files: {split: paths of its images, relative to the images' folder}.
    Returns:
      {split: path of each image's label map}.
    Raises:
      UserError: if two images, of the same split or not, would share a label map.
    """
    owners: dict[Path, str] = {}
    paths: dict[str, list[Path]] = {split: [] for split in files}
    for split, names in files.items():
        for name in names:
            path = folder / f"{os.path.splitext(name)[0]}.png"
            if path in owners:
                raise UserError(
                    f"{owners[path]} and {name} would share the label map {path}: "
                    "rename one of the images"
                )
            owners[path] = name
            paths[split].append(path)
    return paths
