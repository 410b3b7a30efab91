"""Optimization: durations, learning-rate schedule, AdamW, LARS, parameter average."""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from imae_jax.errors import UserError, require


def duration_steps(
    section: Mapping,
    name: str,
    *,
    batch_size: int,
    num_examples: int,
    total_steps: int | None = None,
) -> int:
    """Returns a duration in steps, from whichever unit it is given in.

    Looks for NAME_steps, NAME_examples, NAME_epochs and NAME_fraction (of `total_steps`) in
    `section`, and uses the first that is set.

    Raises:
      UserError: if none of them is set, or the number of steps is not finite.
    """
    steps_per_unit = {
        "steps": 1,
        "examples": 1 / batch_size,
        "epochs": num_examples / batch_size,
        "fraction": total_steps,
    }
    for unit, steps in steps_per_unit.items():
        value = section.get(f"{name}_{unit}")
        if value is not None:
            is_finite = value * steps < math.inf
            require(is_finite, f"{name}_{unit}", value, "finite in steps")
            return round(value * steps)
    known = (f"{name}_{unit}" for unit in steps_per_unit)
    forms = ", ".join(form for form in known if form in section)
    raise UserError(f"no duration is set: give one of {forms}")


def learning_rate(
    blr: float,
    batch_size: int,
    warmup_steps: int,
    total_steps: int,
    min_lr: float = 0.0,
) -> optax.Schedule:
    """Makes a linear warm-up to blr * batch_size / 256, then a cosine to `min_lr` (MAE)."""
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=blr * batch_size / 256,
        warmup_steps=warmup_steps,
        decay_steps=total_steps,
        end_value=min_lr,
    )


def decay_mask(params: Any) -> Any:
    """Returns True for parameters with weight decay: all but 1-D ones like biases (MAE)."""
    return jax.tree.map(lambda x: x.ndim > 1, params)


def adamw(
    schedule: optax.Schedule,
    betas: tuple[float, float],
    weight_decay: float,
    clip_norm: float | None = None,
) -> optax.GradientTransformation:
    """Makes AdamW with `decay_mask`, and gradients clipped to norm `clip_norm`."""
    b1, b2 = betas
    update = optax.adamw(schedule, b1=b1, b2=b2, weight_decay=weight_decay, mask=decay_mask)
    if clip_norm is None:
        return update
    return optax.chain(optax.clip_by_global_norm(clip_norm), update)


def lars(schedule: optax.Schedule) -> optax.GradientTransformation:
    """Makes LARS as in MAE's linear probe: no weight decay, momentum before the rate.

    Weights take steps proportional to their norm (trust coefficient 0.001); biases use
    plain momentum SGD. (`optax.lars` applies the rate before the momentum, which differs
    while the rate changes.)
    """
    trust = optax.masked(optax.scale_by_trust_ratio(trust_coefficient=0.001), decay_mask)
    return optax.chain(trust, optax.trace(0.9), optax.scale_by_learning_rate(schedule))


def heads_only(update: optax.GradientTransformation) -> optax.GradientTransformation:
    """Restricts an optimizer to the parameters outside the encoder, which stays frozen."""

    def kinds(params: Mapping) -> dict[str, str]:
        return {name: "frozen" if name == "encoder" else "trained" for name in params}

    rules = {"trained": update, "frozen": optax.set_to_zero()}
    return optax.partition(rules, kinds)


def layer_factors(params: Any, decay: float, depth: int) -> Any:
    """Returns the factor of each parameter's learning rate (MAE's `lr_decay.py`).

    `decay ** (depth + 1 - layer)`: the embedding is layer 0, block i is layer i + 1, and
    everything after the blocks has factor 1.

    Args:
      params: a classifier's parameters.
      decay: factor per layer, in (0, 1].
      depth: number of encoder blocks.
    Returns:
      A float for each leaf.
    """

    def factor(path: tuple, _: Any) -> float:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        block = re.match(r"encoder/transformer/block_(\d+)/", name)
        if block:
            layer = int(block[1]) + 1
        else:
            is_embedding = re.match(r"encoder/(patch_embed|class_token)(/|$)", name)
            layer = 0 if is_embedding else depth + 1
        return decay ** (depth + 1 - layer)

    return jax.tree_util.tree_map_with_path(factor, params)


def by_layer(decay: float, depth: int) -> optax.GradientTransformation:
    """Multiplies updates, including their weight decay, by `layer_factors` (MAE)."""

    def scale(updates: Any, _: Any) -> Any:
        factors = layer_factors(updates, decay, depth)
        return jax.tree.map(jnp.multiply, updates, factors)

    return optax.stateless(scale)


class Averaged(NamedTuple):
    """State of `averaging`: the moving average, a tree like the parameters."""

    average: Any


def averaging(decay: float) -> optax.GradientTransformation:
    """Keeps a moving average of the parameters; comes last, and leaves updates unchanged.

    As part of the optimizer's state, the average is saved and restored with it, and is
    unchanged by skipped steps.
    """

    def init(params: Any) -> Averaged:
        return Averaged(jax.tree.map(jnp.copy, params))

    def update(updates: Any, state: Averaged, params: Any) -> tuple[Any, Averaged]:
        new = optax.apply_updates(params, updates)
        average = jax.tree.map(
            lambda old, x: decay * old + (1 - decay) * x, state.average, new
        )
        return updates, Averaged(average)

    return optax.GradientTransformation(init, update)


def averaged(opt_state: Any) -> Any:
    """Returns the parameters' average from the state of an optimizer with `averaging`."""
    return optax.tree.get(opt_state, "average")


def finetuning(
    update: optax.GradientTransformation,
    *,
    depth: int,
    layer_decay: float,
    ema_decay: float | None,
) -> optax.GradientTransformation:
    """Adds layer-wise learning rates and, if `ema_decay` is given, an average."""
    parts = [update, by_layer(layer_decay, depth)]
    return optax.chain(*parts, *([averaging(ema_decay)] if ema_decay is not None else []))


def run_steps(config: ConfigDict, num_examples: int) -> tuple[int, int]:
    """Returns (total_steps, warmup_steps)."""
    batch_size = config.train.batch_size
    sizes = dict(batch_size=batch_size, num_examples=num_examples)
    total = duration_steps(config.train, "total", **sizes)
    require(1 <= total < 2**31, "train.total", total, "at least one step, and below 2**31")
    warmup = duration_steps(config.optim, "warmup", **sizes, total_steps=total)
    require(
        0 <= warmup < total,
        "optim.warmup",
        warmup,
        f"shorter than the run's {total} steps",
    )
    return total, warmup
