"""Classifiers through the trainer: linear probe, fine-tuning, training from scratch."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from running import call, fails
from test_loop import numbers, without_a_loss

from imae_jax import evaluation
from imae_jax.distributed import sharding
from imae_jax.errors import UserError
from imae_jax.objectives import losses
from imae_jax.storage import atomic_files
from imae_jax.storage.metrics_log import read_metrics
from imae_jax.storage.pytrees import tree_leaves
from imae_jax.storage.workdir import read_config
from imae_jax.training import setup, trained_run
from imae_jax.training.loop import optim, train
from imae_jax.training.restore import starting_params
from imae_jax.training.state import init_params, init_variables

MODES = ("linear", "finetune", "scratch")


def full(config):
    """Turns on all there is to draw and to keep."""
    config.augment.update(dict(pad=1, flip=True, crop_scale=(0.5, 1.0)))
    config.augment.randaugment.num_ops = 2
    config.augment.erasing.probability = 0.5
    config.mixup.update(dict(mixup_alpha=0.8, cutmix_alpha=1.0))
    config.model.encoder.depth = 2
    config.model.drop_path = 0.5
    config.optim.ema_decay = 0.5
    return config


@pytest.fixture(scope="module")
def run_of(transfer_config, tmp_path_factory):
    """Trains each mode once: its workdir and final state."""
    found = {}

    def run(mode):
        if mode not in found:
            workdir = tmp_path_factory.mktemp(mode)
            found[mode] = workdir, train(transfer_config(mode), workdir)
        return found[mode]

    return run


def changed(before, after):
    """The leaves in which two trees differ, by path."""
    before, after = tree_leaves(before), tree_leaves(after)
    assert before.keys() == after.keys()
    return {name for name in before if (before[name] != after[name]).any()}


def encoder_of(workdir):
    run = trained_run.load_run(workdir, "init", sharding.make_mesh())
    return {"encoder": run.params["encoder"]}


def test_a_linear_probe_changes_its_heads_and_nothing_else(run_of, teacher):
    _, state = run_of("linear")
    own = dict(state.params)
    encoder = {"encoder": own.pop("encoder")}
    assert not changed(encoder_of(teacher), encoder)
    names = {
        f"head_{pool}/{x}" for pool in ("class_token", "mean") for x in ("kernel", "bias")
    }
    fresh = {name: jax.tree.map(jnp.zeros_like, head) for name, head in own.items()}
    assert changed(fresh, own) == names
    # And the heads have moved from where they began.
    assert all(np.abs(own[name]["bias"]).max() > 1e-4 for name in own)
    assert state.batch_stats.keys() == {"norm_class_token", "norm_mean"}
    for statistics in state.batch_stats.values():
        assert np.abs(statistics["mean"]).min() > 0 and (statistics["var"] != 1).all()


def test_a_probe_keeps_no_momentum_for_the_encoder(run_of):
    _, state = run_of("linear")
    assert not any("encoder" in name for name in tree_leaves(state.opt_state))


@pytest.mark.slow
def test_fine_tuning_starts_from_the_encoder_and_changes_everything(
    transfer_config, teacher, tmp_path
):
    config = transfer_config("finetune")
    config.checkpoint.every_steps = 1
    made = setup.set_up(config, tmp_path)
    start = starting_params(made)
    loaded = encoder_of(teacher)
    loaded["encoder"]["transformer"].pop("norm")
    assert not changed(loaded, start)
    state = train(config, tmp_path)
    assert state.params.keys() == {"encoder", "fc_norm", "head_mean"}
    assert changed(loaded, {"encoder": state.params["encoder"]}) == set(tree_leaves(loaded))
    fresh = init_params(made.model, config.seed)
    assert changed(fresh, state.params) == set(tree_leaves(fresh))
    assert not state.batch_stats


def test_scratch_starts_from_random_weights(transfer_config, tmp_path):
    config = transfer_config("scratch")
    assert config.optim.layer_decay == 1.0
    assert starting_params(setup.set_up(config, tmp_path)) is None


def test_what_is_loaded_and_what_is_not_is_said(transfer_config, tmp_path, capsys):
    def said(**changes):
        config = transfer_config("finetune")
        config.model.update(changes)
        starting_params(setup.set_up(config, tmp_path))
        (line,) = [x for x in capsys.readouterr().out.splitlines() if "init=" in x]
        return line

    assert said().endswith(
        "encoder loaded; not used: decoder, decoder_embed, encoder/transformer/norm; "
        "new: fc_norm, head_mean"
    )
    assert said(pools=("class_token",)).endswith(
        "encoder loaded; not used: decoder, decoder_embed; new: head_class_token"
    )


@pytest.mark.slow
def test_a_classifier_and_an_imae_run_give_their_encoders(
    transfer_config, run_of, evaluated, tmp_path, capsys
):
    for workdir, unused in (
        (run_of("linear")[0], "head_class_token, head_mean;"),
        (evaluated, "decoder, disentangle_dominant, disentangle_subordinate;"),
    ):
        config = transfer_config("linear")
        config.init = str(workdir)
        state = train(config, tmp_path / workdir.name, stop_at=1)
        assert not changed(encoder_of(workdir), {"encoder": state.params["encoder"]})
        assert f"not used: {unused}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "changes,message",
    [
        (dict(depth=2), "missing encoder/transformer/block_01/.*; and 4 more"),
        (dict(width=48), r"class_token is float32\[32\], should be float32\[48\]"),
    ],
)
def test_an_encoder_that_does_not_fit_is_refused(
    changes, message, transfer_config, tmp_path
):
    config = transfer_config("linear")
    config.model.encoder.update(changes)
    with pytest.raises(UserError, match=f"the encoder of init=.*{message}"):
        train(config, tmp_path)
    assert not (tmp_path / "config.json").exists()


def test_another_patch_size_is_refused(transfer_config, tmp_path):
    config = transfer_config("linear")
    config.model.variant = "mu/4"
    with pytest.raises(
        UserError, match=r"patch_embed/kernel is .*\[4, 32\], should .*\[16"
    ):
        train(config, tmp_path)


def test_an_encoder_without_its_norm_is_no_start_for_a_probe(
    transfer_config, run_of, tmp_path
):
    config = transfer_config("linear")
    config.init = str(run_of("finetune")[0])
    with pytest.raises(UserError, match="missing encoder/transformer/norm/bias"):
        train(config, tmp_path)


@pytest.mark.parametrize("mode", MODES)
def test_metrics_and_evaluation(mode, run_of):
    workdir, _ = run_of(mode)
    pools = ("class_token", "mean") if mode == "linear" else ("mean",)
    lines = read_metrics(workdir)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    names = [f"accuracy/{pool}" for pool in pools] if len(pools) > 1 else ["accuracy"]
    assert {"loss/total", *names} <= lines[-1].keys()
    assert all(0 <= line[name] <= 1 for line in lines for name in names)
    found = evaluation.evaluate(read_config(workdir), workdir)
    assert found == json.loads((workdir / "eval.json").read_text())
    measured = ("accuracy", "top5_accuracy", "loss")
    expected = {f"classification/{pool}/{name}" for pool in pools for name in measured}
    assert found.keys() == expected | {"classification/chance", "classification/count"}
    assert found["classification/count"] == 300
    settings = json.loads((workdir / "eval_settings.json").read_text())
    assert settings["classification/mean/accuracy"] == {
        "split": "test",
        "count": 300,
        "alpha": None,
        "mask_ratio": None,
        "checkpoint": 4,
    }


def test_evaluation_equals_the_network_applied_by_hand(run_of):
    workdir, state = run_of("linear")
    config = read_config(workdir)
    made = setup.set_up(config, workdir)
    split = made.dataset.splits["test"]
    images = (split.images - made.dataset.mean) / made.dataset.std
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    logits = made.model.apply(variables, images, is_training=False)
    found = evaluation.evaluate(config, workdir)
    for pool, by_class in logits.items():
        accuracy = (np.argmax(by_class, axis=1) == split.labels).mean()
        assert found[f"classification/{pool}/accuracy"] == pytest.approx(accuracy)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["linear", "finetune"])
def test_four_steps_equal_two_and_two_more_exactly(mode, transfer_config, tmp_path):
    def config():
        made = transfer_config(mode)
        if mode == "finetune":
            made.init, made.model.mode = "", "scratch"  # of two blocks
            full(made)
        return made

    expected = train(config(), tmp_path / "whole")
    train(config(), tmp_path / "parts", stop_at=2)
    state = train(config(), tmp_path / "parts")
    jax.tree.map(np.testing.assert_array_equal, state, expected)
    assert numbers(tmp_path / "parts") == numbers(tmp_path / "whole")
    stored = {path.name for path in (tmp_path / "parts" / "checkpoints" / "4").iterdir()}
    assert ("batch_stats" in stored) == (mode == "linear")
    if mode == "finetune":
        average = optim.averaged(state.opt_state)
        assert changed(state.params, average)


@pytest.mark.parametrize(
    "changes", [{"train.steps_per_dispatch": 3}, {"data.feed": "streaming"}]
)
@pytest.mark.parametrize("mode", ["linear", "finetune"])
def test_every_feed_trains_the_same_run(changes, mode, transfer_config, run_of, tmp_path):
    config = transfer_config(mode)
    for key, value in changes.items():
        section, name = key.split(".")
        config[section][name] = value
    state = train(config, tmp_path)
    expected = run_of(mode)[1]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), state, expected
    )


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["linear", "finetune"])
def test_a_skipped_step_changes_neither_statistics_nor_average(
    mode, transfer_config, tmp_path, monkeypatch
):
    without_a_loss(monkeypatch, [1])

    def state_after(step):
        config = transfer_config(mode)
        if mode == "finetune":
            config.optim.ema_decay = 0.5
        return train(config, tmp_path, stop_at=step)

    states = [jax.tree.map(np.array, state_after(step).arrays) for step in (1, 2, 3)]
    assert not changed(states[0], states[1])
    names = changed(states[1], states[2])
    wanted = "batch_stats/" if mode == "linear" else "average/"
    assert any(wanted in name for name in names)


@pytest.mark.slow
def test_the_average_is_what_is_scored(transfer_config, tmp_path):
    config = transfer_config("scratch")
    config.optim.ema_decay = 0.9
    state = train(config, tmp_path)
    run = trained_run.load_run(tmp_path, "workdir", sharding.make_mesh())
    average = optim.averaged(state.opt_state)
    jax.tree.map(np.testing.assert_array_equal, run.params, average)
    assert changed(run.params, state.params) == set(tree_leaves(run.params))


@pytest.mark.slow
def test_the_average_starts_from_what_is_loaded(transfer_config, teacher, tmp_path):
    config = transfer_config("finetune")
    config.optim.ema_decay = 0.999
    state = train(config, tmp_path, stop_at=1)
    average = optim.averaged(state.opt_state)
    loaded = encoder_of(teacher)["encoder"]["patch_embed"]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3),
        average["encoder"]["patch_embed"],
        loaded,
    )


def batch_of(made, step=0):
    with setup.make_feed(made) as feed:
        return feed.get_labelled_batch(feed.inputs(step), 0)


def loss_and_metrics(made, batch, step=0):
    params, batch_stats = init_variables(made.model, 0)
    loss = jax.jit(setup.make_objective(made))
    total, (metrics, _) = loss(params, batch_stats, None, batch, step, 0)
    return float(total), metrics


KNOBS = {
    "augment.pad": 2,
    "augment.flip": True,
    "augment.crop_scale": (0.2, 1.0),
    "augment.randaugment.num_ops": 2,
    "augment.erasing.probability": 1.0,
    "mixup.mixup_alpha": 0.8,
    "mixup.cutmix_alpha": 1.0,
    "mixup.smoothing": 0.3,
    "model.drop_path": 0.5,
    "model.pools": ("class_token",),
    "seed": 1,
}
# They count where their operation is on.
INNER_KNOBS = {
    "augment.pad_mode": "reflect",
    "augment.randaugment.magnitude": 1.0,
    "augment.randaugment.magnitude_std": 3.0,
    "augment.randaugment.probability": 1.0,
    "augment.erasing.area": (0.5, 0.6),
    "augment.erasing.ratio": (0.9, 1.0),
    "mixup.switch_probability": 1.0,
}


def set_key(config, key, value):
    *sections, name = key.split(".")
    for part in sections:
        config = config[part]
    config[name] = value


@pytest.fixture(scope="module")
def first_loss(transfer_config, tmp_path_factory):
    """The loss of a scratch run's first step, with heads that say something."""

    def compute(key=None, value=None, is_full=False):
        config = transfer_config("scratch")
        config.model.encoder.depth = 2
        if is_full:
            full(config)
        if key:
            set_key(config, key, value)
        made = setup.set_up(config, tmp_path_factory.mktemp("loss"))
        params, batch_stats = init_variables(made.model, config.seed)
        params = jax.tree.map(
            lambda x: x + 0.1 * jnp.cos(jnp.arange(x.size)).reshape(x.shape), params
        )
        loss = jax.jit(setup.make_objective(made))
        return float(loss(params, batch_stats, None, batch_of(made), 0, config.seed)[0])

    return compute


