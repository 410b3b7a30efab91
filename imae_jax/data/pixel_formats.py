"""Converts images opened by Pillow to upright, opaque ones with 8 bits per channel."""

from typing import Any

import numpy as np
from PIL import Image, ImageColor
from PIL.TiffImagePlugin import PHOTOMETRIC_INTERPRETATION, TiffImageFile

# Modes with 8 bits per channel, which Pillow converts to grey or RGB.
EIGHT_BITS = (
    "1",
    "L",
    "LA",
    "La",
    "P",
    "PA",
    "RGB",
    "RGBA",
    "RGBa",
    "RGBX",
    "CMYK",
    "YCbCr",
)
# Formats whose 32-bit pixels in Pillow hold values of 0 to 65,535.
OF_SIXTEEN_BITS = ("PNG", "PPM")
# PhotometricInterpretation of TIFF files whose largest value is black.
WHITE_IS_ZERO = 0
# EXIF tag, and the transform that turns each orientation upright (none for 1).
ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Orientations that exchange height and width.
SIDEWAYS = (5, 6, 7, 8)


def orientation_of(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 if missing or unreadable."""
    try:
        found = image.getexif().get(ORIENTATION)
    except Exception:  # a broken tag does not affect the pixels
        return 1
    return found if found in TURNS else 1


def in_eight_bits(image: Image.Image) -> Image.Image:
    """Converts to 8 bits per channel; keeps the upper 8 of 16, as Pillow does for colour.

    Raises:
      ValueError: if the pixels are not colours or their range is unknown.
    """
    if image.mode in EIGHT_BITS:
        return image
    is_known = image.mode == "I" and image.format in OF_SIXTEEN_BITS
    if not (image.mode.startswith("I;16") or is_known):
        raise ValueError(
            f"its pixels are of mode {image.mode}, not grey or colour of 8 or 16 bits"
        )
    values = np.asarray(image)
    # Pillow inverts such images only if they have 8 bits.
    if (
        isinstance(image, TiffImageFile)
        and image.tag_v2.get(PHOTOMETRIC_INTERPRETATION) == WHITE_IS_ZERO
    ):
        values = 65535 - values
    grey = Image.fromarray((values >> 8).astype(np.uint8))
    hidden = image.info.get("transparency")
    if hidden is not None:  # the grey value that is transparent
        opaque = np.where(values == hidden, 0, 255).astype(np.uint8)
        grey.putalpha(Image.fromarray(opaque))
    return grey


def flattened(image: Image.Image, background: str | None) -> Image.Image:
    """Lays a transparent image on `background`.

    Args:
      image: image with 8 bits per channel.
      background: a colour in any of Pillow's forms; None: refuse transparent images.
    Raises:
      ValueError: if the image is transparent and there is no background.
    """
    if not image.has_transparency_data:
        return image
    if image.mode == "La":
        image = image.convert("LA")
    image = image.convert("RGBA")
    alpha = image.getchannel("A")
    lowest: Any = alpha.getextrema()[0]  # of a single channel, a number
    if lowest < 255 and background is None:
        raise ValueError("it is transparent; give data.files.background, its background")
    canvas = Image.new("RGB", image.size, background or 0)
    canvas.paste(image, mask=alpha)
    return canvas


def is_colour(text: str) -> bool:
    """True if the text is an opaque colour in one of Pillow's forms."""
    try:
        colour = ImageColor.getrgb(text)
    except ValueError:
        return False
    return len(colour) == 3 and max(colour) <= 255
