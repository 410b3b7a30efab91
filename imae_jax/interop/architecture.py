"""Infers the architecture of a model from the names and shapes of its arrays."""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from imae_jax.errors import UserError
from imae_jax.interop import (
    attention_heads,
    big_vision,
    huggingface,
    mae_names,
    metadata,
)
from imae_jax.interop.imae_release import from_release
from imae_jax.interop.metadata import WeightsMetadata
from imae_jax.interop.read_files import FileContents
from imae_jax.models.branches import branch_names
from imae_jax.models.transformer import Size


@dataclasses.dataclass(frozen=True)
class DetectedModel:
    """A model detected in a file of another project.

    Attributes:
      kind: "mae", "imae", or if there is no decoder "classifier" (fine-tuned, of mean
        tokens) or "encoder".
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

    kind: Literal["mae", "imae", "classifier", "encoder"]
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
        if self.kind == "classifier":
            return mae_names.classifier_names(found)
        if self.decoder is not None:
            found += mae_names.decoder_names(self.decoder.depth, self.heads)
        return found

    @property
    def num_classes(self) -> int:
        """Number of classes of a classifier, else 0."""
        return len(self.arrays["head.weight"]) if self.kind == "classifier" else 0

    @property
    def heads(self) -> list[str]:
        """Linear layers between encoder and decoder, by our names."""
        if self.kind == "mae":
            return ["decoder_embed"]
        count = 2 if self.branches == "both" else 1
        return [f"disentangle_{branch}" for branch in branch_names(count)]


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
    said, notes = metadata.of_script(contents.args), [contents.note] * bool(contents.note)
    if contents.config:
        said = metadata.of_hugging_face(contents.config)
    source, arrays, said = _by_mae_names(contents.arrays, said)
    _check_is_vit(arrays)
    # BatchNorm in a probe's head counts its batches, in integers.
    used = {n: x for n, x in arrays.items() if not n.endswith(".num_batches_tracked")}
    arrays = {name: _as_float32(x, name) for name, x in used.items()}
    width, channels, patch_size, _ = _shape(arrays, "patch_embed.proj.weight", 4)
    depth = _depth(arrays, "blocks")
    _check_sizes(
        ("patch size", said.patch_size, patch_size),
        ("number of channels", said.channels, channels),
        ("width", said.width, width),
        ("depth", said.depth, depth),
    )
    heads, assumed = attention_heads.num_heads(
        num_heads, said.num_heads, attention_heads.ENCODER_HEADS, width, "num_heads"
    )
    encoder, notes = Size(width, depth, heads), notes + assumed
    is_release = said.is_release or "decoder_embed1.weight" in arrays
    decoder, assumed = _decoder(arrays, said, decoder_num_heads, is_release)
    is_alone = decoder is None
    if is_alone and (decoder_num_heads, norm_pix) != (None, None):
        flag = "norm_pix" if decoder_num_heads is None else "decoder_num_heads"
        raise UserError(f"--{flag}: this is an encoder alone, without a decoder")
    if is_release and not is_alone:
        said = said._replace(norm_pix=bool(said.norm_pix))
    found = _without_decoder(arrays) if is_alone else _with_decoder(arrays, is_release)
    image_size = image_size or _image_size(found.arrays, said.image_size, patch_size)
    if image_size is None:
        form = "give --image_size=HEIGHT or HEIGHTxWIDTH"
        raise UserError(f"the file does not tell for which images it is; {form}")
    mean, std, note = metadata.pixel_statistics(said, channels)
    return DetectedModel(
        kind=found.kind,
        source=source or found.source,
        arrays=found.arrays,
        encoder=encoder,
        decoder=decoder,
        patch_size=patch_size,
        image_size=image_size,
        channels=channels,
        branches=found.branches,
        norm_pix=said.norm_pix if norm_pix is None else norm_pix,
        mask_ratio=said.mask_ratio,
        mean=mean,
        std=std,
        notes=(*notes, *assumed, *found.notes, *note),
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


def _by_mae_names(
    arrays: Mapping[str, np.ndarray], said: WeightsMetadata
) -> tuple[str | None, Mapping[str, np.ndarray], WeightsMetadata]:
    """Returns (source, arrays by MAE's names, metadata) for other families' names."""
    if big_vision.MARK in arrays:
        arrays, heads = big_vision.by_mae_names(arrays)
        return "a ViT of big_vision's", arrays, said._replace(num_heads=heads)
    if huggingface.has_its_names(arrays):
        return "a MAE of Hugging Face's", huggingface.by_mae_names(arrays), said
    return None, arrays, said


class _Kind(NamedTuple):
    """Kind of a model, with those of its arrays that are used; see `DetectedModel`."""

    kind: Literal["mae", "imae", "classifier", "encoder"]
    source: str
    arrays: Mapping[str, np.ndarray]
    notes: Sequence[str] = ()
    branches: str = "both"


def _with_decoder(arrays: Mapping[str, np.ndarray], is_release: bool) -> _Kind:
    """Kind of a model with a decoder."""
    if not is_release:
        return _Kind("mae", "a MAE, encoder and decoder (MAE's names)", arrays)
    arrays, branches, left_out = from_release(arrays)
    number = "two heads" if branches == "both" else "one head"
    source = f"an i-MAE by the names of the authors' release, {number}"
    return _Kind("imae", source, arrays, left_out, branches)


def _without_decoder(arrays: Mapping[str, np.ndarray]) -> _Kind:
    """Kind of a model without a decoder."""
    heads = sorted(x for x in arrays if x.startswith(("head.", "head_dist.")))
    if "fc_norm.weight" in arrays and "norm.weight" not in arrays:
        if "head.weight" not in arrays or arrays["head.weight"].ndim != 2:
            raise UserError(
                "it is an encoder that ends with fc_norm, and no classifier, as it has no "
                "head.weight: which model it belongs to is not clear"
            )
        note = f"the names of its {len(arrays['head.weight'])} classes are not in the file"
        source = "a fine-tuned classifier of mean tokens (MAE's or timm's names)"
        return _Kind("classifier", source, dict(arrays), [note])
    # With the class token or the mean of tokens: nothing says which.
    notes = [f"a head is left out: {', '.join(heads)}"] if heads else []
    rest = {name: x for name, x in arrays.items() if name not in heads}
    return _Kind("encoder", "an encoder alone (MAE's or timm's names)", rest, notes)


def _check_sizes(*sizes: tuple[str, int | None, int]) -> None:
    """Raises UserError if metadata and arrays differ; takes (name, stated, of arrays)."""
    for key, value, own in sizes:
        if value not in (None, own):
            raise UserError(f"its config says {key} {value}, its arrays say {own}")


def _decoder(
    arrays: Mapping[str, np.ndarray],
    said: WeightsMetadata,
    num_heads: int | None,
    is_release: bool,
) -> tuple[Size | None, list[str]]:
    """Size of the decoder, None if there is none; and notes."""
    if "mask_token" not in arrays:
        return None, []
    width = _shape(arrays, "mask_token", 3)[-1]
    usual = attention_heads.DECODER_HEADS
    if is_release:
        usual = attention_heads.RELEASE_DECODER_HEADS
    depth = _depth(arrays, "decoder_blocks")
    _check_sizes(
        ("decoder width", said.decoder_width, width),
        ("decoder depth", said.decoder_depth, depth),
    )
    heads, notes = attention_heads.num_heads(
        num_heads, said.decoder_num_heads, usual, width, "decoder_num_heads"
    )
    return Size(width, depth, heads), notes


def _as_float32(x: np.ndarray, name: str) -> np.ndarray:
    if np.iscomplexobj(x):
        raise UserError(f"{name} holds complex numbers")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise UserError(f"{name} holds {x.dtype}, no floating-point numbers")
    if not x.size:
        raise UserError(f"{name} is {list(x.shape)}, it holds no values")
    with np.errstate(over="ignore"):
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


def _image_size(
    arrays: Mapping[str, np.ndarray], said: tuple[int, int] | None, patch_size: int
) -> tuple[int, int] | None:
    """Returns (H, W) as stated, or of square images with as many patches as positions.

    Raises:
      UserError: if the stated size has another number of patches.
    """
    if "pos_embed" not in arrays:
        return said
    num_patches = _shape(arrays, "pos_embed", 3)[1] - 1
    if said is not None:
        height, width = said
        if height * width != num_patches * patch_size**2:
            raise UserError(
                f"its config says images of {height}x{width}, its pos_embed is of "
                f"{num_patches} patches of {patch_size}x{patch_size}"
            )
        return said
    side = math.isqrt(max(num_patches, 0))
    return (side * patch_size,) * 2 if side and side**2 == num_patches else None
