"""A small MLP in place of the linear map: are images told apart, but not linearly?"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax


class Residual(nn.Module):
    """[N, D] inputs -> [N, E], two hidden layers; 0 with its initial parameters."""

    width: int
    outputs: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for _ in range(2):
            x = nn.gelu(nn.Dense(self.width)(x))
        return nn.Dense(self.outputs, kernel_init=nn.initializers.zeros)(x)


# Keyword options: a section of a config.
def fit_mlp(
    train: tuple[np.ndarray, np.ndarray],
    validation: tuple[np.ndarray, np.ndarray],
    linear: np.ndarray,
    *,
    width: int,
    epochs: int,
    batch_size: int,
    lr: float,
    seed: int,
) -> Callable[[np.ndarray], np.ndarray]:
    """Fits h = z W + MLP(z), W given and fixed, by least squares with Adam.

    The map is that of the epoch with the least error on `validation`, the linear map alone
    being epoch 0: on validation it is never worse.

    Args:
      train, validation: z [N, D] and h [N, E], centred.
      linear: W [D, E], the best linear map.
      width: size of the two hidden layers.
      epochs: most passes over `train`.
      batch_size: rows in a step; at most N are taken.
      lr: peak learning rate; it falls to 0 by a cosine.
      seed: random seed of weights and order.
    Returns:
      A function from inputs [N, D] to predictions [N, E].
    """
    (z, h), (held_z, held_h) = train, validation
    scale_z = np.sqrt(np.square(z).mean(axis=0))
    scale_z = np.where(scale_z > 0, scale_z, 1).astype(np.float32)
    scale_h = float(np.sqrt(np.square(h).mean())) or 1.0
    weights = jnp.asarray(linear, jnp.float32)
    model = Residual(width, h.shape[1])

    def predict(params: Any, z: jax.Array | np.ndarray) -> jax.Array:
        rest: Any = model.apply(params, z / scale_z)
        return z @ weights + scale_h * rest

    batch_size = min(batch_size, len(z))
    steps = len(z) // batch_size
    optimizer = optax.adam(optax.cosine_decay_schedule(lr, epochs * steps))

    def step(carry: tuple, batch: Sequence[jax.Array]) -> tuple[tuple, None]:
        params, opt_state = carry

        def loss(params: Any) -> jax.Array:
            return jnp.square((predict(params, batch[0]) - batch[1]) / scale_h).mean()

        updates, opt_state = optimizer.update(jax.grad(loss)(params), opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), None

    @functools.partial(jax.jit, donate_argnums=0)
    def epoch(carry: tuple, z: jax.Array, h: jax.Array, order: jax.Array) -> tuple:
        batches = [x[order].reshape(steps, batch_size, -1) for x in (z, h)]
        return jax.lax.scan(step, carry, batches)[0]

    error = jax.jit(lambda params: jnp.square(predict(params, held_z) - held_h).mean())
    params = model.init(jax.random.key(seed), jnp.asarray(z[:1]))
    carry = params, optimizer.init(params)
    best, least = jax.device_get(params), error(params)
    random = np.random.default_rng(seed)
    inputs, outputs = jnp.asarray(z, jnp.float32), jnp.asarray(h, jnp.float32)
    for _ in range(epochs):
        carry = epoch(
            carry, inputs, outputs, random.permutation(len(z))[: steps * batch_size]
        )
        if (found := error(carry[0])) < least:
            best, least = jax.device_get(carry[0]), found
    apply = jax.jit(predict)
    return lambda z: np.asarray(apply(best, jnp.asarray(z, jnp.float32)))
