"""What the arrays of a file are: which model, of what sizes."""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from imae_jax.errors import UserError
from imae_jax.interop import naming
from imae_jax.interop.reading import Contents
from imae_jax.transformer import Size

# How many heads the usual widths have (ViT, DeiT; MAE's decoder): no file says so.
ENCODER_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}
DECODER_HEADS = {512: 16}
RELEASE_DECODER_HEADS = {512: 16, 192: 6}  # i-MAE's release
# Pixels that MAE, timm and Hugging Face standardise with, in 0..255.
IMAGENET_MEAN = tuple(255 * x for x in (0.485, 0.456, 0.406))
IMAGENET_STD = tuple(255 * x for x in (0.229, 0.224, 0.225))


@dataclasses.dataclass(frozen=True)
class Found:
    """A model in someone else's file.

    Attributes:
      kind: "mae", "imae", or "encoder" where nothing else is there.
      source: whose file it is, in words.
      arrays: by MAE's names, float32.
      encoder, decoder: sizes; an encoder alone has no decoder.
      patch_size, image_size, channels: p, (H, W) and C.
      branches: of an i-MAE, see `model.IMAE`.
      norm_pix: whether it predicts standardised patches; None: the file does not say.
      mean, std: [C], of pixels in 0..255.
      notes: what had to be assumed.
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
    mean: tuple[float, ...]
    std: tuple[float, ...]
    notes: tuple[str, ...]

    @property
    def names(self) -> list[naming.Name]:
        """Of every array that the model has."""
        found = naming.encoder_names(self.encoder.depth)
        if self.decoder is not None:
            found += naming.decoder_names(self.decoder.depth, self.heads)
        return found

    @property
    def heads(self) -> list[str]:
        """The linear layers between encoder and decoder, by our names."""
        if self.kind == "mae":
            return ["decoder_embed"]
        both = ["disentangle_subordinate", "disentangle_dominant"]
        return both if self.branches == "both" else both[:1]


def detect(
    contents: Contents,
    *,
    image_size: tuple[int, int] | None = None,
    num_heads: int | None = None,
    decoder_num_heads: int | None = None,
    norm_pix: bool | None = None,
) -> Found:
    """Reads the model off names and shapes.

    Args:
      contents: of a file that is not of our own format.
      image_size: (H, W) that the model is wanted for; None: the file's own.
      num_heads, decoder_num_heads: None: what the file says, or what is usual.
      norm_pix: None: what the file says.
    Raises:
      UserError: if it is no masked autoencoder, or one that cannot be had here.
    """
    arrays, config, args = contents.arrays, contents.config, contents.args
    if config:
        arrays = _of_hugging_face(arrays, config)
    for name in ("cls_token", "patch_embed.proj.weight", "blocks.0.norm1.weight"):
        if name not in arrays:
            some = ", ".join(sorted(arrays)[:4])
            raise UserError(
                f"no masked autoencoder: it has no {name!r}, but {len(arrays)} arrays such "
                f"as {some}"
            )
    arrays = {name: np.asarray(x, np.float32) for name, x in arrays.items()}
    width, channels, patch_size, _ = _shape(arrays, "patch_embed.proj.weight", 4)
    depth = config.get("num_hidden_layers", _depth(arrays, "blocks"))
    notes = []

    is_release = "teacher_path" in args or "decoder_embed1.weight" in arrays
    decoder, kind, source = None, "encoder", "an encoder alone (MAE's or timm's names)"
    if "mask_token" in arrays:
        kind, source = "mae", "a MAE, encoder and decoder (MAE's names)"
        decoder_width = _shape(arrays, "mask_token", 3)[-1]
        usual = RELEASE_DECODER_HEADS if is_release else DECODER_HEADS
        said = decoder_num_heads or config.get("decoder_num_attention_heads")
        decoder = Size(
            decoder_width,
            config.get("decoder_num_hidden_layers", _depth(arrays, "decoder_blocks")),
            said or _usual(usual, decoder_width, "decoder_num_heads"),
        )
    branches = "both"
    if is_release and decoder is not None:
        kind, source = "imae", "an i-MAE of the authors' release, two heads"
        if "decoder_embed1.weight" in arrays:
            # Their class inherits MAE's own, and never uses it.
            unused = [n for n in arrays if n.startswith("decoder_embed.")]
            arrays = {n: x for n, x in arrays.items() if n not in unused}
            if unused:
                notes.append("decoder_embed is left out: the release does not use it")
        else:
            branches, source = "subordinate", "an i-MAE of the authors' release, one head"
            for kind_of in ("weight", "bias"):
                value = arrays.pop(f"decoder_embed.{kind_of}", None)
                if value is not None:
                    arrays[f"decoder_embed1.{kind_of}"] = value
        norm_pix = False if norm_pix is None else norm_pix  # its flag does nothing
    if config:
        source = "a MAE of Hugging Face's"
        norm_pix = config.get("norm_pix_loss") if norm_pix is None else norm_pix
    elif norm_pix is None and "norm_pix_loss" in args and not is_release:
        norm_pix = bool(args["norm_pix_loss"])

    said = num_heads or config.get("num_attention_heads")
    encoder = Size(width, depth, said or _usual(ENCODER_HEADS, width, "num_heads"))
    own_size = _own_image_size(arrays, patch_size, config)
    if image_size is None and own_size is None:
        raise UserError(
            "the file does not tell for which images it is; give --image_size=HEIGHT or "
            "HEIGHTxWIDTH"
        )
    mean, std, note = _statistics(config, channels)
    notes += [note] if note else []
    return Found(
        kind=kind,
        source=source,
        arrays=arrays,
        encoder=encoder,
        decoder=decoder,
        patch_size=patch_size,
        image_size=image_size or own_size,
        channels=channels,
        branches=branches,
        norm_pix=norm_pix,
        mean=mean,
        std=std,
        notes=tuple(notes),
    )


def _of_hugging_face(
    arrays: Mapping[str, np.ndarray], config: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """By MAE's names; raises UserError for what a ViTMAE may have and ours has not."""
    for key, allowed in (("hidden_act", "gelu"), ("qkv_bias", True)):
        if config.get(key, allowed) != allowed:
            raise UserError(
                f"config.json: {key}={config[key]!r} is not possible here: it must be "
                f"{allowed!r}"
            )
    try:
        names = naming.encoder_names(config["num_hidden_layers"])
        depth = config["decoder_num_hidden_layers"]
        names += naming.decoder_names(depth, ["decoder_embed"])
    except (KeyError, TypeError):
        raise UserError("config.json does not say how deep the model is") from None
    wanted = [name.theirs for name in names] + list(naming.POSITIONS.values())
    return naming.from_hugging_face(arrays, wanted)


