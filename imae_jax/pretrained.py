"""Trained models for use in notebooks and other projects, opened by `imae_jax.load`."""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from numpy.typing import ArrayLike

from imae_jax.data import augment, image_io
from imae_jax.distributed import sharding
from imae_jax.errors import UserError
from imae_jax.evaluators.full_reconstruction import rebuild
from imae_jax.interop import native_format, read_files
from imae_jax.models import masking, patches
from imae_jax.models.classifier import Classifier
from imae_jax.models.forward import encode
from imae_jax.models.imae import IMAE
from imae_jax.models.layers import Compute
from imae_jax.models.mae import MAE
from imae_jax.objectives.mae import check_mask_ratio
from imae_jax.objectives.mixing import mix
from imae_jax.objectives.select import OBJECTIVES
from imae_jax.storage.local_paths import local_path
from imae_jax.training import trained_run
from imae_jax.training.predict import make_network
from imae_jax.training.stored_model import stored_model

Images = ArrayLike | str | Path


class Separated(NamedTuple):
    """A mixture and its two separated images; pixels are float32 in [0, 1].

    Without the axis B if single images were given.

    Attributes:
      mixture: [B, H, W, C].
      mask: [B, L] bool, True = masked in the first pass.
      subordinate, dominant: [B, H, W, C], the reconstructed images, with each patch from a
        pass in which it was masked. `dominant` is None for a model that reconstructs the
        subordinate image only.
    """

    mixture: np.ndarray
    mask: np.ndarray
    subordinate: np.ndarray
    dominant: np.ndarray | None


_encode = jax.jit(encode, static_argnums=0)


