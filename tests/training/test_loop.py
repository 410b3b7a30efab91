import dataclasses
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imae_jax import evaluation
from imae_jax.data.eval_splits import parts_of
from imae_jax.data.group_sampler import Groups
from imae_jax.distributed import sharding
from imae_jax.errors import UserError
from imae_jax.storage import workdir
from imae_jax.storage.checkpoint import Checkpoints
from imae_jax.storage.metrics_log import read_metrics
from imae_jax.training import loop, setup, trained_run
from imae_jax.training.restore import starting_params
from imae_jax.training.setup import is_resident, say_achieved_rate, set_up

MEASURED = ("images_per_second", "seconds", "data_wait")


def numbers(workdir):
    """The metrics that are computed, not measured."""
    return [
        {name: value for name, value in line.items() if name not in MEASURED}
        for line in read_metrics(workdir)
    ]


@pytest.fixture(scope="module")
def undisturbed(imae_config, tmp_path_factory):
    """An i-MAE run of four steps: its workdir and final state."""
    workdir = tmp_path_factory.mktemp("undisturbed")
    return workdir, loop.train(imae_config(), workdir)


@pytest.mark.slow
def test_four_steps_equal_two_and_two_more_exactly(imae_config, undisturbed, tmp_path):
    expected_dir, expected = undisturbed
    loop.train(imae_config(), tmp_path, stop_at=2)
    # What a killed run wrote after its last save, the last line cut short.
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 3, "loss/total": 1}\n{"step": 4, "lo')
    state = loop.train(imae_config(), tmp_path)
    jax.tree.map(np.testing.assert_array_equal, state, expected)
    assert numbers(tmp_path) == numbers(expected_dir)
    assert [line["step"] for line in numbers(tmp_path)] == [1, 2, 3, 4]


@pytest.fixture(scope="module")
def augmented_config(imae_config):
    """Makes a fresh config that draws all there is to draw."""

    def make():
        config = imae_config()
        config.augment.update(dict(pad=1, flip=True, crop_scale=(0.5, 1.0)))
        return config

    return make


@pytest.fixture(scope="module")
def augmented(augmented_config, tmp_path_factory):
    """A run of it: its workdir and final state."""
    workdir = tmp_path_factory.mktemp("augmented")
    return workdir, loop.train(augmented_config(), workdir)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"train.steps_per_dispatch": 3},
        {"data.feed": "streaming"},
        {"data.sharded": True},
        {"data.resident_gb": 0.0},
    ],
)
def test_every_feed_trains_the_same_run(changes, augmented_config, augmented, tmp_path):
    expected_dir, expected = augmented
    config = augmented_config()
    for key, value in changes.items():
        section, name = key.split(".")
        config[section][name] = value
    config.log.every_steps = 4
    state = loop.train(config, tmp_path)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), state, expected
    )
    (last,) = numbers(tmp_path)
    assert last.keys() == numbers(expected_dir)[-1].keys()
    assert last["loss/total"] == pytest.approx(numbers(expected_dir)[-1]["loss/total"])


def test_auto_takes_what_fits(mae_config, tmp_path):
    config = mae_config()
    split = set_up(config, tmp_path).train_split
    assert is_resident(config, split, 8)
    config.data.resident_gb = split.images.nbytes / 1e9 * 0.99
    assert not is_resident(config, split, 8)
    config.data.feed = "resident"
    assert is_resident(config, split, 8)


def test_a_rate_that_classes_do_not_allow_is_said_in_numbers(capsys):
    labels = np.array([0] * 80 + [1] * 20)
    say_achieved_rate(Groups(labels, 0, 0.5), 0.5)
    assert "same_class_rate=0.5: the classes allow 0.6000, 30 of 50 pairs" in (
        capsys.readouterr().out
    )
    say_achieved_rate(Groups(labels, 0, 0.6), 0.6)
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_the_achieved_rate_is_logged(imae_config, tmp_path):
    config = imae_config()
    config.mix.same_class_rate = 0.5
    loop.train(config, tmp_path, stop_at=1)
    assert numbers(tmp_path)[0]["same_class_rate"] == pytest.approx(0.5, abs=10 / 1297)


def test_data_that_changed_is_refused(imae_config, undisturbed, monkeypatch):
    whole = setup.load
    part = dict(train=100, validation=50, test=50)

    def fewer(*args, **options):
        return parts_of(whole(*args, **options), part, "raise")

    monkeypatch.setattr(setup, "load", fewer)
    with pytest.raises(UserError, match="its sizes was .*1297.* and is .*'train': 100"):
        loop.train(imae_config(), undisturbed[0])

    def renamed(*args, **options):
        return dataclasses.replace(whole(*args, **options), class_names=("a",) * 10)

    monkeypatch.setattr(setup, "load", renamed)
    with pytest.raises(UserError, match="data set has changed .* its class_names was"):
        evaluation.evaluate(imae_config(), undisturbed[0])


