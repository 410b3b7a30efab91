"""Distillation targets: the teacher's latents of each image alone."""

from typing import Any

import jax
import jax.numpy as jnp

from imae_jax.models.forward import forward
from imae_jax.models.mae import MAE
from imae_jax.objectives.mixing import Mixtures, group_sources


def teacher_latents(
    teacher: MAE,
    teacher_params: Any,
    mixtures: Mixtures,
    *,
    teacher_input: str = "image",
    shared_mask: bool = False,
    num_sources: int | None = None,
) -> jax.Array:
    """Returns a frozen MAE's latents, after its `decoder_embed`, under the mixtures' masks.

    Args:
      teacher, teacher_params: the MAE; its parameters receive no gradient.
      mixtures: B mixtures.
      teacher_input: "image" to encode each source alone (paper, ours); "mixture" to encode
        the mixture (released code), which makes all targets equal.
      shared_mask: True if all mixtures of a group have the same mask. An image's latents
        then serve in all its roles, and the teacher runs on B images instead of S B.
      num_sources: number of branches that are trained, such as 1 if only the subordinate
        one is; None: all.
    Returns:
      [B, S, 1 + K, E] with S = num_sources.
    """
    mask = mixtures.mask
    num_sources = num_sources or mixtures.sources.shape[1]
    teacher_params = jax.lax.stop_gradient(teacher_params)
    if teacher_input == "mixture":
        latents = forward(teacher, teacher_params, mixtures.mixture, mask)["latents"]
        return jnp.stack([latents] * num_sources, axis=1)
    if shared_mask:
        # Source 0 of mixture j is image j itself.
        images = mixtures.sources[:, 0]
        latents = forward(teacher, teacher_params, images, mask)["latents"]
        return group_sources(latents, mixtures.sources.shape[1])[:, :num_sources]
    images = mixtures.sources[:, :num_sources]  # [B, S, H, W, C]
    latents = forward(
        teacher,
        teacher_params,
        images.reshape(-1, *images.shape[2:]),
        jax.tree.map(lambda ids: jnp.repeat(ids, num_sources, axis=0), mask),
    )["latents"]
    return latents.reshape(*images.shape[:2], *latents.shape[1:])
