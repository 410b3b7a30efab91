"""A small supervised classifier of pixels, used to classify reconstructions."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from imae_jax.optim import adamw, learning_rate


class Classifier(nn.Module):
    """An MLP with two hidden layers: [B, H, W, C] pixels -> logits [B, heads, classes]."""

    width: int
    heads: int
    num_classes: int

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        x = images.reshape(len(images), -1)
        for _ in range(2):
            x = nn.gelu(nn.Dense(self.width)(x))
        x = nn.Dense(self.heads * self.num_classes)(x)
        return x.reshape(len(x), self.heads, self.num_classes)


# Keyword options: a section of a config.
def train_classifier(
    batch_at: Callable[[int], tuple[jax.Array | np.ndarray, jax.Array | np.ndarray]],
    *,
    num_classes: int,
    steps: int,
    batch_size: int,
    width: int,
    blr: float,
    weight_decay: float,
    seed: int,
) -> Callable[[jax.Array | np.ndarray], np.ndarray]:
    """Trains a classifier with AdamW.

    Args:
      batch_at: step -> images [B, H, W, C] and labels [B, heads].
      num_classes: number of classes of each head.
      steps: number of training steps.
      batch_size: B.
      width: size of the hidden layers.
      blr: base learning rate; the peak rate is blr * batch_size / 256.
      weight_decay: of AdamW.
      seed: random seed of the initial weights.
    Returns:
      A function from images [N, H, W, C] to predicted classes [N, heads].
    """
    images, labels = batch_at(0)
    model = Classifier(width, labels.shape[1], num_classes)
    params = model.init(jax.random.key(seed), images[:1])["params"]
    schedule = learning_rate(blr, batch_size, steps // 10, steps)
    optimizer = adamw(schedule, (0.9, 0.999), weight_decay)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(
        params: Any, opt_state: Any, images: jax.Array, labels: jax.Array
    ) -> tuple[Any, Any]:
        def loss(params: Any) -> jax.Array:
            logits = model.apply({"params": params}, images)
            return optax.losses.softmax_cross_entropy_with_integer_labels(
                logits, labels
            ).mean()

        updates, opt_state = optimizer.update(jax.grad(loss)(params), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    opt_state = optimizer.init(params)
    for number in range(steps):
        params, opt_state = step(params, opt_state, *batch_at(number))

    @jax.jit
    def apply(images: jax.Array) -> jax.Array:
        logits: Any = model.apply({"params": params}, images)
        return jnp.argmax(logits, -1)

    return lambda images: np.asarray(apply(images))