@functools.partial(jax.jit, static_argnums=0)
def _forward(
    network: MAE | IMAE,
    params: Any,
    images: jax.Array,
    ids_keep: jax.Array,
    ids_restore: jax.Array,
) -> Any:
    return network.apply({"params": params}, images, ids_keep, ids_restore)


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A trained MAE, i-MAE or encoder; computes in float32 on the first device.

    Attributes:
      config: config of the run that trained it.
      params: pytree of parameters.
      network: linen module of the parameters.
      image_shape: (H, W, C).
      mean, std: [C] float32, statistics of pixels in 0..255, for normalization.
    """

    config: ConfigDict
    params: Any
    network: MAE | IMAE | Classifier
    image_shape: tuple[int, int, int]
    mean: np.ndarray
    std: np.ndarray

    def open_image(self, path: str | Path) -> np.ndarray:
        """Opens an image file in the form that the model takes, [H, W, C] uint8.

        The image is turned upright, cut to the largest central part of the model's
        proportions and resized (bicubic); transparent parts are laid on white.

        Raises:
          UserError: if it cannot be read.
        """
        try:
            data = local_path(path, "path").read_bytes()
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from error
        size = self.image_shape[:2]
        return image_io.decode(
            data,
            str(path),
            size=size,
            channels=self.image_shape[2],
            box_of=lambda height, width: image_io.central_box(height, width, size, 1.0),
            background="white",
        )

    def encode(self, images: Images) -> np.ndarray:
        """Encodes whole images, unmasked and deterministic.

        Args:
          images: [B, H, W, C] or [H, W, C], uint8 or float in [0, 1]; or a file, see
            `open_image`.
        Returns:
          [B, 1 + L, D] tokens (without B for a single image): the class token, then patches
          in raster order. For a fine-tuned classifier, the tokens before pooling.
        Raises:
          UserError: for a wrong shape, type or range.
        """
        images, is_single = self._checked(images, "images")
        tokens = _encode(self.network, self.params, self._normalized(images))
        return np.asarray(tokens)[0 if is_single else slice(None)]

    def separate(
        self,
        image_a: Images,
        image_b: Images,
        *,
        alpha: float = 0.3,
        mask_ratio: float | None = None,
        seed: int = 0,
    ) -> Separated:
        """Mixes `alpha * image_a + (1 - alpha) * image_b` and separates the images again.

        Args:
          image_a: the subordinate image, [H, W, C] or [B, H, W, C], uint8 or float in
            [0, 1]; or a file, see `open_image`.
          image_b: the dominant image, of the same shape, or a file.
          alpha: weight of `image_a`, in (0, 0.5].
          mask_ratio: fraction of masked patches, in [0, 1); None for that of training.
          seed: random seed of the mask.
        Raises:
          UserError: for invalid images or numbers, and for a model that is not an i-MAE of
            two images or does not predict pixels.
        """
        if not self.network.is_fed_mixtures:
            kind = OBJECTIVES[self.config.model.name].title
            raise UserError(f"this is {kind}; only an i-MAE separates two images")
        if (count := self.config.mix.sources) != 2:
            raise UserError(f"this i-MAE separates {count} images; `separate` mixes two")
        if self.config.loss.norm_pix:
            raise UserError(
                "this i-MAE was trained with loss.norm_pix: it predicts patches without "
                "their brightness and contrast, which are no pictures"
            )
        if not 0 < alpha <= 0.5:
            raise UserError(f"invalid alpha={alpha!r}: must be in (0, 0.5]")
        ratio = self.config.mask.ratio if mask_ratio is None else mask_ratio
        check_mask_ratio(ratio, "mask_ratio", self.network.num_patches)
        images_a, is_single = self._checked(image_a, "image_a")
        images_b, _ = self._checked(image_b, "image_b")
        if images_a.shape != images_b.shape:
            raise UserError(
                f"image_a is {list(images_a.shape)}, image_b {list(images_b.shape)}; they "
                "must be of one shape"
            )
        sources = self._normalized(np.stack([images_a, images_b], axis=1))
        mixture = mix(sources, jnp.full(len(sources), alpha))
        key = jax.random.key(seed)
        mask = masking.random_mask(key, len(sources), self.network.num_patches, ratio)
        mesh = sharding.make_mesh(jax.local_devices()[:1])
        pred, _ = rebuild(
            make_network(self.network, self.params, mesh), np.asarray(mixture), mask
        )
        size = self.network.image_size
        rebuilt = patches.unpatchify(jnp.asarray(pred), self.network.patch_size, size)
        parts = [self._pixels(rebuilt[:, s]) for s in range(rebuilt.shape[1])]
        found = [self._pixels(mixture), np.asarray(mask.mask), *parts]
        if is_single:
            found = [x[0] for x in found]
        return Separated(*found, *[None] * (2 - len(parts)))

    def forward(
        self, mixture: ArrayLike, ids_keep: ArrayLike, ids_restore: ArrayLike
    ) -> Mapping[str, np.ndarray]:
        """Returns the model's raw outputs, for exact comparisons.

        Args:
          mixture: [B, H, W, C] float, normalized; single images for a MAE.
          ids_keep, ids_restore: [B, K] and [B, L] int, see `masking.Mask`.
        Returns:
          A dict of `tokens` [B, 1 + K, D], `latents` [B, S, 1 + K, E] and `pred`
          [B, S, L, P]; without S for a MAE. A decoder of cross-attention predicts
          masked patches only, and `pred` is 0 elsewhere.
        Raises:
          UserError: for an encoder without decoder, and for wrong shapes, types or indices.
        """
        if not self.network.has_decoder:
            raise UserError("this is an encoder without a decoder; it has `encode` only")
        mixture, ids_keep, ids_restore = map(np.asarray, (mixture, ids_keep, ids_restore))
        self._check_shape(mixture, "mixture", mixture.ndim == 4)
        count, num_patches = len(mixture), self.network.num_patches
        is_possible = ids_keep.ndim == 2 and ids_restore.shape == (count, num_patches)
        if not is_possible or len(ids_keep) != count or ids_keep.shape[1] > num_patches:
            raise UserError(
                f"ids_keep is {list(ids_keep.shape)}, ids_restore "
                f"{list(ids_restore.shape)}; for {count} images they must be "
                f"[{count}, K] and [{count}, {num_patches}]"
            )
        for name, ids in (("ids_keep", ids_keep), ("ids_restore", ids_restore)):
            is_index = np.issubdtype(ids.dtype, np.integer)
            if not is_index or ids.min() < 0 or ids.max() >= num_patches:
                raise UserError(f"{name} must hold integers from 0 to {num_patches - 1}")
        if not np.issubdtype(mixture.dtype, np.floating):
            raise UserError(
                f"mixture is {mixture.dtype}; it must be floating-point, normalized"
            )
        found = _forward(self.network, self.params, mixture, ids_keep, ids_restore)
        return jax.device_get(found)

    def _check_shape(self, images: np.ndarray, name: str, has_axes: bool) -> None:
        if not has_axes or images.shape[-3:] != self.image_shape:
            shape = ", ".join(map(str, self.image_shape))
            raise UserError(f"{name} is {list(images.shape)}; it must be [B, {shape}]")

    def _checked(self, given: Images, name: str) -> tuple[np.ndarray, bool]:
        """Returns [B, H, W, C] float32 pixels in 0..255, and True for a single image."""
        if isinstance(given, str | Path):
            given = self.open_image(given)
        images = np.asarray(given)
        self._check_shape(images, name, images.ndim in (3, 4))
        if images.dtype == np.uint8:
            pixels = images.astype(np.float32)
        elif np.issubdtype(images.dtype, np.floating):
            if not (np.all(images >= 0) and np.all(images <= 1)):
                low, high = images.min(), images.max()
                raise UserError(
                    f"{name} holds values from {low:g} to {high:g}; floating-point images "
                    "must be finite and in [0, 1]"
                )
            pixels = 255 * images.astype(np.float32)
        else:
            raise UserError(
                f"{name} is {images.dtype}; it must be uint8, or float in [0, 1]"
            )
        is_single = images.ndim == 3
        return pixels[None] if is_single else pixels, is_single

    def _normalized(self, pixels: np.ndarray) -> jax.Array:
        return augment.normalize(jnp.asarray(pixels), self.mean, self.std)

    def _pixels(self, images: jax.Array) -> np.ndarray:
        pixels = augment.unnormalize(images, self.mean, self.std) / 255
        return np.clip(np.asarray(pixels), 0, 1)


def load(path: str | Path, *, step: int | Literal["best"] | None = None) -> Pretrained:
    """Loads a model from a run's checkpoint, or from a safetensors file exported from one.

    Args:
      path: a workdir or a file.
      step: step of the checkpoint in a workdir, see `trained_run.load_run`.
    Raises:
      UserError: if it is neither, or damaged.
    """
    path = local_path(path, "path")
    if path.is_dir():
        if (path / "config.json").exists() and not (path / "checkpoints").exists():
            raise UserError(f"{path} holds no checkpoints: {_IMPORT}")
        mesh = sharding.make_mesh(jax.local_devices()[:1])
        run = trained_run.load_run(path, "path", mesh, step)
        return _pretrained(run.config, run.params, run.meta)
    if not path.exists():
        raise UserError(f"{path} does not exist")
    if step is not None:
        raise UserError(f"step={step!r}: {path} is a file, which holds one step")
    contents = read_files.read(path)
    if not contents.is_native:
        raise UserError(f"{path} was not exported from here: {_IMPORT}")
    found = native_format.read(contents, path)
    return _pretrained(found.config, jax.device_put(found.arrays["params"]), found.meta)


_IMPORT = (
    "weights from elsewhere are first made a run, by main.py import --checkpoint=FILE "
    "--workdir=DIR, in a clone"
)


def _pretrained(config: ConfigDict, params: Any, meta: Mapping) -> Pretrained:
    network = stored_model(config, meta)
    image_shape = (*network.image_size, network.channels)
    mean, std = (np.array(meta[name], np.float32) for name in ("mean", "std"))
    network = network.clone(compute=Compute())
    return Pretrained(config, params, network, image_shape, mean, std)
