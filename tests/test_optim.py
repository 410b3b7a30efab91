from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import transfer
from imae_jax import optim
from imae_jax.errors import UserError
from imae_jax.objectives.classification import ClassificationObjective

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
    optimizer = optim.adamw(lambda step: 0.1, (0.9, 0.95), weight_decay=0.5)
    zero = {name: jnp.zeros_like(value) for name, value in params.items()}
    updates, _ = optimizer.update(zero, optimizer.init(params), params)
    np.testing.assert_allclose(updates["kernel"], -0.05)
    np.testing.assert_array_equal(updates["bias"], 0)


def test_clipping_limits_the_norm_of_the_gradient_and_leaves_short_ones_alone():
    params = {"a": jnp.ones((2, 2)), "b": jnp.ones(3)}
    plain, clipped = (
        optim.adamw(lambda step: 0.1, (0.0, 0.0), 0.0, clip_norm=norm)
        for norm in (None, 1.0)
    )

    def second_moment(optimizer, scale):
        grads = {"a": jnp.full((2, 2), 3.0 * scale), "b": jnp.zeros(3)}  # norm 6 * scale
        _, state = optimizer.update(grads, optimizer.init(params), params)
        return optax.tree.get(state, "nu")["a"]

    np.testing.assert_allclose(second_moment(plain, 1.0), 9.0)
    np.testing.assert_allclose(second_moment(clipped, 1.0), 0.25, rtol=1e-6)
    np.testing.assert_allclose(second_moment(clipped, 0.1), 0.09, rtol=1e-6)


CLASSIFIER = {
    "encoder": {
        "class_token": jnp.ones(2),
        "patch_embed": {"kernel": jnp.ones((1, 2)), "bias": jnp.ones(2)},
        "transformer": {
            "block_00": {"mlp_in": {"kernel": jnp.ones((2, 2))}},
            "block_01": {"mlp_in": {"kernel": jnp.ones((2, 2))}},
            "norm": {"scale": jnp.ones(2)},
        },
    },
    "fc_norm": {"scale": jnp.ones(2)},
    "head_mean": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)},
}


def test_layer_factors_are_those_of_mae():
    """Its `lr_decay.py`, of a ViT of two blocks: four groups, the last one at full rate."""
    found = optim.layer_factors(CLASSIFIER, 0.5, depth=2)
    assert found == {
        "encoder": {
            "class_token": 1 / 8,
            "patch_embed": {"kernel": 1 / 8, "bias": 1 / 8},
            "transformer": {
                "block_00": {"mlp_in": {"kernel": 1 / 4}},
                "block_01": {"mlp_in": {"kernel": 1 / 2}},
                "norm": {"scale": 1.0},
            },
        },
        "fc_norm": {"scale": 1.0},
        "head_mean": {"kernel": 1.0, "bias": 1.0},
    }
    many = {"encoder": {"transformer": {"block_11": {"bias": jnp.ones(1)}}}}
    (factor,) = jax.tree.leaves(optim.layer_factors(many, 0.65, depth=24))
    assert factor == pytest.approx(0.65**13)


def test_rates_and_weight_decay_shrink_together():
    optimizer = optim.finetuning(
        optim.adamw(lambda step: 0.1, (0.9, 0.999), 0.5),
        depth=2,
        layer_decay=0.5,
        ema_decay=None,
    )
    zero = jax.tree.map(jnp.zeros_like, CLASSIFIER)
    updates, state = optimizer.update(zero, optimizer.init(CLASSIFIER), CLASSIFIER)
    blocks = updates["encoder"]["transformer"]
    np.testing.assert_allclose(blocks["block_00"]["mlp_in"]["kernel"], -0.05 / 4)
    np.testing.assert_allclose(updates["head_mean"]["kernel"], -0.05)
    assert not updates["encoder"]["class_token"].any()
    assert optim.averaged(state) is None
    one = jax.tree.map(jnp.ones_like, CLASSIFIER)
    updates, _ = optimizer.update(one, optimizer.init(CLASSIFIER), CLASSIFIER)
    # AdamW's first step is the sign of the gradient.
    np.testing.assert_allclose(updates["encoder"]["class_token"], -0.1 / 8, rtol=1e-5)


def test_the_average_follows_the_parameters():
    update = optax.chain(optax.scale(-1.0), optim.averaging(0.75))
    params = {"a": jnp.array([4.0])}
    state = update.init(params)
    expected = 4.0
    for grad in (1.0, -2.0, 0.5):
        updates, state = update.update({"a": jnp.array([grad])}, state, params)
        assert updates["a"] == -grad
        params = optax.apply_updates(params, updates)
        expected = 0.75 * expected + 0.25 * float(params["a"][0])
        assert float(optim.averaged(state)["a"][0]) == pytest.approx(expected)


