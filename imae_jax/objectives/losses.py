"""Losses: reconstruction and distillation (i-MAE), reconstruction (MAE), classification."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from imae_jax.models.branches import branch_names
from imae_jax.models.patches import patchify


def normalize_patches(patches: jax.Array) -> jax.Array:
    """Normalizes each [..., P] patch by its own mean and unbiased variance (`norm_pix`).

    MAE's variance is PyTorch's default, divided by P - 1: for small patches dividing by P
    would change the loss noticeably (4 % at 2x2x3).
    """
    mean = patches.mean(axis=-1, keepdims=True)
    variance = patches.var(axis=-1, keepdims=True, ddof=1)
    return (patches - mean) / jnp.sqrt(variance + 1e-6)


def target_patches(
    images: jax.Array | np.ndarray, patch_size: int, norm_pix: bool
) -> jax.Array:
    """Returns the target patches [..., L, P] of normalized images [..., H, W, C]."""
    patches = patchify(images, patch_size)
    return normalize_patches(patches) if norm_pix else patches


def masked_patch_error(
    pred: jax.Array | np.ndarray,
    target: jax.Array | np.ndarray,
    mask: jax.Array | np.ndarray,
) -> jax.Array:
    """Returns the squared error, averaged over each patch's pixels, then masked patches.

    Args:
      pred, target: [..., L, P].
      mask: [..., L] bool, True = masked; visible patches do not count.
    Returns:
      [...], the error of each image.
    Raises:
      ValueError: if pred and target differ in shape.
    """
    if pred.shape != target.shape:
        raise ValueError(f"pred is {pred.shape} but target is {target.shape}")
    error = jnp.square(pred - target).mean(axis=-1)
    removed = mask.sum(axis=-1)
    return jnp.where(mask, error, 0).sum(axis=-1) / removed


def latent_error(latents: jax.Array, teacher_latents: jax.Array) -> jax.Array:
    """Returns the mean squared error over tokens and channels: [..., 1 + K, E] -> [...].

    Without feature normalization (released code).

    Raises:
      ValueError: if the two differ in shape.
    """
    if latents.shape != teacher_latents.shape:
        raise ValueError(
            f"latents are {latents.shape} but the teacher's are {teacher_latents.shape}"
        )
    return jnp.square(latents - teacher_latents).mean(axis=(-2, -1))


def imae_losses(
    out: Mapping[str, jax.Array],
    target: jax.Array,
    mask: jax.Array,
    teacher_latents: jax.Array | None,
    distill_weight: float,
    weights: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the i-MAE loss: a sum over branches, each with weight 1 (released code).

    Args:
      out: `IMAE`'s output, with `pred` [B, S, L, P] and `latents` [B, S, 1 + K, E]; S is 1
        with a single branch.
      target: [B, S, L, P] patches of the sources.
      mask: [B, L] bool, True for the masked patches that were predicted.
      teacher_latents: [B, S, 1 + K, E], or None to train without distillation.
      distill_weight: weight of the distillation terms.
      weights: [B, S] weights in the means over the batch, see `mixing.role_weights`; None
        if all are 1.
    Returns:
      The total, and all terms by name.
    """
    parts = {}

    def mean(errors: jax.Array) -> jax.Array:  # [B, S] -> [S]
        if weights is not None:
            errors = errors * weights[:, : errors.shape[1]]
        return errors.mean(axis=0)

    reconstruction = mean(masked_patch_error(out["pred"], target, mask[:, None]))
    total = reconstruction.sum()
    branches = branch_names(len(reconstruction))
    for branch, error in zip(branches, reconstruction, strict=True):
        parts[f"loss/reconstruction_{branch}"] = error
    if teacher_latents is not None:
        distillation = mean(latent_error(out["latents"], teacher_latents))
        total += distill_weight * distillation.sum()
        for branch, error in zip(branches, distillation, strict=True):
            parts[f"loss/distill_{branch}"] = error
    return total, {"loss/total": total, **parts}


def mae_losses(
    out: Mapping[str, jax.Array], target: jax.Array, mask: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the MAE loss of `pred` and `target` [B, L, P] with `mask` [B, L]."""
    loss = masked_patch_error(out["pred"], target, mask).mean()
    return loss, {"loss/total": loss, "loss/reconstruction": loss}


def classification_losses(
    logits: Mapping[str, jax.Array], targets: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the cross-entropy summed over heads, which share no parameters.

    Args:
      logits: [B, classes] by pool.
      targets: [B, classes], each row summing to 1.
    Returns:
      The total, and by name the total and the accuracies: the fraction of examples whose
      largest logit is at the largest target.
    """
    total, parts = jnp.float32(0), {}
    for pool, found in logits.items():
        total += -(targets * jax.nn.log_softmax(found)).sum(axis=-1).mean()
        is_right = jnp.argmax(found, axis=-1) == jnp.argmax(targets, axis=-1)
        name = f"accuracy/{pool}" if len(logits) > 1 else "accuracy"
        parts[name] = is_right.mean()
    return total, {"loss/total": total, **parts}
