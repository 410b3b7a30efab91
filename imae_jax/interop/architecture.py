"""Infers the architecture of a model from the names and shapes of its arrays."""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Literal

import numpy as np

from imae_jax.errors import UserError
from imae_jax.interop import mae_names, metadata
from imae_jax.interop.huggingface import by_mae_names
from imae_jax.interop.imae_release import from_release
from imae_jax.interop.metadata import WeightsMetadata
from imae_jax.interop.read_files import FileContents
from imae_jax.models.transformer import Size

# Number of heads by width (ViT, DeiT; MAE's decoder), for files that do not state it.
ENCODER_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}
DECODER_HEADS = {512: 16}
RELEASE_DECODER_HEADS = {512: 16, 192: 6}  # i-MAE's release
# Pixel statistics of MAE, timm and Hugging Face, on the 0..255 scale.
IMAGENET_MEAN = tuple(255 * x for x in (0.485, 0.456, 0.406))
IMAGENET_STD = tuple(255 * x for x in (0.229, 0.224, 0.225))


@dataclasses.dataclass(frozen=True)
class DetectedModel:
    """A model detected in a file of another project.

    Attributes:
      kind: "mae", "imae", or "encoder" if there is no decoder.
      source: description of the file's origin.
      arrays: float32 arrays by MAE's names.
      encoder, decoder: sizes; no decoder for an encoder alone.
      patch_size, image_size, channels: p, (H, W) and C.
      branches: branches of an i-MAE, see `models.imae.IMAE`.
      norm_pix: True if it predicts normalized patches; None: unknown.
      mask_ratio: mask ratio of training, in [0, 1); None: unknown.
      mean, std: [C], pixel statistics on the 0..255 scale.
      notes: assumptions that were made.
    """

    kind: Literal["mae", "imae", "encoder"]
    source: str
    arrays: Mapping[str, np.ndarray]
    encoder: Size
    decoder: Size | None
    patch_size: int
    image_size: tuple[int, int]
    channels: int
    branches: str
    norm_pix: bool | None
    mask_ratio: float | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    notes: tuple[str, ...]

    @property
    def names(self) -> list[mae_names.Name]:
        """Names of all arrays of the model."""
        found = mae_names.encoder_names(self.encoder.depth)
        if self.decoder is not None:
            found += mae_names.decoder_names(self.decoder.depth, self.heads)
        return found

    @property
    def heads(self) -> list[str]:
        """Linear layers between encoder and decoder, by our names."""
        if self.kind == "mae":
            return ["decoder_embed"]
        both = ["disentangle_subordinate", "disentangle_dominant"]
        return both if self.branches == "both" else both[:1]


def detect(
    contents: FileContents,
    *,
    image_size: tuple[int, int] | None = None,
    num_heads: int | None = None,
    decoder_num_heads: int | None = None,
    norm_pix: bool | None = None,
) -> DetectedModel:
    """Infers the model from names and shapes of the arrays, and from metadata.

    Args:
      contents: contents of a file that is not in our own format.
      image_size: (H, W) to use the model with; None: that of the file.
      num_heads, decoder_num_heads: None: from the file, or usual for the width.
      norm_pix: None: from the file.
    Raises:
      UserError: if it is not a masked autoencoder, or an unsupported one.
    """
    arrays = contents.arrays
    said = metadata.of_script(contents.args)
    source = None
    if contents.config:
        source, said = "a MAE of Hugging Face's", metadata.of_hugging_face(contents.config)
        arrays = by_mae_names(arrays, said)
    _check_is_vit(arrays)
    arrays = {name: _as_float32(x, name) for name, x in arrays.items()}
    width, channels, patch_size, _ = _shape(arrays, "patch_embed.proj.weight", 4)
    _check_sizes(said, patch_size, channels)
    heads = _heads(num_heads, said.num_heads, ENCODER_HEADS, width, "num_heads")
    encoder = Size(width, said.depth or _depth(arrays, "blocks"), heads)
    kind, branches, notes = "encoder", "both", []
    own_source = "an encoder alone (MAE's or timm's names)"
    is_release = said.is_release or "decoder_embed1.weight" in arrays
    decoder = _decoder(arrays, said, decoder_num_heads, is_release)
    if decoder is not None:
        kind, own_source = "mae", "a MAE, encoder and decoder (MAE's names)"
        if is_release:
            kind = "imae"
            arrays, branches, notes = from_release(arrays)
            number = "two heads" if branches == "both" else "one head"
            own_source = f"an i-MAE by the names of the authors' release, {number}"
            said = said._replace(norm_pix=bool(said.norm_pix))
    elif (decoder_num_heads, norm_pix) != (None, None):
        flag = "norm_pix" if decoder_num_heads is None else "decoder_num_heads"
        raise UserError(f"--{flag}: this is an encoder alone, without a decoder")
    image_size = image_size or said.image_size or _own_image_size(arrays, patch_size)
    if image_size is None:
        raise UserError(
            "the file does not tell for which images it is; give --image_size=HEIGHT or "
            "HEIGHTxWIDTH"
        )
    mean, std, note = _statistics(said, channels)
    return DetectedModel(
        kind=kind,
        source=source or own_source,
        arrays=arrays,
        encoder=encoder,
        decoder=decoder,
        patch_size=patch_size,
        image_size=image_size,
        channels=channels,
        branches=branches,
        norm_pix=said.norm_pix if norm_pix is None else norm_pix,
        mask_ratio=said.mask_ratio,
        mean=mean,
        std=std,
        notes=(*notes, *note),
    )


