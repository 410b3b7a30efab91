"""Terms between the images of a batch: contrast of an image's roles, and uniformity.

Both are options that the paper and the released code do not have. They compare each image
with all others of the global batch, so neither is a mean over microbatches. On several
devices each takes one all-gather of pooled features, and one sum of their gradients.
"""

import jax
import jax.numpy as jnp

from imae_jax.objectives.mixing import rotate


def pool(tokens: jax.Array) -> jax.Array:
    """Returns the L2-normalized mean of the patch tokens: [..., 1 + K, D] -> [..., D].

    The class token does not count.
    """
    mean = tokens[..., 1:, :].mean(axis=-2)
    # The constant keeps the gradient at 0 finite.
    return mean * jax.lax.rsqrt(jnp.square(mean).sum(axis=-1, keepdims=True) + 1e-12)


def contrast_loss(latents: jax.Array, temperature: float) -> tuple[jax.Array, jax.Array]:
    """Returns the symmetric InfoNCE loss between the two roles of each image (ours).

    Image j is the subordinate image of mixture j, with pooled latents a_j, and the dominant
    one of its partner's mixture, with pooled latents b_j. The loss is the cross-entropy of
    finding b_j among the b of all images, and a_j among all a; similarities are cosines.

    The partner's b is a negative. It comes from the same mixture as a_j. Without it, an
    encoder that only tells which two images are mixed would have a loss near 0; with it
    that encoder has log 2, because it does not tell which of them is which.

    Args:
      latents: [B, S, 1 + K, E], S = 2 only, pairs adjacent.
      temperature: divides the similarities; above 0.
    Returns:
      The loss in nats, and the accuracy: the fraction of images in [0, 1] that are found,
      where 1 / B is chance. Both are means over both directions.
    """
    roles = jnp.stack([pool(latents[:, 0]), rotate(pool(latents[:, 1]), 2, 1)])
    # Both directions in one product [2, B, B]: a softmax over columns of a single [B, B]
    # would be a sum over devices. Full precision: see `mixing.mix`.
    logits = jnp.einsum("sje,sie->sji", roles, roles[::-1], precision="highest")
    logits /= temperature
    positive = (roles[0] * roles[1]).sum(axis=-1) / temperature  # [B]
    loss = jax.nn.logsumexp(logits, axis=-1).mean() - positive.mean()
    is_found = jnp.argmax(logits, axis=-1) == jnp.arange(len(positive))
    return loss, is_found.mean()


def uniformity_loss(tokens: jax.Array) -> jax.Array:
    """Returns the mean squared cosine between the pooled tokens of different mixtures.

    The spectral form of uniformity (U-MAE, Zhang et al. 2022, arXiv 2210.08344). Their code
    also counts each example with itself, a constant, and takes the class token by default;
    here it is the mean patch token, as in `contrast_loss`.

    Args:
      tokens: [B, 1 + K, D] of the mixtures.
    Returns:
      A number in [0, 1]: 1 if all features are parallel, about 1 / D if they are spread
      evenly.
    """
    pooled = pool(tokens)
    cosines = jnp.matmul(pooled, pooled.T, precision="highest")  # [B, B]
    count = len(pooled)
    others = ~jnp.eye(count, dtype=bool)
    return jnp.square(cosines).sum(where=others) / (count * (count - 1))
