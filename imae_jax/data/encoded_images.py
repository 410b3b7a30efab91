"""Images that are decoded when they are asked for, by several threads."""

import dataclasses
import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from imae_jax.data.image_io import BadImageError, BoxOf, central_box, decode
from imae_jax.errors import UserError

logger = logging.getLogger(__name__)

# Decoding leaves Python's lock, so threads share the cores.
NUM_THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2
CHUNK = 4096  # images that threads are given at a time, where all are looked at


def parse_size(value: int | str | Sequence[int], key: str) -> tuple[int, int]:
    """(H, W) in pixels: of a square's side, of "HEIGHTxWIDTH", or of the two numbers.

    Raises:
      UserError: naming `key`, for anything else.
    """
    sides = value if isinstance(value, tuple | list) else str(value).lower().split("x")
    texts = [str(side).strip() for side in sides]
    if len(texts) in (1, 2) and all(x.isdecimal() and int(x) >= 1 for x in texts):
        return int(texts[0]), int(texts[-1])
    raise UserError(
        f"{key}={value!r} is not possible: give HEIGHT or HEIGHTxWIDTH, each at least 1"
    )


@dataclasses.dataclass(frozen=True)
class EncodedImages:
    """A split's images as files, in memory or on disk.

    Attributes:
      names: of each image, for messages.
      read: index -> the encoded file.
      size: (H, W) that images are given.
      channels: C.
      min_side: the least height and width, in pixels, of an image that can be used.
      centre: share in (0, 1] of the largest central box that is shown when nothing is
        drawn at random.
      background: of transparent images, see `pixels.flattened`.
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
        """(N, H, W, C), as of an array."""
        return len(self), *self.size, self.channels

    @property
    def nbytes(self) -> int:
        """Of all, decoded."""
        return math.prod(self.shape)

    def central_box(self, height: int, width: int) -> tuple[float, float, float, float]:
        """The box of an image that is shown when nothing is drawn at random."""
        return central_box(height, width, self.size, self.centre)

    def get(self, index: int, box_of: BoxOf | None = None) -> np.ndarray:
        """Image `index` [H, W, C] uint8, cropped by `box_of`, by default in the middle.

        Raises:
          BadImageError: if it cannot be read or is too small.
        """
        name = self.names[index]

        def checked_box(height: int, width: int):
            if min(height, width) < self.min_side:
                raise BadImageError(
                    f"{name} is {height}x{width} pixels, smaller than a patch of "
                    f"{self.min_side}x{self.min_side}"
                )
            return (box_of or self.central_box)(height, width)

        try:
            data = self.read(index)
        except OSError as error:
            why = error.strerror or error
            raise BadImageError(f"{name} cannot be read: {why}") from error
        form = dict(size=self.size, channels=self.channels, background=self.background)
        return decode(data, name, **form, box_of=checked_box)


def with_remedy(error: BadImageError) -> BadImageError:
    """The error, and what can be done about it."""
    remedy = "mend or remove it, or leave such images out with data.on_bad_image=skip"
    return BadImageError(f"{error}; {remedy}")


def decode_all(
    images: EncodedImages,
    indices: np.ndarray,
    on_bad_image: str,
    num_threads: int = NUM_THREADS,
) -> tuple[np.ndarray, np.ndarray]:
    """Decodes images in the middle.

    Args:
      images: the files.
      indices: which.
      on_bad_image: "raise", or "skip" to leave those out that cannot be used.
      num_threads: 1 for files so small that handing them round costs more than decoding.
    Returns:
      [n, H, W, C] uint8, and the indices [n] that they have.
    Raises:
      BadImageError: if one cannot be used and is not to be skipped.
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


def reasons(images: EncodedImages) -> Iterator[str | None]:
    """Decodes every image; yields of each, in order, why it cannot be used, or None."""

    def why(index: int) -> str | None:
        try:
            images.get(index)
        except BadImageError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        # Not all at once: a data set may hold millions.
        for start in range(0, len(images), CHUNK):
            yield from pool.map(why, range(start, min(start + CHUNK, len(images))))
