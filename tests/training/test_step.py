import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imae_jax import optim
from imae_jax.distributed import sharding
from imae_jax.storage.pytrees import flatten
from imae_jax.training.setup import batch_getter, make_feed, make_objective, set_up
from imae_jax.training.state import init_params, init_state
from imae_jax.training.step import make_train_step


def make_step(config, workdir, mesh=None):
    """The set-up, a fresh state, the jitted step of a config, and its feed."""
    setup = set_up(config, workdir)
    if mesh is not None:
        setup = dataclasses.replace(setup, mesh=mesh)
    schedule = optim.learning_rate(config.optim.blr, config.train.batch_size, 1, 10)
    optimizer = setup.kind.optimizer(config, setup.model, schedule)
    state = init_state(setup.model, optimizer, config.seed, setup.mesh)
    feed = make_feed(setup)
    step = make_train_step(
        make_objective(setup),
        optimizer,
        setup.mesh,
        batch_getter(setup, feed),
        state,
        accumulate=config.train.accumulate,
        max_skipped=3,
    )
    return setup, state, step, feed


def batch(setup, step):
    feed = make_feed(setup)
    return feed.get_batch(feed.inputs(step), 0)


def run(config, workdir, mesh=None, num_steps=2):
    """The metrics of the first steps."""
    setup, state, step, feed = make_step(config, workdir, mesh)
    teacher = setup.teacher.params if setup.teacher else None
    if mesh is not None:
        teacher = jax.device_put(teacher, sharding.fsdp_shardings(teacher, mesh))
    history = []
    for number in range(num_steps):
        state, metrics = step(state, teacher, feed.inputs(number), 1)
        history.append({name: float(value) for name, value in metrics.items()})
    return history


CONFIGS = ("mae", "imae", "linear", "finetune")


@pytest.fixture
def config_of(mae_config, imae_config, transfer_config):
    """Makes a config of a kind, with batches that fall on 8 devices in 2 parts."""

    def make(kind):
        plain = {"mae": mae_config, "imae": imae_config}
        name, _, option = kind.partition("_")
        config = plain[name]() if name in plain else transfer_config(name)
        if option == "clean":
            config.mix.clean_fraction = 0.25
            config.mask.update(dict(kind="content", content_weight=1.0))
        if option == "contrast":
            config.loss.contrast_weight = config.loss.uniformity_weight = 1.0
        if option == "three":
            config.mix.sources = 3
        if option == "cross":
            config.model.decoder.attention = "cross"
            config.loss.predict_fraction = 0.5
        config.train.batch_size = 48 if option == "three" else 32
        return config

    return make


@pytest.fixture(scope="module")
def on_one(tmp_path_factory):
    """The first steps of a config on one device, made once for each kind."""
    found = {}

    def once(kind, config):
        if kind not in found:
            one = sharding.make_mesh(jax.devices()[:1])
            found[kind] = run(config, tmp_path_factory.mktemp(kind), one)
        return found[kind]

    return once


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "devices", "fsdp", "accumulate"),
    [
        *[(kind, 8, 1, 1) for kind in CONFIGS],
        *[(kind, 8, -1, 1) for kind in CONFIGS],
        ("mae", 2, 1, 2),
        ("imae", 4, 2, 2),
        ("imae", 1, 1, 2),
        ("imae_clean", 4, 2, 2),
        ("imae_contrast", 8, 1, 1),
        ("imae_contrast", 4, 2, 1),
        ("imae_three", 8, 1, 1),
        ("imae_three", 4, 2, 2),
        ("imae_cross", 8, -1, 1),
        ("imae_cross", 4, 2, 2),
        ("finetune", 8, 4, 2),
    ],
)
def test_any_number_of_devices_and_parts_gives_the_loss_of_one(
    kind, devices, fsdp, accumulate, config_of, on_one, tmp_path, monkeypatch
):
    monkeypatch.setattr(sharding, "MIN_SPLIT", 64)
    config = config_of(kind)
    one = on_one(kind, config)
    config.train.accumulate = accumulate
    mesh = sharding.make_mesh(jax.devices()[:devices], fsdp)
    found = run(config, tmp_path, mesh)
    assert len(found) == 2
    for ours, theirs in zip(found, one, strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=2e-5, err_msg=name)


