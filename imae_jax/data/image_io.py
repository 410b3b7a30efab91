"""Decodes, crops and resizes single images; encodes PNG."""

import contextlib
import io
import math
import struct
import zlib
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image, UnidentifiedImageError

from imae_jax.data import pixel_formats
from imae_jax.errors import UserError

# Pillow's mode for C channels.
MODES = {1: "L", 3: "RGB"}
# Exceptions of Pillow's decoders for damaged files.
DAMAGED = (
    OSError,
    SyntaxError,
    EOFError,
    zlib.error,
    struct.error,
    LookupError,
    RuntimeError,
    TypeError,
    OverflowError,
)
# Formats that can be decoded at reduced size.
JPEGS = ("JPEG", "MPO")
# random_box: number of (area, aspect ratio) pairs tried, and random numbers needed.
NUM_TRIES = 10
NUM_DRAWS = 2 * NUM_TRIES + 2

Box = tuple[float, float, float, float]  # (top, left, height, width), in pixels
# Maps (height, width) of an image to its crop.
BoxOf = Callable[[int, int], Box]


class BadImageError(UserError):
    """Raised for an unusable image; the message names it."""


def central_box(
    height: int, width: int, size: tuple[int, int], share: float
) -> tuple[float, float, float, float]:
    """Central box: `share` in (0, 1] times the largest one with `size`'s aspect ratio."""
    scale = share * min(height / size[0], width / size[1])
    box = scale * size[0], scale * size[1]
    return (height - box[0]) / 2, (width - box[1]) / 2, *box


def random_box(
    height: int,
    width: int,
    scale: tuple[float, float],
    draws: np.ndarray,
    aspect: float = 1.0,
) -> tuple[int, int, int, int]:
    """Box of a RandomResizedCrop (torchvision's rules, used by MAE).

    Args:
      height, width: image size in pixels.
      scale: range of the box's area as a fraction of the image's.
      draws: [NUM_DRAWS] uniform in [0, 1).
      aspect: width / height of the resized crop. (Ours; torchvision's rules are for square
        outputs.)
    Returns:
      (top, left, height, width), with an aspect ratio log-uniform in 3/4..4/3 times
      `aspect`; if no try fits, the largest central box with the nearest ratio.
    """
    low, high = scale
    areas = height * width * (low + (high - low) * draws[:NUM_TRIES])
    bound = math.log(4 / 3)
    ratios = aspect * np.exp(bound * (2 * draws[NUM_TRIES : 2 * NUM_TRIES] - 1))
    widths = np.round(np.sqrt(areas * ratios)).astype(int)
    heights = np.round(np.sqrt(areas / ratios)).astype(int)
    fits = (0 < widths) & (widths <= width) & (0 < heights) & (heights <= height)
    if not fits.any():
        ratio = min(max(width / height, aspect * 3 / 4), aspect * 4 / 3)
        box = min(height, round(width / ratio)), min(width, round(height * ratio))
        box = max(1, box[0]), max(1, box[1])
        return (height - box[0]) // 2, (width - box[1]) // 2, *box
    first = int(np.argmax(fits))
    box = int(heights[first]), int(widths[first])
    top, left = draws[-2:] * (height - box[0] + 1, width - box[1] + 1)
    return int(top), int(left), *box