@pytest.mark.slow
def test_evaluation_sees_pixels_in_the_units_of_training(
    imae_config, undisturbed, monkeypatch
):
    config = imae_config()
    for name in list(config.evals):
        if name != "reconstruction":
            del config.evals[name]
    del config.explorer
    expected = evaluation.evaluate(config, undisturbed[0])
    whole = setup.load

    def another_copy(*args, **options):
        dataset = whole(*args, **options)
        return dataclasses.replace(dataset, mean=dataset.mean + 9, std=dataset.std * 2)

    monkeypatch.setattr(setup, "load", another_copy)
    assert evaluation.evaluate(config, undisturbed[0]) == expected


def test_a_finished_run_is_left_as_it_is(imae_config, undisturbed):
    workdir, expected = undisturbed
    before = (workdir / "metrics.jsonl").read_text()
    state = loop.train(imae_config(), workdir)
    jax.tree.map(np.testing.assert_array_equal, state, expected)
    assert (workdir / "metrics.jsonl").read_text() == before


def test_what_a_workdir_holds(undisturbed):
    workdir, _ = undisturbed
    config = json.loads((workdir / "config.json").read_text())
    assert config["loss"]["distill_weight"] == 1.0 and config["mix"]["alpha"] is None
    last = read_metrics(workdir)[-1]
    assert {
        "step",
        "skipped_steps",
        "epoch",
        "lr",
        "grad_norm",
        "images_per_second",
        "seconds",
        "data_wait",
        "same_class_rate",
        "loss/total",
        "loss/reconstruction_subordinate",
        "loss/reconstruction_dominant",
        "loss/distill_subordinate",
        "loss/distill_dominant",
    } == last.keys()
    assert last["epoch"] == pytest.approx(4 * 32 / 1297)
    assert list((workdir / "tensorboard").iterdir())
    with Checkpoints(workdir) as checkpoints:
        meta = checkpoints.meta(4)
    assert meta["teacher"]["step"] == 4 and len(meta["teacher"]["digest"]) == 64
    assert meta["config"] == config
    assert meta["image_shape"] == [8, 8, 1] and "jax" in meta["versions"]


def test_another_config_is_refused_and_its_keys_named(imae_config, undisturbed):
    config = imae_config()
    config.mix.alpha = 0.3
    config.optim.blr = 1.0
    with pytest.raises(UserError) as error:
        loop.train(config, undisturbed[0])
    assert "mix.alpha is None there, 0.3 here" in str(error.value)
    assert "optim.blr is" in str(error.value)
    assert "seed" not in str(error.value)


def test_keys_that_compute_nothing_may_change(imae_config, undisturbed):
    config = imae_config()
    config.checkpoint.keep = 5
    config.evals.separability.alpha = 0.2
    loop.train(config, undisturbed[0])
    assert workdir.read_config(undisturbed[0]).checkpoint.keep == 5


@pytest.mark.slow
def test_a_changed_teacher_refuses_a_resume(imae_config, mae_config, tmp_path):
    loop.train(imae_config(), tmp_path / "imae", stop_at=1)
    other = mae_config()
    other.seed = 1
    other.train.total_steps = 1
    loop.train(other, tmp_path / "other")
    config = imae_config()
    config.teacher.init = str(tmp_path / "other")
    with pytest.raises(UserError, match="began with a teacher of digest"):
        loop.train(config, tmp_path / "imae")


def test_warm_start_copies_the_teachers_embedding_into_both_heads(imae_config, tmp_path):
    config = imae_config()
    config.init = "teacher"
    setup = set_up(config, tmp_path)
    params, loaded = starting_params(setup), setup.teacher.params
    for head in ("disentangle_subordinate", "disentangle_dominant"):
        jax.tree.map(np.testing.assert_array_equal, params[head], loaded["decoder_embed"])
    for part in ("encoder", "decoder"):
        jax.tree.map(np.testing.assert_array_equal, params[part], loaded[part])
    # The state is donated: it must not take the teacher's arrays along.
    state = loop.train(config, tmp_path, stop_at=1)
    assert state.step == 1
    jax.tree.map(np.asarray, loaded)


def test_init_from_a_run_and_from_one_that_does_not_fit(imae_config, undisturbed, tmp_path):
    config = imae_config()
    config.init = str(undisturbed[0])
    params = starting_params(set_up(config, tmp_path))
    jax.tree.map(np.testing.assert_array_equal, params, undisturbed[1].params)

    config.model.encoder.depth = 2
    with pytest.raises(
        UserError, match="does not fit .* missing encoder/transformer/block_01"
    ):
        loop.train(config, tmp_path)