@pytest.mark.slow
def test_a_shared_state_is_born_and_stays_split(mae_config, tmp_path, monkeypatch):
    monkeypatch.setattr(sharding, "MIN_SPLIT", 64)
    mesh = sharding.make_mesh(fsdp=4)
    _, state, step, feed = make_step(mae_config(), tmp_path, mesh)

    def share(state):
        kernels = [x for x in jax.tree.leaves(state) if x.ndim == 2]
        return {x.size / x.addressable_shards[0].data.size for x in kernels}

    assert share(state) == {4}
    state, _ = step(state, None, feed.inputs(0), 1)
    assert share(state) == {4}


@pytest.mark.parametrize("kind", ["imae", "imae_cross"])
def test_one_trace(kind, config_of, tmp_path):
    setup, state, step, feed = make_step(config_of(kind), tmp_path)
    for number in range(3):
        state, _ = step(state, setup.teacher.params, feed.inputs(number), 1)
    assert step._cache_size() == 1


@pytest.mark.slow
@pytest.mark.parametrize("looped", [False, True])
def test_after_too_many_bad_steps_nothing_changes_any_more(looped, mae_config, tmp_path):
    setup, state, _, feed = make_step(mae_config(), tmp_path)
    whole = make_objective(setup)

    def draw(images, step, seed):
        bad = (step == 1) | (step == 3) | (step == 4)
        return whole.draw(images, step, seed), jnp.full(len(images), bad)

    def loss(params, batch_stats, teacher_params, examples):
        examples, bad = examples
        total, found = whole.loss(params, batch_stats, teacher_params, examples)
        # The loss itself is finite, its gradient is not.
        good = jnp.where(bad[0], 0.0, 1.0)
        root = jnp.sqrt(good * jax.tree.leaves(params)[0].sum() ** 2)
        return total + 0 * root, found

    schedule = optim.learning_rate(1e-2, 32, 1, 10)
    optimizer = optim.adamw(schedule, (0.9, 0.95), 0.05)
    step = make_train_step(
        SimpleNamespace(draw=draw, loss=loss, group_size=2),
        optimizer,
        setup.mesh,
        feed.get_batch,
        state,
        looped=looped,
        max_skipped=2,
    )
    changed, counts = [], []
    for number in range(7):
        before = jax.tree.map(np.array, (state.params, state.opt_state))
        state, metrics = step(state, None, feed.inputs(number), 1)
        assert np.isfinite(metrics["loss/total"])
        after = jax.tree.map(np.array, (state.params, state.opt_state))
        same = jax.tree.map(np.array_equal, before, after)
        changed.append(not jax.tree.all(same))
        counts.append((int(state.skipped), int(state.skipped_in_a_row)))
    # Steps 5 and 6 are good, but come after two bad ones in a row.
    assert changed == [True, False, True, False, False, False, False]
    assert counts == [(0, 0), (1, 1), (1, 0), (2, 1), (3, 2), (4, 3), (5, 4)]
    assert int(state.step) == 7


def test_state_is_donated_and_the_teacher_stays_as_it_was(imae_config, tmp_path):
    setup, state, step, feed = make_step(imae_config(), tmp_path)
    teacher = setup.teacher.params
    before = jax.tree.map(np.array, teacher)
    old_leaf = jax.tree.leaves(state.params)[0]
    step(state, teacher, feed.inputs(0), 1)
    assert old_leaf.is_deleted()
    jax.tree.map(np.testing.assert_array_equal, before, jax.tree.map(np.array, teacher))


def test_teacher_changes_the_loss_only_through_distillation(imae_config, tmp_path):
    setup, state, step, feed = make_step(imae_config(), tmp_path)
    other = jax.tree.map(lambda x: x + 0.1, setup.teacher.params)
    copies = jax.tree.map(lambda x: x.copy(), state)
    _, plain = step(state, setup.teacher.params, feed.inputs(0), 1)
    _, changed = step(copies, other, feed.inputs(0), 1)
    differing = {name for name in plain if plain[name] != changed[name]}
    assert differing == {
        "loss/distill_subordinate",
        "loss/distill_dominant",
        "loss/total",
        "grad_norm",
    }