def _check_is_vit(arrays: Mapping[str, np.ndarray]) -> None:
    """Raises UserError unless the arrays have MAE's names of a ViT."""
    for name in ("cls_token", "patch_embed.proj.weight", "blocks.0.norm1.weight"):
        if name not in arrays:
            some = ", ".join(sorted(arrays)[:4])
            raise UserError(
                f"no masked autoencoder: it has no {name!r}, but {len(arrays)} arrays such "
                f"as {some}"
            )


def _check_sizes(said: WeightsMetadata, patch_size: int, channels: int) -> None:
    """Raises UserError if metadata and arrays differ."""
    for key, value, own in (
        ("patch size", said.patch_size, patch_size),
        ("number of channels", said.channels, channels),
    ):
        if value not in (None, own):
            raise UserError(f"its config says {key} {value}, its arrays say {own}")


def _decoder(
    arrays: Mapping[str, np.ndarray],
    said: WeightsMetadata,
    num_heads: int | None,
    is_release: bool,
) -> Size | None:
    """Size of the decoder; None if there is none."""
    if "mask_token" not in arrays:
        return None
    width = _shape(arrays, "mask_token", 3)[-1]
    usual = RELEASE_DECODER_HEADS if is_release else DECODER_HEADS
    depth = said.decoder_depth or _depth(arrays, "decoder_blocks")
    heads = num_heads, said.decoder_num_heads, usual, width
    return Size(width, depth, _heads(*heads, "decoder_num_heads"))


def _as_float32(x: np.ndarray, name: str) -> np.ndarray:
    if np.iscomplexobj(x):
        raise UserError(f"{name} holds complex numbers")
    x = np.asarray(x, np.float32)
    if not np.all(np.isfinite(x)):
        raise UserError(f"{name} holds values that are not finite")
    return x


def _shape(arrays: Mapping[str, np.ndarray], name: str, ndim: int) -> tuple[int, ...]:
    shape = arrays[name].shape
    if len(shape) != ndim:
        raise UserError(f"{name} is {list(shape)}, it should have {ndim} axes")
    return shape


def _depth(arrays: Mapping[str, np.ndarray], prefix: str) -> int:
    pattern = re.compile(rf"{prefix}\.(\d+)\.")
    found = {int(match[1]) for name in arrays if (match := pattern.match(name))}
    depth = 1 + max(found, default=-1)
    if depth > len(arrays):  # avoids building an absurdly deep model
        raise UserError(f"unexpected {prefix}.{depth - 1}: {len(arrays)} arrays in all")
    return depth


def _heads(
    given: int | None, said: int | None, usual: Mapping[int, int], width: int, flag: str
) -> int:
    if given is not None:
        return given
    if said is None and width not in usual:
        raise UserError(
            f"no file says how many heads a model has, and a width of {width} has no usual "
            f"number: give --{flag}"
        )
    return said or usual[width]


def _own_image_size(
    arrays: Mapping[str, np.ndarray], patch_size: int
) -> tuple[int, int] | None:
    """Infers (H, W) of square images from the number of position embeddings."""
    if "pos_embed" not in arrays:
        return None
    num_patches = _shape(arrays, "pos_embed", 3)[1] - 1
    side = math.isqrt(max(num_patches, 0))
    return (side * patch_size,) * 2 if side and side**2 == num_patches else None


def _statistics(
    said: WeightsMetadata, channels: int
) -> tuple[tuple[float, ...], tuple[float, ...], list[str]]:
    """Returns (mean, std, notes)."""
    if said.mean is not None and said.std is not None:
        if len(said.mean) == len(said.std) == channels:
            return tuple(said.mean), tuple(said.std), []
        raise UserError(
            f"mean {list(said.mean)} and std {list(said.std)} of pixels must be of "
            f"{channels} channels"
        )
    if channels == 3:
        note = "pixels are normalized with ImageNet's mean and std"
        return IMAGENET_MEAN, IMAGENET_STD, [note]
    note = "pixels in 0..1 are taken as they are: nothing says how to normalize them"
    return (0.0,) * channels, (255.0,) * channels, [note]
