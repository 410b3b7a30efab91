"""Images as encoded files, which is how a TFDS builder takes them without TensorFlow."""

import io

import numpy as np
from PIL import Image


def png(image: np.ndarray) -> io.BytesIO:
    """Encodes [H, W] or [H, W, 3] uint8 pixels.

    TFDS would need TensorFlow to encode an array, but takes an encoded file as it is.
    """
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="png")
    file.seek(0)
    return file
