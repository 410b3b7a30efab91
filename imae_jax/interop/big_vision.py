"""Parameter names of big_vision's and vision_transformer's ViT, read from `.npz` files."""

import re
from collections.abc import Mapping

import numpy as np

from imae_jax.errors import UserError

MARK = "embedding.kernel"
# Patterns of names (big_vision; the older vision_transformer numbers layers differently),
# and MAE's, with the form: see `_to_mae`.
_BLOCK = r"Transformer\.encoderblock_(\d+)\."
_NAMES = [
    (r"cls", "cls_token", "same"),
    (r"(?:Transformer\.posembed_input\.)?pos_embedding", "pos_embed", "positions"),
    (r"embedding\.kernel", "patch_embed.proj.weight", "patches"),
    (r"embedding\.bias", "patch_embed.proj.bias", "same"),
    (r"Transformer\.encoder_norm\.scale", "norm.weight", "same"),
    (r"Transformer\.encoder_norm\.bias", "norm.bias", "same"),
    (rf"{_BLOCK}LayerNorm_0\.scale", r"blocks.\1.norm1.weight", "same"),
    (rf"{_BLOCK}LayerNorm_0\.bias", r"blocks.\1.norm1.bias", "same"),
    (rf"{_BLOCK}LayerNorm_[12]\.scale", r"blocks.\1.norm2.weight", "same"),
    (rf"{_BLOCK}LayerNorm_[12]\.bias", r"blocks.\1.norm2.bias", "same"),
    (
        rf"{_BLOCK}MultiHeadDotProductAttention_[01]\.out\.kernel",
        r"blocks.\1.attn.proj.weight",
        "out",
    ),
    (
        rf"{_BLOCK}MultiHeadDotProductAttention_[01]\.out\.bias",
        r"blocks.\1.attn.proj.bias",
        "same",
    ),
    (rf"{_BLOCK}MlpBlock_[03]\.Dense_0\.kernel", r"blocks.\1.mlp.fc1.weight", "matrix"),
    (rf"{_BLOCK}MlpBlock_[03]\.Dense_0\.bias", r"blocks.\1.mlp.fc1.bias", "same"),
    (rf"{_BLOCK}MlpBlock_[03]\.Dense_1\.kernel", r"blocks.\1.mlp.fc2.weight", "matrix"),
    (rf"{_BLOCK}MlpBlock_[03]\.Dense_1\.bias", r"blocks.\1.mlp.fc2.bias", "same"),
    (r"head\.kernel", "head.weight", "matrix"),
    (r"head\.bias", "head.bias", "same"),
]
_QKV = re.compile(
    rf"{_BLOCK}(MultiHeadDotProductAttention_[01])\.(query|key|value)\.(kernel|bias)"
)


def by_mae_names(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], int]:
    """Converts the arrays of a ViT to MAE's names.

    Args:
      arrays: by dotted names; others keep theirs.
    Returns:
      The arrays and the number of attention heads.
    Raises:
      UserError: if it has no class token or stores no positions, or for odd shapes.
    """
    if "cls" not in arrays:
        raise UserError("it has no class token (cls), which models here have")
    if not any(name.endswith("pos_embedding") for name in arrays):
        raise UserError(
            "it stores no pos_embedding: big_vision's formula (posemb='sincos2d') is not "
            "MAE's, which models here use"
        )
    found, heads = {}, set()
    try:
        for name, x in arrays.items():
            if match := _QKV.fullmatch(name):
                layer, attention, part, kind = match.groups()
                heads.add(x.shape[-2])
                if part == "query":  # takes key and value along
                    parts = [
                        arrays[name.replace(f".query.{kind}", f".{other}.{kind}")]
                        for other in ("query", "key", "value")
                    ]
                    flat = [y.reshape(*y.shape[:-2], -1) for y in parts]
                    whole = np.concatenate([np.moveaxis(y, -1, 0) for y in flat])
                    short = "weight" if kind == "kernel" else "bias"
                    found[f"blocks.{layer}.attn.qkv.{short}"] = whole
                continue
            new, value = _converted(name, x)
            if new in found:
                raise UserError(f"two arrays are {new}, one of them {name}")
            found[new] = value
    except (IndexError, KeyError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"its arrays do not fit big_vision's ViT: {error}") from None
    if len(heads) != 1:
        raise UserError(f"its blocks have {sorted(heads) or 'no'} attention heads")
    return found, heads.pop()


def _converted(name: str, x: np.ndarray) -> tuple[str, np.ndarray]:
    for pattern, new, form in _NAMES:
        if match := re.fullmatch(pattern, name):
            return match.expand(new), _to_mae(x, form)
    return name, x


def _to_mae(x: np.ndarray, form: str) -> np.ndarray:
    if form == "matrix":  # [in, out]
        return x.T
    if form == "out":  # [heads, D / heads, D]
        return x.reshape(-1, x.shape[-1]).T
    if form == "patches":  # [p, p, C, D]
        return x.transpose(3, 2, 0, 1)
    if form == "positions" and x.ndim == 3 and np.sqrt(x.shape[1]).is_integer():
        # Without the class token, whose row is zero in MAE.
        return np.pad(x, ((0, 0), (1, 0), (0, 0)))
    return x
