"""Sprite sheets for the interactive panel."""

import io
import math

import numpy as np
from PIL import Image

LOSSLESS_SIDE = 32  # pixels; larger images become JPEG
MAX_SIDE = 96  # pixels; larger images are shrunk
JPEG_BLOCK = 8
JPEG_QUALITIES = (85, 60, 30)  # the first that fits is used
MAX_SPRITE_BYTES = 2_000_000


def tile_size(height: int, width: int) -> tuple[int, int]:
    """Size (height, width) of the tile of an image, at most `MAX_SIDE` pixels.

    Above `LOSSLESS_SIDE` both are multiples of a JPEG block, since a block shared by two
    tiles would leak pixels of a target into a reconstruction.
    """
    longest = max(height, width)
    if longest <= LOSSLESS_SIDE:
        return height, width
    limit = min(longest, MAX_SIDE)
    down, across = (side * limit // longest // JPEG_BLOCK for side in (height, width))
    return max(1, down) * JPEG_BLOCK, max(1, across) * JPEG_BLOCK


def draw_sprite(pictures: np.ndarray) -> tuple[bytes, str, dict]:
    """Draws [N, H, W, C] pictures in 0..255 as tiles of one image, in raster order.

    Returns:
      The image file, its type ("png" or "jpg"), and the layout: `tile`, (height, width) of
      a tile, and `columns`, their number.
    """
    height, width = tile_size(*pictures.shape[1:3])
    columns = math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    places = {"tile": (height, width), "columns": columns}
    pictures = np.rint(pictures).astype(np.uint8)
    mode = "L" if pictures.shape[-1] == 1 else "RGB"
    sprite = Image.new(mode, (columns * width, rows * height))
    for n, picture in enumerate(pictures):
        tile = Image.fromarray(picture.squeeze(-1) if mode == "L" else picture)
        tile = tile.resize((width, height), Image.Resampling.LANCZOS)
        sprite.paste(tile, (n % columns * width, n // columns * height))
    if max(pictures.shape[1:3]) <= LOSSLESS_SIDE:
        file = io.BytesIO()
        sprite.save(file, format="png", optimize=True)
        return file.getvalue(), "png", places
    for quality in JPEG_QUALITIES:
        file = io.BytesIO()
        sprite.save(file, format="jpeg", quality=quality, subsampling=0)  # see tile_size
        if file.tell() <= MAX_SPRITE_BYTES:
            break
    return file.getvalue(), "jpg", places
