"""One encoded image -> pixels: opened, checked, cropped, resized."""

import io
import math
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image, UnidentifiedImageError

from imae_jax.data import pixel_formats
from imae_jax.errors import UserError

# Pillow's name of pixels with C channels.
MODES = {1: "L", 3: "RGB"}
# What Pillow's decoders raise for damaged files.
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
# Kinds of files that can be decoded small.
JPEGS = ("JPEG", "MPO")
# random_box: pairs of area and aspect ratio that are tried, and the draws for all.
NUM_TRIES = 10
NUM_DRAWS = 2 * NUM_TRIES + 2

# (height, width) of an image -> its crop (top, left, height, width), in pixels.
BoxOf = Callable[[int, int], tuple[float, float, float, float]]


class BadImageError(UserError):
    """An image that cannot be used; the message names it."""


def central_box(
    height: int, width: int, size: tuple[int, int], share: float
) -> tuple[float, float, float, float]:
    """The middle `share` in (0, 1] of the largest box with the aspect ratio of `size`."""
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
    """The box of a RandomResizedCrop (torchvision's rules, which MAE trains by).

    Args:
      height, width: of the image, in pixels.
      scale: the least and largest share of the area that is kept.
      draws: [NUM_DRAWS] uniform in [0, 1).
      aspect: width / height of what the crop becomes. (torchvision's rules are for
        squares; boxes of other aspects would only be distorted. Ours.)
    Returns:
      (top, left, height, width): aspect ratio log-uniform in 3/4..4/3 times `aspect`, or,
      where no try fits, the largest central box whose ratio is nearest.
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

    It is turned upright as its EXIF says. Grey images are repeated in three channels,
    palettes and CMYK converted, 16 bits cut to 8, transparent ones laid on `background`.
    A crop of the wanted size is copied as it is.

    Args:
      data: the encoded file.
      name: of the image, for messages.
      size: (H, W) of the result.
      channels: C, 1 or 3.
      box_of: the crop for the upright image's height and width.
      background: see `pixels.flattened`.
    Returns:
      [H, W, C] uint8.
    Raises:
      BadImageError: if the file is damaged, no image, or of pixels that are no colours.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.format not in JPEGS:
                image.load()  # some tell only at their end how they lie
            orientation = pixel_formats.orientation_of(image)
            full = image.size
            if orientation in pixel_formats.SIDEWAYS:
                full = full[1], full[0]
            box = box_of(full[1], full[0])
            # A JPEG can be decoded at 1/2, 1/4 or 1/8 for less; twice the size that is
            # needed leaves the resizing with as good as all it would have seen (Pillow's
            # thumbnail).
            times = min(box[2] / size[0], box[3] / size[1]) / 2
            if times >= 2 and image.format in JPEGS:
                image.draft(None, tuple(int(side / times) for side in image.size))
            image = pixel_formats.flattened(pixel_formats.in_eight_bits(image), background)
            if orientation in pixel_formats.TURNS:
                image = image.transpose(pixel_formats.TURNS[orientation])
            return _resized_crop(image, full, box, size, MODES[channels])
    except UnidentifiedImageError as error:
        raise BadImageError(f"{name} is no image of a known kind") from error
    except (*DAMAGED, ValueError, Image.DecompressionBombError) as error:
        raise BadImageError(f"{name} cannot be read as an image: {error}") from error


def _resized_crop(image, full: tuple[int, int], box, size, mode) -> np.ndarray:
    """The crop `box` as [H, W, C] of an image that had `full` (width, height) pixels."""
    height, width = size
    top, left, box_height, box_width = box
    # Cut out first: resizing a part of an image, Pillow would look beyond the box.
    shrunk = image.size[0] / full[0], image.size[1] / full[1]
    left, right = np.clip([left, left + box_width], 0, full[0]) * shrunk[0]
    top, bottom = np.clip([top, top + box_height], 0, full[1]) * shrunk[1]
    # (Not a millionth of a pixel beyond the border, where there is nothing but black.)
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
    """Encodes an image, [H, W] or [H, W, C] uint8, as a PNG file; lossless.

    TFDS would need TensorFlow to encode an array, but takes an encoded file as it is.
    """
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="png")
    file.seek(0)
    return file