@pytest.mark.slow
def test_loss_that_is_not_finite_stops_the_run_before_it_is_saved(mae_config, tmp_path):
    config = mae_config()
    config.optim.blr = 1e30
    config.optim.warmup_steps = 0
    config.checkpoint.every_steps = 1
    config.train.total_steps = 30
    config.optim.max_skipped = 5
    message = (
        r"from step [23] on, 5 steps in a row .* the last good checkpoint is step [5-7]"
    )
    with pytest.raises(UserError, match=message):
        loop.train(config, tmp_path)
    run = trained_run.load_run(tmp_path, "workdir", sharding.make_mesh())
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(run.params))


def without_a_loss(monkeypatch, bad_steps):
    """Makes the loss of some steps NaN."""
    make_objective = loop.make_objective

    def make(setup):
        whole = make_objective(setup)

        def draw(batch, step, seed):
            is_bad = jnp.isin(step, jnp.array(bad_steps))
            examples = whole.draw(batch, step, seed)
            return examples, jnp.full(setup.config.train.batch_size, is_bad)

        def loss(params, batch_stats, teacher_params, examples):
            examples, is_bad = examples
            total, found = whole.loss(params, batch_stats, teacher_params, examples)
            return total * jnp.where(is_bad[0], jnp.nan, 1), found

        return SimpleNamespace(draw=draw, loss=loss, group_size=2)

    monkeypatch.setattr(loop, "make_objective", make)


@pytest.mark.slow
def test_a_step_that_is_not_finite_is_skipped_counted_and_said(
    mae_config, tmp_path, monkeypatch, capsys
):
    without_a_loss(monkeypatch, [1, 4])
    config = mae_config()
    config.train.total_steps = 6
    config.checkpoint.every_steps = 3
    state = loop.train(config, tmp_path / "whole")
    assert (int(state.step), int(state.skipped), int(state.skipped_in_a_row)) == (6, 2, 0)
    lines = read_metrics(tmp_path / "whole")
    assert [line["skipped_steps"] for line in lines] == [0, 1, 1, 1, 2, 2]
    text = (tmp_path / "whole" / "metrics.jsonl").read_text()
    assert "NaN" not in text and "Infinity" not in text
    assert "grad_norm" not in lines[1] and "grad_norm" in lines[2]
    # The schedule goes on where it was.
    assert lines[1]["lr"] == lines[0]["lr"] > lines[2]["lr"]
    said = capsys.readouterr().err
    assert "1 of 2 steps were skipped" in said and "2 of 5 steps were skipped" in said

    loop.train(config, tmp_path / "resumed", stop_at=3)
    resumed = loop.train(config, tmp_path / "resumed")
    jax.tree.map(np.testing.assert_array_equal, resumed, state)


@pytest.mark.parametrize("every_steps", [0, 1])
def test_a_run_in_which_no_step_counted_fails_and_saves_nothing(
    every_steps, mae_config, tmp_path
):
    config = mae_config()
    config.train.total_steps = 3
    config.optim.warmup_steps = 0
    config.optim.weight_decay = 1e38  # loss and gradient are finite, updates are not
    config.optim.blr = 1e10
    config.checkpoint.every_steps = every_steps
    with pytest.raises(UserError, match="none of 3 steps counted, so nothing is saved"):
        loop.train(config, tmp_path)
    assert not list((tmp_path / "checkpoints").iterdir())


@pytest.mark.slow
def test_many_in_a_row_end_the_run_and_name_the_step(mae_config, tmp_path, monkeypatch):
    without_a_loss(monkeypatch, [3, 4, 5])
    config = mae_config()
    config.train.total_steps = 10
    config.checkpoint.every_steps = 2
    config.log.every_steps = 10
    config.optim.max_skipped = 3
    message = "from step 4 on, 3 steps in a row .* last good checkpoint is step 4"
    with pytest.raises(UserError, match=message):
        loop.train(config, tmp_path)


@pytest.mark.slow
def test_training_learns(mae_config, tmp_path):
    config = mae_config()
    config.train.total_steps = 60
    config.optim.blr = 2e-2
    loop.train(config, tmp_path)
    losses = [line["loss/total"] for line in read_metrics(tmp_path)]
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])


@pytest.mark.slow
def test_a_run_goes_on_where_parameters_lie_otherwise(mae_config, tmp_path, monkeypatch):
    monkeypatch.setattr(sharding, "MIN_SPLIT", 64)
    config = mae_config()
    loop.train(config, tmp_path / "whole")
    config.mesh.fsdp = -1
    loop.train(config, tmp_path / "parts", stop_at=2)
    config.mesh.fsdp, config.train.accumulate = 2, 2
    state = loop.train(config, tmp_path / "parts")
    kernel = state.params["encoder"]["patch_embed"]["kernel"]
    assert kernel.size == 2 * kernel.addressable_shards[0].data.size
    found, expected = (numbers(tmp_path / name) for name in ("parts", "whole"))
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
