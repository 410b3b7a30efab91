import jax.numpy as jnp
import numpy as np
import optax
import pytest

from imae_jax import optim
from imae_jax.errors import UserError

SIZES = dict(batch_size=50, num_examples=1000, total_steps=200)


@pytest.mark.parametrize(
    "given,steps",
    [
        (dict(warmup_steps=7), 7),
        (dict(warmup_examples=500), 10),
        (dict(warmup_epochs=1.5), 30),
        (dict(warmup_fraction=0.1), 20),
        (dict(warmup_steps=7, warmup_epochs=1.5, warmup_fraction=0.1), 7),
        (dict(warmup_steps=None, warmup_examples=100, warmup_epochs=9.0), 2),
    ],
)
def test_durations_in_every_unit(given, steps):
    assert optim.duration_steps(given, "warmup", **SIZES) == steps


def test_missing_duration_lists_the_forms():
    with pytest.raises(UserError, match="total_steps, total_epochs$"):
        optim.duration_steps({"total_steps": None, "total_epochs": None}, "total", **SIZES)


def test_learning_rate_warms_up_then_follows_a_cosine_to_zero():
    schedule = optim.learning_rate(1e-3, batch_size=512, warmup_steps=10, total_steps=110)
    rates = [float(schedule(step)) for step in (0, 5, 10, 60, 110)]
    np.testing.assert_allclose(rates, [0, 1e-3, 2e-3, 1e-3, 0], atol=1e-9)


def test_weight_decay_spares_biases_and_other_vectors():
    params = dict(kernel=jnp.ones((2, 3)), bias=jnp.ones(3), scale=jnp.ones(3))
    assert optim.decay_mask(params) == dict(kernel=True, bias=False, scale=False)
    optimiser = optim.adamw(lambda step: 0.1, (0.9, 0.95), weight_decay=0.5)
    zero = {name: jnp.zeros_like(value) for name, value in params.items()}
    updates, _ = optimiser.update(zero, optimiser.init(params), params)
    np.testing.assert_allclose(updates["kernel"], -0.05)
    np.testing.assert_array_equal(updates["bias"], 0)


def test_clipping_limits_the_norm_of_the_gradient_and_leaves_short_ones_alone():
    params = {"a": jnp.ones((2, 2)), "b": jnp.ones(3)}
    plain, clipped = (
        optim.adamw(lambda step: 0.1, (0.0, 0.0), 0.0, clip_norm=norm)
        for norm in (None, 1.0)
    )

    def second_moment(optimiser, scale):
        grads = {"a": jnp.full((2, 2), 3.0 * scale), "b": jnp.zeros(3)}  # norm 6 * scale
        _, state = optimiser.update(grads, optimiser.init(params), params)
        return optax.tree.get(state, "nu")["a"]

    np.testing.assert_allclose(second_moment(plain, 1.0), 9.0)
    np.testing.assert_allclose(second_moment(clipped, 1.0), 0.25, rtol=1e-6)
    np.testing.assert_allclose(second_moment(clipped, 0.1), 0.09, rtol=1e-6)
