"""Parameter names: ours, MAE's (also timm's and i-MAE's release's), Hugging Face's."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from imae_jax.models.patches import sincos_position_embedding


class Name(NamedTuple):
    """Names and layout of a parameter here and in MAE.

    Attributes:
      ours: path in our parameters, such as `encoder/class_token`.
      theirs: name in MAE, such as `cls_token`.
      form: layout in MAE: "same"; "token": [1, 1, D], ours [D]; "matrix": [out, in], ours
        [in, out]; "patches": a convolution [D, C, p, p], ours [P, D].
    """

    ours: str
    theirs: str
    form: str


# In i-MAE's release the second head is for the image of larger weight.
HEADS = {
    "decoder_embed": "decoder_embed",
    "disentangle_subordinate": "decoder_embed1",
    "disentangle_dominant": "decoder_embed2",
}
# MAE stores its fixed position embeddings; ours are computed.
POSITIONS = {"encoder": "pos_embed", "decoder": "decoder_pos_embed"}


def _linear(ours: str, theirs: str) -> list[Name]:
    return [
        Name(f"{ours}/kernel", f"{theirs}.weight", "matrix"),
        Name(f"{ours}/bias", f"{theirs}.bias", "same"),
    ]


def _norm(ours: str, theirs: str) -> list[Name]:
    return [
        Name(f"{ours}/scale", f"{theirs}.weight", "same"),
        Name(f"{ours}/bias", f"{theirs}.bias", "same"),
    ]


def _transformer(ours: str, theirs: str, norm: str, depth: int) -> list[Name]:
    found = _norm(f"{ours}/norm", norm)
    for layer in range(depth):
        block, their_block = f"{ours}/block_{layer:02d}", f"{theirs}.{layer}"
        found += _norm(f"{block}/norm_1", f"{their_block}.norm1")
        found += _linear(f"{block}/attention/qkv", f"{their_block}.attn.qkv")
        found += _linear(f"{block}/attention/out", f"{their_block}.attn.proj")
        found += _norm(f"{block}/norm_2", f"{their_block}.norm2")
        found += _linear(f"{block}/mlp_in", f"{their_block}.mlp.fc1")
        found += _linear(f"{block}/mlp_out", f"{their_block}.mlp.fc2")
    return found


def encoder_names(depth: int) -> list[Name]:
    """Names of the arrays of an encoder with `depth` blocks."""
    return [
        Name("encoder/class_token", "cls_token", "token"),
        Name("encoder/patch_embed/kernel", "patch_embed.proj.weight", "patches"),
        Name("encoder/patch_embed/bias", "patch_embed.proj.bias", "same"),
        *_transformer("encoder/transformer", "blocks", "norm", depth),
    ]


def decoder_names(depth: int, heads: Iterable[str]) -> list[Name]:
    """Names of the arrays of a decoder and of the `HEADS` before it."""
    return [
        Name("decoder/mask_token", "mask_token", "token"),
        *_transformer("decoder/transformer", "decoder_blocks", "decoder_norm", depth),
        *_linear("decoder/pred", "decoder_pred"),
        *[name for head in heads for name in _linear(head, HEADS[head])],
    ]


def classifier_names(encoder: Iterable[Name]) -> list[Name]:
    """Names of the arrays of a fine-tuned classifier of mean tokens (MAE).

    Its encoder has no final LayerNorm; the head's own follows the mean.
    """
    return [
        *[name for name in encoder if not name.ours.startswith("encoder/transformer/norm")],
        *_norm("fc_norm", "fc_norm"),
        *_linear("head_mean", "head"),
    ]


def positions(width: int, grid: tuple[int, int]) -> np.ndarray:
    """MAE's position embedding as stored in its files, [1, 1 + L, width].

    The first row, for the class token, is zero.
    """
    return np.pad(sincos_position_embedding(width, grid), ((1, 0), (0, 0)))[None]


def to_theirs(x: np.ndarray, form: str, patch_shape: tuple[int, int]) -> np.ndarray:
    """Converts our array to the layout `form`; `patch_shape` is (p, C)."""
    if form == "token":
        return x[None, None]
    if form == "matrix":
        return x.T
    if form == "patches":
        patch, channels = patch_shape
        return x.reshape(patch, patch, channels, -1).transpose(3, 2, 0, 1)
    return x


def to_ours(x: np.ndarray, form: str) -> np.ndarray:
    """Inverse of `to_theirs`."""
    if form == "token":
        return x[0, 0]
    if form == "matrix":
        return x.T
    if form == "patches":
        return x.transpose(2, 3, 1, 0).reshape(-1, len(x))
    return x
