"""Sprite sheets of the report's panel."""

import io
import math

import numpy as np
from PIL import Image

LOSSLESS_SIDE = 32  # pixels; larger images become JPEG
MAX_SIDE = 96  # pixels; larger images are shrunk
JPEG_BLOCK = 8
JPEG_QUALITIES = (85, 60, 30)  # the first that fits
MAX_SPRITE_BYTES = 2_000_000


def tile_size(height: int, width: int) -> tuple[int, int]:
    """(height, width) at which an image is kept, at most `MAX_SIDE`.

    Above `LOSSLESS_SIDE` both are whole JPEG blocks, so that no tile shares one with its
    neighbour: a target's pixels would shine through into a reconstruction.
    """
    longest = max(height, width)
    if longest <= LOSSLESS_SIDE:
        return height, width
    limit = min(longest, MAX_SIDE)
    blocks = [side * limit // longest // JPEG_BLOCK for side in (height, width)]
    return tuple(max(1, count) * JPEG_BLOCK for count in blocks)


def draw_sprite(pictures: np.ndarray) -> tuple[bytes, str, dict]:
    """Lays [N, H, W, C] pictures in 0..255 out as the tiles of one image.

    Returns:
      The image file, its type ("png" or "jpg"), and where tiles are: `tile`, the (height,
      width) of one, and `columns`; they are in raster order.
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