@pytest.mark.slow
def test_every_key_changes_something(first_loss):
    plain, whole = first_loss(), first_loss(is_full=True)
    for key, value in KNOBS.items():
        assert first_loss(key, value) != plain, key
    for key, value in INNER_KNOBS.items():
        assert first_loss(key, value, is_full=True) != whole, key


def test_accuracy_with_mixup_is_against_the_larger_label():
    targets = jnp.array([[0.7, 0.3, 0.0], [0.2, 0.0, 0.8], [0.0, 1.0, 0.0]])
    logits = jnp.array([[3.0, 1.0, 0.0], [4.0, 0.0, 1.0], [0.0, 2.0, 1.0]])
    total, metrics = losses.classification_losses({"mean": logits}, targets)
    expected = -(targets * jnp.log(jax.nn.softmax(logits))).sum(axis=1).mean()
    assert float(total) == pytest.approx(float(expected))
    assert float(metrics["accuracy"]) == pytest.approx(2 / 3)
    both, metrics = losses.classification_losses(dict(a=logits, b=logits), targets)
    assert float(both) == pytest.approx(2 * float(expected))
    assert metrics.keys() == {"loss/total", "accuracy/a", "accuracy/b"}


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["linear", "finetune"])
def test_training_learns(mode, transfer_config, tmp_path):
    config = transfer_config(mode)
    config.train.total_steps = 150
    config.log.every_steps = 10
    # The teacher has learned next to nothing in its four steps.
    config.optim.blr = 400.0 if mode == "linear" else 4e-2
    train(config, tmp_path)
    names = ["accuracy/class_token", "accuracy/mean"] if mode == "linear" else ["accuracy"]
    lines = read_metrics(tmp_path)
    for name in names:
        curve = [line[name] for line in lines]
        assert np.mean(curve[-4:]) > max(0.4, 2 * curve[0]), name
    found = evaluation.evaluate(config, tmp_path)
    assert found["classification/mean/accuracy"] > 0.5


def test_other_runs_are_what_they_were_and_no_teachers(imae_config, run_of, tmp_path):
    config = imae_config()
    config.teacher.init = str(run_of("linear")[0])
    with pytest.raises(UserError, match="is a classifier run; a teacher is a MAE run"):
        train(config, tmp_path)


@pytest.mark.slow
def test_the_command_line(data_dir, teacher, tmp_path):
    workdir = tmp_path / "probe"
    arguments = [
        "train",
        "--config=configs/transfer.py:digits,linear,runlocal",
        f"--config.data.dir={data_dir}",
        f"--workdir={workdir}",
    ]
    assert "init is empty, but model.mode='linear' needs an encoder" in fails(*arguments)
    done = call(*arguments, f"--config.init={teacher}")
    assert done.returncode == 0, done.stderr
    done = call("eval", f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    found = atomic_files.read_json(workdir / "eval.json")
    assert f"{found['classification/mean/accuracy']:.3f}" in done.stdout
    assert "Measured on 300 images of the test split." in " ".join(done.stdout.split())
    assert call("report", f"--workdir={workdir}").returncode == 0
