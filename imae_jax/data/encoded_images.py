"""Image files that are decoded on access, by several threads."""

import dataclasses
import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np

from imae_jax.data.image_io import BadImageError, Box, BoxOf, central_box, decode
from imae_jax.errors import UserError

logger = logging.getLogger(__name__)

# Decoding releases the GIL, so threads use all cores.
NUM_THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2
CHUNK = 4096  # images submitted to the threads at a time when all are checked


def parse_size(value: int | str | Sequence[int], key: str) -> tuple[int, int]:
    """Parses (H, W) in pixels from a square's side, "HEIGHTxWIDTH" or two numbers.

    Raises:
      UserError: for anything else; the message names `key`.
    """
    sides = value if isinstance(value, tuple | list) else str(value).lower().split("x")
    texts = [str(side).strip() for side in sides]
    if len(texts) in (1, 2) and all(x.isdecimal() and int(x) >= 1 for x in texts):
        return int(texts[0]), int(texts[-1])
    raise UserError(
        f"invalid {key}={value!r}: give HEIGHT or HEIGHTxWIDTH, each at least 1"
    )


@dataclasses.dataclass(frozen=True)
class EncodedImages:
    """A split's images as encoded files, in memory or on disk.

    Attributes:
      names: name of each image, for messages.
      read: returns the encoded file at an index.
      size: (H, W) of decoded images.
      channels: C, 1 or 3.
      min_side: smallest usable height and width in pixels.
      centre: side of the default crop as a fraction, in (0, 1], of the largest central box.
      background: colour behind transparent images, see `pixel_formats.flattened`.
    """

    names: Sequence[str]
    read: Callable[[int], bytes]
    size: tuple[int, int]
    channels: int
    min_side: int
    centre: float
    background: str | None = None

    def __len__(self) -> int:
        return len(self.names)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of the decoded images, (N, H, W, C)."""
        return len(self), *self.size, self.channels

    @property
    def nbytes(self) -> int:
        """Size of all decoded images in bytes."""
        return math.prod(self.shape)

    def central_box(self, height: int, width: int) -> tuple[float, float, float, float]:
        """Default crop (top, left, height, width) of an image of this height and width."""
        return central_box(height, width, self.size, self.centre)

    def file(self, index: int) -> bytes:
        """Returns the encoded file of image `index`.

        Raises:
          BadImageError: if it cannot be read.
        """
        try:
            return self.read(index)
        except OSError as error:
            why = error.strerror or error
            raise BadImageError(f"{self.names[index]} cannot be read: {why}") from error

    def get(self, index: int, box_of: BoxOf | None = None) -> np.ndarray:
        """Decodes image `index` to [H, W, C] uint8, cropped by `box_of` (default: central).

        Raises:
          BadImageError: if it cannot be read or is too small.
        """
        name = self.names[index]

        def checked_box(height: int, width: int) -> Box:
            if min(height, width) < self.min_side:
                raise BadImageError(
                    f"{name} is {height}x{width} pixels, smaller than a patch of "
                    f"{self.min_side}x{self.min_side}"
                )
            return (box_of or self.central_box)(height, width)

        return decode(
            self.file(index),
            name,
            size=self.size,
            channels=self.channels,
            background=self.background,
            box_of=checked_box,
        )


class Encoded(Protocol):
    """Encoded images, or their label maps, that are decoded on access."""

    def __len__(self) -> int: ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of all when they are decoded, N first."""

    def get(self, index: int) -> np.ndarray:
        """Decodes one to uint8; raises BadImageError if it cannot be used."""


def with_remedy(error: BadImageError) -> BadImageError:
    """Adds advice to the error's message."""
    remedy = "mend or remove it, or leave such images out with data.on_bad_image=skip"
    return BadImageError(f"{error}; {remedy}")


def decode_all(
    images: Encoded,
    indices: np.ndarray,
    on_bad_image: str,
    num_threads: int = NUM_THREADS,
) -> tuple[np.ndarray, np.ndarray]:
    """Decodes images with their central crops.

    Args:
      images: the encoded images, or label maps.
      indices: [n] int, the images to decode.
      on_bad_image: "raise", or "skip" to leave out unusable images.
      num_threads: 1 for files so small that threads cost more than decoding.
    Returns:
      [n, H, W, C] uint8, of label maps [n, H, W], and their indices [n].
    Raises:
      BadImageError: if an image is unusable and not to be skipped.
    """
    found = np.empty((len(indices), *images.shape[1:]), np.uint8)
    good = np.ones(len(indices), bool)

    def fill(place: int) -> BadImageError | None:
        try:
            found[place] = images.get(int(indices[place]))
        except BadImageError as error:
            good[place] = False
            return error
        return None

    with ThreadPoolExecutor(num_threads) as pool:
        places = range(len(indices))
        for error in map(fill, places) if num_threads == 1 else pool.map(fill, places):
            if error and on_bad_image == "raise":
                pool.shutdown(cancel_futures=True)
                raise with_remedy(error)
            if error:
                logger.warning("left out: %s", error)
    return (found, indices) if good.all() else (found[good], indices[good])


def reasons(images: Encoded) -> Iterator[str | None]:
    """Decodes every image in order; yields why it is unusable, or None."""

    def why(index: int) -> str | None:
        try:
            images.get(index)
        except BadImageError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        # In chunks: a data set may hold millions of images.
        for start in range(0, len(images), CHUNK):
            yield from pool.map(why, range(start, min(start + CHUNK, len(images))))
