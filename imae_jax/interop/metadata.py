"""Model metadata stored next to the weights (Hugging Face config, MAE training flags)."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from imae_jax.config.rules import Rule, count_from, is_number, within
from imae_jax.errors import UserError
from imae_jax.training.stored_model import MEAN, STD

# Marks files that we exported by MAE's names, with complete metadata.
WRITTEN_BY = "imae_jax"
# Pixel statistics of MAE, timm and Hugging Face, on the 0..255 scale.
IMAGENET_MEAN = tuple(255 * x for x in (0.485, 0.456, 0.406))
IMAGENET_STD = tuple(255 * x for x in (0.229, 0.224, 0.225))
MAX_EPSILON = 1e-5  # LayerNorm; MAE has 1e-6, and smaller ones make no difference


class WeightsMetadata(NamedTuple):
    """Metadata of a model; None: unknown.

    Attributes:
      depth, num_heads: number of blocks and heads of the encoder.
      decoder_depth, decoder_num_heads: number of blocks and heads of the decoder.
      image_size: (H, W).
      patch_size, channels, width, decoder_width: to be compared with the arrays.
      norm_pix: True if it was trained to predict normalized patches.
      mask_ratio: mask ratio of training, in [0, 1).
      mean, std: [C], pixel statistics on the 0..255 scale.
      is_release: True if a script of i-MAE's release wrote the file.
    """

    depth: int | None = None
    num_heads: int | None = None
    decoder_depth: int | None = None
    decoder_num_heads: int | None = None
    image_size: tuple[int, int] | None = None
    patch_size: int | None = None
    channels: int | None = None
    width: int | None = None
    decoder_width: int | None = None
    norm_pix: bool | None = None
    mask_ratio: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    is_release: bool = False


# Pixels are 0..1 before they are normalized.
RESCALE = Rule(lambda x: is_number(x) and abs(255 * x - 1) < 1e-3, "1/255")
_flag = Rule(lambda x: isinstance(x, bool), "true or false")
_count, _ratio = count_from(1), within("[0, 1)")
_size = Rule(
    lambda x: (
        _count.allows(x)
        or (isinstance(x, list | tuple) and len(x) == 2 and all(map(_count.allows, x)))
    ),
    "HEIGHT, or [HEIGHT, WIDTH], each at least 1",
)


def _read(source: Mapping, key: str, rule: Rule, where: str) -> Any:
    """Returns the value of a key or None; raises UserError if it breaks the rule."""
    value = source.get(key)
    if value is not None and not rule.allows(value):
        raise UserError(f"{where}: invalid {key}={value!r}: must be {rule.allowed}")
    return value


def _as_size(value: int | list[int] | None) -> tuple[int, int] | None:
    if isinstance(value, int):
        return value, value
    return (value[0], value[1]) if value else None


def of_hugging_face(stated: Mapping[str, Any]) -> WeightsMetadata:
    """Reads `config.json` of a ViTMAE and its `preprocessor_config`.

    Raises:
      UserError: for options that models here do not have.
    """
    where = "config.json"
    _read(stated, "hidden_act", Rule(lambda x: x == "gelu", "'gelu'"), where)
    _read(stated, "qkv_bias", Rule(lambda x: x is True, "True"), where)
    _read(stated, "layer_norm_eps", within(f"[0, {MAX_EPSILON}]"), where)
    mean, std = _statistics(stated.get("preprocessor_config", {}))
    return WeightsMetadata(
        depth=_read(stated, "num_hidden_layers", _count, where),
        num_heads=_read(stated, "num_attention_heads", _count, where),
        decoder_depth=_read(stated, "decoder_num_hidden_layers", _count, where),
        decoder_num_heads=_read(stated, "decoder_num_attention_heads", _count, where),
        image_size=_as_size(_read(stated, "image_size", _size, where)),
        patch_size=_read(stated, "patch_size", _count, where),
        channels=_read(stated, "num_channels", _count, where),
        width=_read(stated, "hidden_size", _count, where),
        decoder_width=_read(stated, "decoder_hidden_size", _count, where),
        norm_pix=_read(stated, "norm_pix_loss", _flag, where),
        mask_ratio=_read(stated, "mask_ratio", _ratio, where),
        mean=mean,
        std=std,
    )


def _statistics(
    processor: Mapping[str, Any],
) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    where = "preprocessor_config.json"
    # Without it, mean and std are of an unknown scale.
    _read(processor, "do_rescale", Rule(lambda x: x is True, "true"), where)
    _read(processor, "rescale_factor", RESCALE, where)
    _read(processor, "do_normalize", _flag, where)
    mean = _read(processor, "image_mean", MEAN, where)
    std = _read(processor, "image_std", STD, where)
    if mean is None or std is None:
        return None, None
    if processor.get("do_normalize") is False:
        mean, std = [0.0] * len(mean), [1.0] * len(std)
    return tuple(255 * x for x in mean), tuple(255 * x for x in std)


def of_script(args: Mapping[str, Any]) -> WeightsMetadata:
    """Reads flags of MAE's or i-MAE's training script, or those that we write."""
    where = "args"
    found = WeightsMetadata(
        norm_pix=_read(args, "norm_pix_loss", _flag, where),
        mask_ratio=_read(args, "mask_ratio", _ratio, where),
        is_release="teacher_path" in args,
    )
    if args.get("written_by") != WRITTEN_BY:
        # The release ignores the flag and predicts pixels.
        return found._replace(norm_pix=False) if found.is_release else found
    return found._replace(
        num_heads=_read(args, "num_heads", _count, where),
        decoder_num_heads=_read(args, "decoder_num_heads", _count, where),
        image_size=_as_size(_read(args, "image_size", _size, where)),
        mean=_read(args, "mean", MEAN, where),
        std=_read(args, "std", STD, where),
    )


def pixel_statistics(
    said: WeightsMetadata, channels: int
) -> tuple[tuple[float, ...], tuple[float, ...], list[str]]:
    """Returns (mean, std, notes), as stated or else usual; raises UserError if odd."""
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
