"""`Encoder`: a function from images to features, with its preprocessing and its name."""

import dataclasses
import functools
import importlib
import types
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from imae_jax.errors import UserError, one_line

# Our names and libraries' names of what `jax.image.resize` does, antialiased.
INTERPOLATIONS = {
    "nearest": "nearest",
    "bilinear": "linear",
    "bicubic": "cubic",
    "lanczos": "lanczos3",
}
# Pillow's numbers of these, which Hugging Face stores.
PILLOW = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Preprocessing of images before an encoder: resized, then normalized.

    Both steps are linear up to a constant, so that a mixture of preprocessed images is the
    preprocessed mixture. Images are resized whole, without a central crop.

    Attributes:
      size: (H, W) of the encoder's input, or None: as they are.
      channels: C of the input, or None: as they are. Grey images are repeated.
      mean, std: statistics of pixels in 0..1, one or C numbers; None: pixels stay 0..255.
      interpolation: a key of `INTERPOLATIONS`.
      source: the record they were taken from.
    """

    size: tuple[int, int] | None = None
    channels: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    interpolation: str = "bilinear"
    source: str = "images as they are given"

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Returns [B, H, W, C] float32 of [B, h, w, c] numbers in 0..255.

        Raises:
          UserError: if the images cannot have the wanted number of channels.
        """
        channels = images.shape[-1]
        if self.channels not in (None, channels):
            if channels != 1:
                raise UserError(
                    f"images have {channels} channels; the encoder takes {self.channels}"
                )
            images = np.repeat(images, self.channels, axis=-1)
        if self.size not in (None, images.shape[1:3]):
            images = _resize(images, self.size, INTERPOLATIONS[self.interpolation])
        images = np.array(images, np.float32)
        if self.mean is not None:
            assert self.std is not None, "see `Spec.preprocessing`"
            mean, std = (np.array(x, np.float32) for x in (self.mean, self.std))
            images = (images / np.float32(255) - mean) / std
        return images

    def __str__(self) -> str:
        size = f"{self.size[0]}x{self.size[1]}" if self.size else "size as given"
        if self.mean is None:
            return f"{size}, pixels 0..255 ({self.source})"
        assert self.std is not None, "see `Spec.preprocessing`"
        mean, std = ("/".join(f"{value:.3g}" for value in x) for x in (self.mean, self.std))
        return f"{size} {self.interpolation}, mean {mean}, std {std} ({self.source})"


@functools.partial(jax.jit, static_argnums=(1, 2))
def _resize(images: np.ndarray, size: tuple[int, int], method: str) -> jax.Array:
    shape = (len(images), *size, images.shape[-1])
    return jax.image.resize(jnp.asarray(images, jnp.float32), shape, method)


@dataclasses.dataclass(frozen=True)
class Encoder:
    """An encoder of any library.

    Attributes:
      name: its name in tables and messages.
      function: preprocessed images, float32 [B, H, W, C] -> features [B, D] or tokens
        [B, T, D]; [B, S, D] or [B, S, T, D] with `branches`.
      preprocessing: of its images.
      num_prefix: tokens before those of patches, such as a class token; not pooled.
      shown: the part of an image that it sees, for tables.
      branches: True if its features have an axis S.
      untrained: makes the same encoder with random weights; None if that is unknown.
      kept: [K] int, the patches that its tokens are of, of `num_patches` in raster order,
        if it is shown a part of each image; None: all.
      num_patches: number of patches of an image, with `kept`.
    """

    name: str
    function: Callable[[np.ndarray], Any]
    preprocessing: Preprocessing = Preprocessing()
    num_prefix: int = 0
    shown: str = "whole images"
    branches: bool = False
    untrained: Callable[[], "Encoder"] | None = None
    kept: np.ndarray | None = None
    num_patches: int = 0

    def __call__(self, images: np.ndarray) -> Any:
        """Encodes [B, H, W, C] images in 0..255."""
        return self.function(self.preprocessing(images))

    def __repr__(self) -> str:
        return f"Encoder({self.name}: {self.preprocessing}; {self.shown})"


def reason(error: Exception) -> str:
    """Returns the message of an error in one line of at most 200 characters."""
    text = one_line(error) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:197]}..."


def mask_noise(ratio: float, num_patches: int) -> np.ndarray:
    """Returns the noise [L] float32 that ranks patches, one mask for all images.

    With a ratio of 0, patches stay in raster order.
    """
    if not ratio:
        return np.arange(num_patches, dtype=np.float32)
    return np.random.default_rng(0).random(num_patches).astype(np.float32)


def import_library(name: str, spec: str, packages: str = "") -> types.ModuleType:
    """Imports an optional library.

    Args:
      name: its module.
      spec: the encoder that needs it, for the message.
      packages: what pip installs, if not `name`.
    Raises:
      UserError: if it is missing or cannot be imported.
    """
    try:
        return importlib.import_module(name)
    except Exception as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == name
        why = "which is not installed" if missing else f"not importable: {reason(error)}"
        raise UserError(
            f"invalid encoder={spec!r}: needs {name}, {why}: pip install {packages or name}"
        ) from None