def test_every_seed_is_served_by_the_same_program(imae_config, tmp_path):
    """A study compiles a step once for all its seeds."""
    texts = set()
    for seed in (0, 1):
        config = imae_config()
        config.seed = seed
        setup, state, step, feed = make_step(config, tmp_path / str(seed))
        assert state.seed == seed
        lowered = step.lower(state, setup.teacher.params, feed.inputs(0), 1)
        texts.add(lowered.as_text())
    assert len(texts) == 1


@pytest.mark.slow
def test_every_step_draws_anew_and_the_same_step_the_same(mae_config, tmp_path):
    setup = set_up(mae_config(), tmp_path)
    params = init_params(setup.model, 0)
    loss = jax.jit(make_objective(setup))
    first, second, again = (
        float(loss(params, {}, None, batch(setup, 0), step, 0)[0]) for step in (0, 1, 0)
    )
    assert first == again != second


# Every key of model, mix, mask, loss, augment and teacher, and a value it may take.
KNOBS = {
    "model.variant": "mu/4",
    "model.encoder.width": 48,
    "model.encoder.depth": 2,
    "model.encoder.heads": 4,
    "model.decoder.width": 48,
    "model.decoder.depth": 2,
    "model.decoder.heads": 4,
    "model.decoder.attention": "cross",
    "mix.sources": 4,
    "mix.alpha": 0.3,
    "mix.per_batch": True,
    "mix.shared_mask": True,
    "mix.clean_fraction": 0.5,
    "mix.same_class_rate": 1.0,
    "mask.ratio": 0.75,
    "mask.kind": "grid",
    "mask.content_weight": -1.0,
    "loss.norm_pix": True,
    "loss.predict_fraction": 0.5,
    "loss.branches": "subordinate",
    "loss.distill_weight": 0.5,
    "loss.contrast_weight": 0.5,
    "loss.contrast_temperature": 1.0,
    "loss.uniformity_weight": 0.5,
    "teacher.input": "mixture",
    "augment.pad": 2,
    "augment.pad_mode": "reflect",
    "augment.flip": True,
    "augment.crop_scale": (0.2, 1.0),
    "seed": 1,
}


def first_loss(config, workdir):
    """The total loss of step 0, without its gradient."""
    setup = set_up(config, workdir)
    teacher = setup.teacher.params if setup.teacher else None
    params = init_params(setup.model, config.seed)
    loss = jax.jit(make_objective(setup))
    return loss(params, {}, teacher, batch(setup, 0), 0, config.seed)[0]


@pytest.fixture(scope="module")
def plain_losses(imae_config, tmp_path_factory):
    """The loss with and without distillation, nothing else changed."""
    losses = {}
    for weight in (0.0, 1.0):
        config = imae_config()
        config.loss.distill_weight = weight
        losses[weight] = first_loss(config, tmp_path_factory.mktemp("plain"))
    return losses


@pytest.mark.slow
@pytest.mark.parametrize("key", KNOBS)
def test_every_key_changes_something(key, imae_config, plain_losses, tmp_path):
    config = imae_config()
    if key in ("model.variant", "model.decoder.width"):  # the teacher's must be equal
        config.loss.distill_weight = 0.0
        config.teacher.init = ""
    expected = plain_losses[config.loss.distill_weight]
    if key in ("loss.contrast_temperature", "augment.pad_mode"):  # which count with these
        config.loss.contrast_weight, config.augment.pad = 1.0, 2
        expected = first_loss(config, tmp_path)
    if key == "mask.content_weight":
        config.mask.update(dict(kind="content", content_weight=1.0))
        expected = first_loss(config, tmp_path)
    if key == "loss.predict_fraction":
        config.model.decoder.attention = "cross"
        expected = first_loss(config, tmp_path)
    *sections, name = key.split(".")
    section = config
    for part in sections:
        section = section[part]
    section[name] = KNOBS[key]
    assert first_loss(config, tmp_path) != expected


def test_every_key_is_tried(imae_config):
    config = imae_config().to_dict()
    for section in ("model", "mix", "mask", "loss", "augment"):
        keys = flatten(config[section], f"{section}.")
        assert keys.keys() - {"model.name"} <= KNOBS.keys()
