"""Model metadata stored next to the weights (Hugging Face config, MAE training flags)."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from imae_jax.errors import UserError

# Marks files that we exported by MAE's names, with complete metadata.
WRITTEN_BY = "imae_jax"
MAX_EPSILON = 1e-5  # LayerNorm; MAE has 1e-6, and smaller ones make no difference


class WeightsMetadata(NamedTuple):
    """Metadata of a model; None: unknown.

    Attributes:
      depth, num_heads: number of blocks and heads of the encoder.
      decoder_depth, decoder_num_heads: number of blocks and heads of the decoder.
      image_size: (H, W).
      patch_size, channels: p and C, to be compared with the arrays.
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
    norm_pix: bool | None = None
    mask_ratio: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    is_release: bool = False


def _is_count(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_size(value) -> bool:
    is_pair = isinstance(value, list | tuple) and len(value) == 2
    return _is_count(value) or (is_pair and all(map(_is_count, value)))


def _is_number(value) -> bool:
    is_real = isinstance(value, int | float) and not isinstance(value, bool)
    return is_real and math.isfinite(value)


def _is_ratio(value) -> bool:
    return _is_number(value) and 0 <= value < 1


def _are_numbers(value) -> bool:
    return isinstance(value, list | tuple) and all(map(_is_number, value))


def _are_positive(value) -> bool:
    return _are_numbers(value) and all(x > 0 for x in value)


def _is_flag(value) -> bool:
    return isinstance(value, bool)


def _read(source: Mapping, key: str, is_possible: Callable[[Any], bool], where: str):
    """Returns the value of a key or None; raises UserError if it is not possible."""
    value = source.get(key)
    if value is not None and not is_possible(value):
        raise UserError(f"{where}: invalid {key}={value!r} here")
    return value


def _as_size(value: int | list[int] | None) -> tuple[int, int] | None:
    return (value, value) if isinstance(value, int) else value and tuple(value)


def of_hugging_face(stated: Mapping[str, Any]) -> WeightsMetadata:
    """Reads `config.json` of a ViTMAE and its `preprocessor_config`.

    Raises:
      UserError: for options that models here do not have.
    """
    where = "config.json"
    _read(stated, "hidden_act", lambda x: x == "gelu", where)
    _read(stated, "qkv_bias", lambda x: x is True, where)
    _read(
        stated, "layer_norm_eps", lambda x: _is_number(x) and 0 <= x <= MAX_EPSILON, where
    )
    mean, std = _statistics(stated.get("preprocessor_config", {}))
    return WeightsMetadata(
        depth=_read(stated, "num_hidden_layers", _is_count, where),
        num_heads=_read(stated, "num_attention_heads", _is_count, where),
        decoder_depth=_read(stated, "decoder_num_hidden_layers", _is_count, where),
        decoder_num_heads=_read(stated, "decoder_num_attention_heads", _is_count, where),
        image_size=_as_size(_read(stated, "image_size", _is_size, where)),
        patch_size=_read(stated, "patch_size", _is_count, where),
        channels=_read(stated, "num_channels", _is_count, where),
        norm_pix=_read(stated, "norm_pix_loss", _is_flag, where),
        mask_ratio=_read(stated, "mask_ratio", _is_ratio, where),
        mean=mean,
        std=std,
    )


def _statistics(processor: Mapping[str, Any]):
    where = "preprocessor_config.json"
    mean = _read(processor, "image_mean", _are_numbers, where)
    std = _read(processor, "image_std", _are_positive, where)
    if mean is None or std is None:
        return None, None
    if _read(processor, "do_normalize", _is_flag, where) is False:
        mean, std = [0.0] * len(mean), [1.0] * len(std)
    return (*(tuple(255 * x for x in values) for values in (mean, std)),)


def of_script(args: Mapping[str, Any]) -> WeightsMetadata:
    """Reads flags of MAE's or i-MAE's training script, or those that we write."""
    where = "args"
    found = WeightsMetadata(
        norm_pix=_read(args, "norm_pix_loss", _is_flag, where),
        mask_ratio=_read(args, "mask_ratio", _is_ratio, where),
        is_release="teacher_path" in args,
    )
    if args.get("written_by") != WRITTEN_BY:
        # The release ignores the flag and predicts pixels.
        return found._replace(norm_pix=False) if found.is_release else found
    return found._replace(
        num_heads=_read(args, "num_heads", _is_count, where),
        decoder_num_heads=_read(args, "decoder_num_heads", _is_count, where),
        image_size=_as_size(_read(args, "image_size", _is_size, where)),
        mean=_read(args, "mean", _are_numbers, where),
        std=_read(args, "std", _are_positive, where),
    )