def _shape(arrays: Mapping[str, np.ndarray], name: str, ndim: int) -> tuple[int, ...]:
    shape = arrays[name].shape
    if len(shape) != ndim:
        raise UserError(f"{name} is {list(shape)}, it should have {ndim} axes")
    return shape


def _depth(arrays: Mapping[str, np.ndarray], prefix: str) -> int:
    pattern = re.compile(rf"{prefix}\.(\d+)\.")
    found = {int(match[1]) for name in arrays if (match := pattern.match(name))}
    return 1 + max(found, default=-1)


def _usual(known: Mapping[int, int], width: int, flag: str) -> int:
    if width not in known:
        raise UserError(
            f"no file says how many heads a model has, and a width of {width} has no usual "
            f"number: give --{flag}"
        )
    return known[width]


def _own_image_size(
    arrays: Mapping[str, np.ndarray], patch_size: int, config: Mapping[str, Any]
) -> tuple[int, int] | None:
    """(H, W): that of the config, or a square, by the number of positions."""
    if size := config.get("image_size"):
        return (size, size) if isinstance(size, int) else tuple(size)
    if "pos_embed" not in arrays:
        return None
    num_patches = _shape(arrays, "pos_embed", 3)[1] - 1
    side = math.isqrt(num_patches)
    return (side * patch_size,) * 2 if side**2 == num_patches else None


def _statistics(
    config: Mapping[str, Any], channels: int
) -> tuple[tuple[float, ...], tuple[float, ...], str]:
    """(mean, std, what was assumed)."""
    said = config.get("preprocessor_config", {})
    if {"image_mean", "image_std"} <= said.keys():
        mean, std = said["image_mean"], said["image_std"]
        if len(mean) == len(std) == channels:
            return *(tuple(255 * x for x in values) for values in (mean, std)), ""
    if channels == 3:
        note = "pixels are standardised with ImageNet's mean and deviation"
        return IMAGENET_MEAN, IMAGENET_STD, note
    note = "pixels in 0..1 are taken as they are: nothing says how to standardise them"
    return (0.0,) * channels, (255.0,) * channels, note
