"""MAE's linear probe: BatchNorm without scale and bias, a linear layer, LARS.

Works on precomputed features, so without MAE's augmentation of the training images.
"""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from imae_jax.errors import UserError
from imae_jax.optim import lars, learning_rate
from imae_jax.probing.arrays import as_count, as_strengths
from imae_jax.probing.linear_classifiers import Labelled, Splits, check_splits

# Largest mean of a feature in units of its std: beyond it, E[x^2] - E[x]^2 in float32 loses
# more than 1 / 1000 of the variance. For stds below FLAT, the loss is less than epsilon.
FAR, FLAT = 100, 0.1


class Probe(nn.Module):
    """Linear probe, [B, D] -> [B, classes] (MAE: head std 0.01, BatchNorm eps 1e-6)."""

    num_classes: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.BatchNorm(
            use_running_average=not train,
            momentum=0.9,
            epsilon=1e-6,
            use_bias=False,
            use_scale=False,
        )(x)
        init = nn.initializers.truncated_normal(0.01)
        return nn.Dense(self.num_classes, kernel_init=init, name="head")(x)


def epoch_batches(num_examples: int, batch_size: int, epochs: int, seed: int) -> np.ndarray:
    """Returns indices by step, [steps, batch]; incomplete batches are dropped (MAE)."""
    random = np.random.default_rng(seed)
    batch_size = min(batch_size, num_examples)
    whole = num_examples // batch_size * batch_size
    orders = [random.permutation(num_examples)[:whole] for _ in range(epochs)]
    return np.concatenate(orders).reshape(-1, batch_size)


@functools.partial(jax.jit, static_argnames=("num_classes", "warmup_steps"))
def _fit_probe(
    features: jax.Array,
    labels: jax.Array,
    batches: jax.Array,
    blr: jax.Array,
    seed: jax.Array,
    *,
    num_classes: int,
    warmup_steps: int,
) -> Any:
    """Trains one probe.

    Args:
      features, labels: [N, D] and [N].
      batches: [steps, batch] indices.
      blr: base learning rate; lr = blr * batch / 256 after warm-up.
      seed: random seed of the initial weights.
      num_classes, warmup_steps: see `Probe` and `optim.learning_rate`.
    Returns:
      The variables of `Probe`.
    """
    steps, batch_size = batches.shape
    probe = Probe(num_classes)
    variables = probe.init(jax.random.key(seed), features[:2], train=False)
    shape = learning_rate(1.0, batch_size, warmup_steps, steps)
    optimizer = lars(lambda step: blr * shape(step))

    def step(carry: tuple, indices: jax.Array) -> tuple[tuple, None]:
        variables, opt_state = carry

        def loss(params: Any) -> tuple[jax.Array, Any]:
            logits, changed = probe.apply(
                variables | {"params": params},
                features[indices],
                train=True,
                mutable=["batch_stats"],
            )
            losses = optax.losses.softmax_cross_entropy_with_integer_labels(
                logits, labels[indices]
            )
            return losses.mean(), changed

        params = variables["params"]
        grads, changed = jax.grad(loss, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        return ({"params": params, **changed}, opt_state), None

    start = variables, optimizer.init(variables["params"])
    return jax.lax.scan(step, start, batches)[0][0]


@functools.partial(jax.jit, static_argnames=("num_classes",))
def _hits(
    variables: Any, features: jax.Array, labels: jax.Array, *, num_classes: int
) -> jax.Array:
    """Returns a trained probe's accuracy on [N, D] features; NaN if it diverged."""
    logits: Any = Probe(num_classes).apply(variables, features, train=False)
    right = jnp.mean(jnp.argmax(logits, axis=1) == labels)
    return jnp.where(jnp.isfinite(logits).all(), right, jnp.nan)


def _about_zero(splits: Splits) -> Splits:
    """Subtracts means that are too large for BatchNorm in float32, see FAR."""
    x = splits.train.features.astype(np.float64)
    mean, deviation = x.mean(axis=0), x.std(axis=0)
    shift = np.where(np.abs(mean) > FAR * np.maximum(deviation, FLAT), mean, 0)
    if not shift.any():
        return splits
    return Splits(*(Labelled(x - shift, y) for x, y in splits))


def lars_accuracy(
    splits: Splits,
    *,
    blrs: Sequence[float],
    batch_size: int,
    epochs: int,
    warmup_epochs: int,
    seed: int,
) -> tuple[float, float]:
    """Returns the probe's test accuracy, at the learning rate that is best on validation.

    Args:
      splits: features of a frozen encoder. BatchNorm's epsilon is part of the protocol:
        scale up features with a std much below 1e-3.
      blrs: base learning rates to try, all trained in parallel.
      batch_size, epochs, warmup_epochs: as in MAE; a batch is at most the train split.
      seed: random seed of initial weights and order, in 0 .. 2**32 - 1.
    Returns:
      (accuracy, the chosen blr).
    Raises:
      UserError: see `Splits.checked`; for invalid numbers, and if the probe diverges at
        every rate.
    """
    splits = _about_zero(check_splits(splits, "linear probe"))
    blrs = as_strengths(blrs, "blrs")
    batch_size = as_count(batch_size, "batch_size", 2)  # one has no variance
    epochs = as_count(epochs, "epochs", 1)
    warmup_epochs = as_count(warmup_epochs, "warmup_epochs", 0, epochs - 1)
    seed = as_count(seed, "seed", 0, 2**32 - 1)
    (features, labels), validation, test = (
        (jnp.asarray(x, jnp.float32), jnp.asarray(y)) for x, y in splits
    )
    batches = epoch_batches(len(labels), batch_size, epochs, seed)
    sizes = dict(num_classes=splits.num_classes)
    warmup = dict(warmup_steps=len(batches) * warmup_epochs // epochs)
    train = functools.partial(_fit_probe, features, labels, batches, **sizes, **warmup)
    probes = jax.vmap(train, in_axes=(0, None))(jnp.asarray(blrs, jnp.float32), seed)
    score = jax.vmap(functools.partial(_hits, **sizes), in_axes=(0, None, None))
    scores = np.asarray(score(probes, *validation))
    if np.isnan(scores).all():
        raise UserError(f"blrs={blrs}: the linear probe diverges at every rate; lower them")
    best = int(np.nanargmax(scores))
    found = float(score(probes, *test)[best])
    if np.isnan(found):
        raise UserError(
            "linear probe: test.features are too large for float32 beside train's"
        )
    return found, blrs[best]
