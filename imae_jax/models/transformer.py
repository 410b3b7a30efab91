"""The Transformer of encoder and decoder, and its named sizes."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from imae_jax.errors import require
from imae_jax.models.layers import (
    LAYER_NORM_EPSILON,
    Compute,
    attention,
    dense,
    float32_layer_norm,
    gelu,
)

# Values stored for the backward pass, see `Compute.remat`.
REMAT_POLICIES = {
    "products": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "blocks": jax.checkpoint_policies.nothing_saveable,
}


class Size(NamedTuple):
    """Size of a Transformer: channels, number of blocks, and attention heads."""

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


def check_size(size: Mapping[str, int], key: str) -> None:
    """Raises UserError unless `width` is divisible by 4 and by the number of heads."""
    width, heads = size["width"], size["heads"]
    allowed = f"divisible by 4 (positions) and by the number of heads, {heads}"
    require(width % heads == 0 and width % 4 == 0, f"{key}.width", width, allowed)


def decode_variant(variant: str) -> tuple[Size, int]:
    """Returns encoder size and patch size: "Ti/2" -> (Size(192, 12, 3), 2).

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


class Float32LayerNorm(nn.Module):
    """`layers.float32_layer_norm` with Flax's parameters."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        return float32_layer_norm(x, scale, bias)


def layer_norm(compute: Compute, name: str) -> nn.Module:
    """Makes a LayerNorm with MAE's epsilon; statistics are always float32."""
    if compute.activations == jnp.float32:
        return Float32LayerNorm(name=name)
    return nn.LayerNorm(epsilon=LAYER_NORM_EPSILON, dtype=compute.activations, name=name)


class Attention(nn.Module):
    """Multi-head self-attention over axis -2 of [N, T, width], qkv in one product."""

    heads: int
    compute: Compute

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        by_head = (*x.shape[:-1], self.heads, width // self.heads)
        qkv = jnp.split(dense(3 * width, self.compute, "qkv")(x), 3, axis=-1)
        query, key, value = (part.reshape(by_head) for part in qkv)
        x = attention(query, key, value, self.compute)
        return dense(width, self.compute, "out")(x.reshape(*x.shape[:-2], width))


class CrossAttention(nn.Module):
    """Multi-head attention of queries [N, T, width] to a context [N, T', width]."""

    heads: int
    compute: Compute

    @nn.compact
    def __call__(self, x: jax.Array, context: jax.Array) -> jax.Array:
        width = x.shape[-1]
        query = dense(width, self.compute, "query")(x)
        key_value = dense(2 * width, self.compute, "key_value")(context)
        query, key, value = (
            part.reshape(*part.shape[:-1], self.heads, width // self.heads)
            for part in (query, *jnp.split(key_value, 2, axis=-1))
        )
        x = attention(query, key, value, self.compute)
        return dense(width, self.compute, "out")(x.reshape(*x.shape[:-2], width))


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016): drops a residual branch, or scales it up.

    Drawn per example of [B, ...], and only if an rng `drop_path` is given (in training).
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if not (self.rate and self.has_rng("drop_path")):
            return x
        key, each = self.make_rng("drop_path"), (len(x), *[1] * (x.ndim - 1))
        kept = jax.random.bernoulli(key, 1 - self.rate, each)
        return jnp.where(kept, x / (1 - self.rate), 0)


class Block(nn.Module):
    """Pre-LN Transformer block; its MLP has four times the width and exact GELU.

    With a context [N, T', width] tokens attend to it alone, not to each other. It is not
    normalized here (CrossMAE, Fu et al. 2024, arXiv 2401.14391).
    """

    heads: int
    compute: Compute
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, context: jax.Array | None = None) -> jax.Array:
        width, compute = x.shape[-1], self.compute
        normalized = layer_norm(compute, "norm_1")(x)
        if context is None:
            found = Attention(self.heads, compute, name="attention")(normalized)
        else:
            attend = CrossAttention(self.heads, compute, name="cross_attention")
            found = attend(normalized, context)
        x = x + DropPath(self.drop_path)(found)
        hidden = dense(4 * width, compute, "mlp_in")(layer_norm(compute, "norm_2")(x))
        return x + DropPath(self.drop_path)(dense(width, compute, "mlp_out")(gelu(hidden)))


class Transformer(nn.Module):
    """`depth` blocks and a final LayerNorm; `Block` says what a context does.

    Attributes:
      depth, heads, compute: see `Size` and `Compute`.
      drop_path: rate of the last block; it rises linearly from 0 (timm, MAE). Not with
        `compute.scan`.
      final_norm: False to leave out the final LayerNorm.
    """

    depth: int
    heads: int
    compute: Compute
    drop_path: float = 0.0
    final_norm: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, context: jax.Array | None = None) -> jax.Array:
        names = [f"block_{layer:02d}" for layer in range(self.depth)]
        block, scan = Block, self.compute.scan and not self.is_initializing()
        if self.compute.remat != "none":
            policy = REMAT_POLICIES[self.compute.remat]
            block = nn.remat(Block, policy=policy, prevent_cse=not scan)
        if scan:
            assert not self.drop_path, "the blocks of a loop draw nothing"
            # Parameters are always stored by block and stacked here, so checkpoints do not
            # depend on `scan`.
            params = [self.variables["params"][name] for name in names]
            stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
            one: Any = block(self.heads, self.compute, parent=None)
            x, _ = jax.lax.scan(
                lambda x, params: (one.apply({"params": params}, x, context), None),
                x,
                stacked,
            )
        else:
            for layer, name in enumerate(names):
                rate = self.drop_path * layer / max(self.depth - 1, 1)
                x = block(self.heads, self.compute, rate, name=name)(x, context)
        return layer_norm(self.compute, "norm")(x) if self.final_norm else x
