"""Forward passes as functions of a model and its parameters."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from imae_jax.models.classifier import Classifier
from imae_jax.models.imae import IMAE
from imae_jax.models.mae import MAE, Autoencoder, Encoder, _as_float32
from imae_jax.models.masking import Mask
from imae_jax.models.transformer import Block


def forward(
    model: MAE | IMAE,
    params: Any,
    images: jax.Array,
    mask: Mask,
    num_predicted: int | None = None,
) -> dict[str, jax.Array]:
    """Returns the model's named outputs; under jit, unused ones are not computed.

    Args:
      model, params: a MAE or an i-MAE and its parameters.
      images: [B, H, W, C] normalized pixels.
      mask: B masks.
      num_predicted: see `mae.Decoder`.
    """
    ids = mask.ids_keep, mask.ids_restore
    out: Any = model.apply({"params": params}, images, *ids, num_predicted)
    return out


def embed(model: MAE | IMAE, params: Any, images: jax.Array) -> dict[str, jax.Array]:
    """Encodes whole images to pooled features; deterministic.

    Args:
      images: [B, H, W, C] normalized pixels.
    Returns:
      A dict of `class_token` [B, D], `mean` [B, D] (mean patch token), `layers`
      [B, depth, D] (mean patch token after each block, before the final LayerNorm), and
      `attention` [B, L] (of the last block's class token to the patches, mean over heads).
    """
    # Intermediates cannot be captured from a scan.
    model = model.clone(compute=model.compute._replace(scan=False, remat="none"))
    tokens, state = model.apply(
        {"params": params},
        images,
        method="encode",
        capture_intermediates=lambda module, _: (
            isinstance(module, Block) or module.name == "qkv"
        ),
        mutable=["intermediates"],
    )
    blocks = state["intermediates"]["encoder"]["transformer"]
    layers = [blocks[name]["__call__"][0][:, 1:].mean(axis=1) for name in sorted(blocks)]
    (qkv,) = blocks[max(blocks)]["attention"]["qkv"]["__call__"]
    return _as_float32(
        dict(
            class_token=tokens[:, 0],
            mean=tokens[:, 1:].mean(axis=1),
            layers=jnp.stack(layers, axis=1),
            attention=attention_of_class_token(qkv, model.encoder_size.heads),
        )
    )


def attention_of_class_token(qkv: jax.Array, heads: int) -> jax.Array:
    """Returns the class token's attention to the patches, mean over heads, [B, L].

    Its attention to itself is left out, so an image's sum is below 1.

    Args:
      qkv: [B, 1 + L, 3 * D], queries, keys and values of a block.
      heads: number of heads.
    """
    by_head = (*qkv.shape[:-1], heads, -1)
    query, key, _ = (x.reshape(by_head) for x in jnp.split(qkv, 3, axis=-1))
    scores = jnp.einsum("bhd,bthd->bht", query[:, 0], key, precision="highest")
    attention = jax.nn.softmax(scores / math.sqrt(query.shape[-1]), axis=-1)
    return attention[:, :, 1:].mean(axis=1)


def classify(model: Classifier, variables: Any, images: jax.Array) -> dict[str, jax.Array]:
    """Returns logits [B, classes] of normalized images, by pool; deterministic."""
    logits: Any = model.apply(variables, images, is_training=False)
    return logits


def encode(model: Autoencoder | Classifier, params: Any, images: jax.Array) -> jax.Array:
    """Encodes whole images to tokens, with the encoder of any model.

    Args:
      model: a MAE, an i-MAE or a classifier.
      params: the model's parameters.
      images: [B, H, W, C] normalized pixels.
    Returns:
      [B, 1 + L, D] float32 tokens: the class token, then patches in raster order.
    """
    encoder = Encoder(
        **model.encoder_size._asdict(),
        patch_size=model.patch_size,
        compute=model.compute,
        # A fine-tuned classifier may have its norm after pooling instead.
        final_norm="norm" in params["encoder"]["transformer"],
    )
    tokens: Any = encoder.apply({"params": params["encoder"]}, images)
    return tokens.astype(jnp.float32)


def predictors(
    model: Autoencoder | Classifier, params: Any, batch_stats: Any = None
) -> dict[str, tuple[Callable, Any]]:
    """Returns the forward functions of a model with their variables, by name.

    Each function is called as function(model, variables, *inputs).
    """
    if model.has_decoder:
        functions: dict[str, Callable] = {
            "predict": forward,
            "embed": embed,
            "encode": encode,
        }
        return {name: (function, params) for name, function in functions.items()}
    return {"classify": (classify, {"params": params, "batch_stats": batch_stats or {}})}