def decode(
    data: bytes,
    name: str,
    *,
    size: tuple[int, int],
    channels: int,
    box_of: BoxOf,
    background: str | None = None,
) -> np.ndarray:
    """Decodes an image file, crops it and resizes the crop (bicubic, antialiased).

    The image is turned upright by its EXIF orientation. Grey is repeated in three channels,
    palettes and CMYK are converted, 16 bits cut to 8, and transparent images laid on
    `background`. A crop that already has the wanted size is copied unchanged.

    Args:
      data: the encoded file.
      name: name of the image, for messages.
      size: (H, W) of the result.
      channels: C, 1 or 3.
      box_of: maps the upright image's height and width to its crop.
      background: see `pixel_formats.flattened`.
    Returns:
      [H, W, C] uint8.
    Raises:
      BadImageError: if the file is damaged, not an image, or its pixels are not colours.
    """
    with reading(name), Image.open(io.BytesIO(data)) as image:
        orientation, full = _upright(image)
        box = box_of(full[1], full[0])
        # Decoding a JPEG at 1/2, 1/4 or 1/8 is cheaper; at twice the size needed the
        # resized crop is practically the same (as in Pillow's thumbnail).
        times = min(box[2] / size[0], box[3] / size[1]) / 2
        if times >= 2 and image.format in JPEGS:
            image.draft(None, (int(image.width / times), int(image.height / times)))
        flat = pixel_formats.flattened(pixel_formats.in_eight_bits(image), background)
        if orientation in pixel_formats.TURNS:
            flat = flat.transpose(pixel_formats.TURNS[orientation])
        return _resized_crop(flat, full, box, size, MODES[channels])


@contextlib.contextmanager
def reading(name: str) -> Iterator[None]:
    """Turns the errors of Pillow's decoders into a BadImageError that names the file."""
    try:
        yield
    except UnidentifiedImageError as error:
        raise BadImageError(f"{name} is no image of a known kind") from error
    except (*DAMAGED, ValueError, Image.DecompressionBombError) as error:
        raise BadImageError(f"{name} cannot be read as an image: {error}") from error


def upright_size(data: bytes, name: str) -> tuple[int, int]:
    """Returns (height, width) of an encoded image, turned upright as in `decode`."""
    with reading(name), Image.open(io.BytesIO(data)) as image:
        _, (width, height) = _upright(image)
        return height, width


def _upright(image: Image.Image) -> tuple[int, tuple[int, int]]:
    """Returns an image's EXIF orientation, and (width, height) once it is upright."""
    if image.format not in JPEGS:
        image.load()  # some formats store the orientation at the end
    orientation = pixel_formats.orientation_of(image)
    width, height = image.size
    is_sideways = orientation in pixel_formats.SIDEWAYS
    return orientation, (height, width) if is_sideways else (width, height)


def _resized_crop(
    image: Image.Image, full: tuple[int, int], box: Box, size: tuple[int, int], mode: str
) -> np.ndarray:
    """Crops `box` and resizes it to [H, W, C].

    `full` is (width, height) before any reduced decoding; `box` is in its coordinates.
    """
    height, width = size
    if image.size == full == (width, height) and box == (0, 0, *size):  # whole, as it is
        return np.asarray(image.convert(mode)).reshape(height, width, -1)
    top, left, box_height, box_width = box
    # Crop first: Pillow's resize(box=...) would use pixels beyond the box.
    shrunk = image.size[0] / full[0], image.size[1] / full[1]
    left, right = np.clip([left, left + box_width], 0, full[0]) * shrunk[0]
    top, bottom = np.clip([top, top + box_height], 0, full[1]) * shrunk[1]
    # Tolerance for rounding: pixels beyond the border would be black.
    hull = (
        math.floor(left),
        math.floor(top),
        math.ceil(right - 1e-6),
        math.ceil(bottom - 1e-6),
    )
    right, bottom = min(right, hull[2]), min(bottom, hull[3])
    image = image.crop(hull)
    if image.mode != mode:
        image = image.convert(mode)
    if image.size != (width, height):
        inside = left - hull[0], top - hull[1], right - hull[0], bottom - hull[1]
        image = image.resize((width, height), Image.Resampling.BICUBIC, box=inside)
    return np.asarray(image).reshape(height, width, -1)


def png(image: np.ndarray) -> io.BytesIO:
    """Encodes an image, [H, W] or [H, W, C] uint8, as a PNG file.

    TFDS would need TensorFlow to encode an array, but accepts encoded files.
    """
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="png", compress_level=1)  # for speed
    file.seek(0)
    return file