def test_only_heads_are_updated():
    optimizer = optim.heads_only(optim.lars(lambda step: 1.0))
    state = optimizer.init(CLASSIFIER)
    grads = jax.tree.map(jnp.ones_like, CLASSIFIER)
    updates, _ = optimizer.update(grads, state, CLASSIFIER)
    assert not any(x.any() for x in jax.tree.leaves(updates["encoder"]))
    heads = {name: updates[name] for name in ("fc_norm", "head_mean")}
    assert all((x < 0).all() for x in jax.tree.leaves(heads))
    plain = optim.lars(lambda step: 1.0)
    own = {"head_mean": CLASSIFIER["head_mean"]}
    expected, _ = plain.update({"head_mean": grads["head_mean"]}, plain.init(own), own)
    jax.tree.map(np.testing.assert_array_equal, expected["head_mean"], heads["head_mean"])


def test_the_schedule_can_end_above_zero():
    schedule = optim.learning_rate(1e-3, 512, 10, 110, 1e-4)
    rates = [float(schedule(step)) for step in (0, 5, 10, 60, 110)]
    np.testing.assert_allclose(rates, [0, 1e-3, 2e-3, 1.05e-3, 1e-4], atol=1e-8)


# Every key of optim and train that changes updates, and a value it may take. Durations: the
# first unit that is set counts.
KNOBS = {
    "optim.blr": 1e-3,
    "optim.betas": (0.5, 0.6),
    "optim.weight_decay": 0.9,
    "optim.clip_norm": 0.1,
    "optim.min_lr": 1e-4,
    "optim.warmup_steps": 3,
    "optim.warmup_examples": 640,
    "optim.warmup_epochs": 1.0,
    "optim.warmup_fraction": 0.5,
    "optim.layer_decay": 0.5,
    "optim.ema_decay": 0.9,
    "train.total_steps": 50,
    "train.total_examples": 6400,
    "train.total_epochs": 3.0,
    "train.batch_size": 64,
}
# Effects of other kinds, which other tests hold.
OTHERS = {
    "optim.max_skipped",  # test_loop: many steps in a row that are not finite
    "train.accumulate",  # test_step: parts of a batch
    "train.steps_per_dispatch",  # test_loop: every feed trains the same run
}


@pytest.fixture(scope="module")
def updates_of():
    """The state of a fine-tuning's optimizer, and the parameters, after five steps."""
    params = {
        "encoder": {
            "transformer": {"block_00": {"kernel": jnp.ones((4, 4))}},
            "patch_embed": {"kernel": jnp.ones((4, 4))},
        },
        "head": {"kernel": jnp.ones((4, 2))},
    }
    gradients = [
        jax.tree.map(
            lambda x, n=n: jnp.cos(n + jnp.arange(float(x.size))).reshape(x.shape), params
        )
        for n in range(5)
    ]

    def compute(config):
        total, warmup = optim.run_steps(config, 640)
        section = config.optim
        batch_size, min_lr = config.train.batch_size, section.min_lr
        schedule = optim.learning_rate(section.blr, batch_size, warmup, total, min_lr)
        model = SimpleNamespace(is_probe=False, encoder_size=SimpleNamespace(depth=1))
        optimizer = ClassificationObjective.optimizer(config, model, schedule)
        state, found = optimizer.init(params), params
        for gradient in gradients:
            updates, state = optimizer.update(gradient, state, found)
            found = optax.apply_updates(found, updates)
        return jax.tree.map(np.asarray, (state, found))

    return compute


def config_of_knobs():
    config = transfer.get_config("digits,finetune,runlocal")
    config.optim.update(blr=2e-3, weight_decay=0.1, layer_decay=0.75)
    for section, unit in ((config.train, "total_steps"), (config.optim, "warmup_steps")):
        for name in section:
            if name.startswith(unit.partition("_")[0] + "_"):
                section[name] = None
    config.train.update(total_epochs=2.0, batch_size=32)
    config.optim.warmup_fraction = 0.05
    return config


@pytest.mark.parametrize("key", KNOBS)
def test_every_key_changes_the_updates(key, updates_of):
    plain, changed = config_of_knobs(), config_of_knobs()
    section, name = key.split(".")
    changed[section][name] = KNOBS[key]
    same = jax.tree.map(np.array_equal, updates_of(plain), updates_of(plain))
    assert all(jax.tree.leaves(same))
    plain, changed = updates_of(plain), updates_of(changed)
    if jax.tree.structure(plain) == jax.tree.structure(changed):
        same = jax.tree.map(np.array_equal, plain, changed)
        assert not all(jax.tree.leaves(same))


def test_every_key_is_tried():
    for arg in ("digits,finetune", "digits,linear", "imagenet,scratch"):
        config = transfer.get_config(arg)
        for section in ("optim", "train"):
            keys = {f"{section}.{name}" for name in config[section]}
            assert keys <= KNOBS.keys() | OTHERS
