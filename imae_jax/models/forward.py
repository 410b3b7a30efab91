"""Forward passes as functions of a model and its parameters."""

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
    model: MAE | IMAE, params, images: jax.Array, mask: Mask
) -> dict[str, jax.Array]:
    """The model's named outputs; what a caller leaves unused, jit does not compute."""
    return model.apply({"params": params}, images, mask.ids_keep, mask.ids_restore)


def embed(model: MAE | IMAE, params, images: jax.Array) -> dict[str, jax.Array]:
    """What the encoder makes of whole images; deterministic.

    Args:
      images: [B, H, W, C] standardised pixels.
    Returns:
      A dict of `class_token` [B, D], `mean` [B, D] of the patch tokens, and `layers`
      [B, depth, D], the mean of the patch tokens after each block, before the final
      LayerNorm.
    """
    # A loop on the device shows no layers.
    model = model.clone(compute=model.compute._replace(scan=False, remat="none"))
    tokens, state = model.apply(
        {"params": params},
        images,
        method="encode",
        capture_intermediates=lambda module, _: isinstance(module, Block),
        mutable=["intermediates"],
    )
    blocks = state["intermediates"]["encoder"]["transformer"]
    layers = [blocks[name]["__call__"][0][:, 1:].mean(axis=1) for name in sorted(blocks)]
    return _as_float32(
        dict(
            class_token=tokens[:, 0],
            mean=tokens[:, 1:].mean(axis=1),
            layers=jnp.stack(layers, axis=1),
        )
    )


def classify(model: Classifier, variables, images: jax.Array) -> dict[str, jax.Array]:
    """[B, classes] logits of [B, H, W, C] standardised images, by pool; deterministic."""
    return model.apply(variables, images, is_training=False)


def encode(model: Autoencoder | Classifier, params, images: jax.Array) -> jax.Array:
    """What the encoder of any model makes of whole images.

    Args:
      model: a MAE, an i-MAE or a classifier.
      params: its own.
      images: [B, H, W, C] standardised pixels.
    Returns:
      [B, 1 + L, D] float32 tokens, the class token first, patches in raster order.
    """
    encoder = Encoder(
        **model.encoder_size._asdict(),
        patch_size=model.patch_size,
        compute=model.compute,
        # Not where a fine-tuned classifier has another one behind its pooling.
        final_norm="norm" in params["encoder"]["transformer"],
    )
    return encoder.apply({"params": params["encoder"]}, images).astype(jnp.float32)


def predictors(
    model: Autoencoder | Classifier, params, batch_stats=None
) -> dict[str, tuple[Callable, Any]]:
    """The functions that apply to a model, by name, and their variables.

    Each is called with (model, variables, *inputs).
    """
    if model.has_decoder:
        return {"predict": (forward, params), "embed": (embed, params)}
    return {"classify": (classify, {"params": params, "batch_stats": batch_stats or {}})}
