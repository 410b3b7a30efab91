"""Updates: durations in steps, the learning-rate schedule, AdamW."""

from collections.abc import Mapping

import jax
import optax

from imae_jax.errors import UserError


def duration_steps(
    section: Mapping,
    name: str,
    *,
    batch_size: int,
    num_examples: int,
    total_steps: int | None = None,
) -> int:
    """Reads `name` from `section` in whichever unit it is given, in steps.

    Looks for NAME_steps, NAME_examples, NAME_epochs and NAME_fraction (of `total_steps`)
    in this order, from exact to derived: the first that is set counts.

    Raises:
      UserError: if none of them is set.
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
            return round(value * steps)
    known = (f"{name}_{unit}" for unit in steps_per_unit)
    forms = ", ".join(form for form in known if form in section)
    raise UserError(f"no duration is set: give one of {forms}")


def learning_rate(
    blr: float, batch_size: int, warmup_steps: int, total_steps: int
) -> optax.Schedule:
    """Linear warm-up to blr * batch_size / 256, then cosine to zero (MAE)."""
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=blr * batch_size / 256,
        warmup_steps=warmup_steps,
        decay_steps=total_steps,
    )


def decay_mask(params):
    """True where weight decay applies: not on biases and other 1-D parameters (MAE)."""
    return jax.tree.map(lambda x: x.ndim > 1, params)


def adamw(
    schedule: optax.Schedule,
    betas: tuple[float, float],
    weight_decay: float,
    clip_norm: float | None = None,
) -> optax.GradientTransformation:
    """AdamW with `decay_mask`, on gradients of at most the norm `clip_norm`."""
    b1, b2 = betas
    update = optax.adamw(schedule, b1=b1, b2=b2, weight_decay=weight_decay, mask=decay_mask)
    if clip_norm is None:
        return update
    return optax.chain(optax.clip_by_global_norm(clip_norm), update)


def lars(schedule: optax.Schedule) -> optax.GradientTransformation:
    """LARS as MAE's linear probe has it: no weight decay, momentum before the rate.

    Weights take steps in proportion to their own norm (trust coefficient 0.001); biases
    are plain momentum SGD. (`optax.lars` multiplies by the rate before the momentum, which
    differs while the rate changes.)
    """
    trust = optax.masked(optax.scale_by_trust_ratio(trust_coefficient=0.001), decay_mask)
    return optax.chain(trust, optax.trace(0.9), optax.scale_by_learning_rate(schedule))
