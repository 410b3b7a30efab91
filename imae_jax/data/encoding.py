"""Images as files, for builders to hand to TFDS."""

import io

import numpy as np
from PIL import Image


def png(image: np.ndarray) -> io.BytesIO:
    """Encodes an image, [H, W] or [H, W, C] uint8, as a PNG file; lossless.

    TFDS would need TensorFlow to encode an array, but takes an encoded file as it is.
    """
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="png")
    file.seek(0)
    return file
