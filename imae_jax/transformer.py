"""The Transformer that encoder and decoder share, and its named sizes."""

from typing import NamedTuple

import flax.linen as nn
import jax


class Size(NamedTuple):
    """The size of a Transformer."""

    width: int
    depth: int
    heads: int


# DeiT (Ti, S) and ViT (B, L) sizes; `mu` is for tests.
VARIANTS = {
    "mu": Size(32, 1, 2),
    "Ti": Size(192, 12, 3),
    "S": Size(384, 12, 6),
    "B": Size(768, 12, 12),
    "L": Size(1024, 24, 16),
}


def decode_variant(variant: str) -> tuple[Size, int]:
    """ "Ti/2" -> (Size(192, 12, 3), 2), the encoder's size and the patch size.

    Raises:
      ValueError: if the variant is not NAME/PATCH with a known name.
    """
    name, _, patch = variant.partition("/")
    if name not in VARIANTS or not patch.isdecimal() or int(patch) < 1:
        raise ValueError(
            f"{variant!r} is not a variant; expected NAME/PATCH such as 'Ti/2', "
            f"with NAME one of {', '.join(VARIANTS)}"
        )
    return VARIANTS[name], int(patch)


def dense(features: int, name: str | None = None) -> nn.Dense:
    """A linear layer as MAE initialises it: Xavier-uniform kernel, zero bias."""
    return nn.Dense(features, kernel_init=nn.initializers.xavier_uniform(), name=name)


def layer_norm(name: str) -> nn.LayerNorm:
    """LayerNorm with MAE's epsilon."""
    return nn.LayerNorm(epsilon=1e-6, name=name)


class Attention(nn.Module):
    """Multi-head self-attention over axis -2 of [N, T, width], qkv in one product."""

    heads: int

    @nn.compact
    def __call__(self, x):
        batch_size, tokens, width = x.shape
        qkv = dense(3 * width, "qkv")(x)
        qkv = qkv.reshape(batch_size, tokens, 3, self.heads, width // self.heads)
        x = jax.nn.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2])
        return dense(width, "out")(x.reshape(batch_size, tokens, width))


class Block(nn.Module):
    """Pre-LN Transformer block with an MLP of four times the width and exact GELU."""

    heads: int

    @nn.compact
    def __call__(self, x):
        width = x.shape[-1]
        x = x + Attention(self.heads, name="attention")(layer_norm("norm_1")(x))
        hidden = dense(4 * width, "mlp_in")(layer_norm("norm_2")(x))
        return x + dense(width, "mlp_out")(nn.gelu(hidden, approximate=False))


class Transformer(nn.Module):
    """`depth` blocks and a final LayerNorm."""

    depth: int
    heads: int

    @nn.compact
    def __call__(self, x):
        for layer in range(self.depth):
            x = Block(self.heads, name=f"block_{layer:02d}")(x)
        return layer_norm("norm")(x)
