"""What a run takes over from the networks that it begins with."""

import dataclasses

import numpy as np
import pytest

from imae_jax.errors import UserError
from imae_jax.training import restore, setup
from imae_jax.training.loop import train


@pytest.fixture
def brighter(monkeypatch):
    """All data sets opened from now on have other pixel statistics."""

    def opened(config):
        found = load_data(config)
        return dataclasses.replace(found, mean=found.mean + 50, std=found.std * 2)

    load_data = setup.load_data
    monkeypatch.setattr(setup, "load_data", opened)


def test_pixels_are_normalized_as_for_the_teacher(
    teacher, imae_config, brighter, tmp_path, caplog
):
    own = setup.newest_meta(teacher)[1]
    with caplog.at_level("INFO"):
        made = setup.set_up(imae_config(), tmp_path / "run")
    assert made.dataset.mean.tolist() == own["mean"]
    assert made.dataset.std.tolist() == own["std"]
    assert setup.run_meta(made)["mean"] == own["mean"]
    assert setup.make_objective(made).augmentation.mean.tolist() == own["mean"]
    shown = f"{own['mean'][0]:.1f}, std {own['std'][0]:.1f}; of these images they are "
    assert f"normalized as for {teacher}: mean {shown}{own['mean'][0] + 50:.1f}" in (
        caplog.text
    )


def test_pixels_are_normalized_as_for_a_probed_encoder(
    teacher, transfer_config, brighter, tmp_path
):
    own = setup.newest_meta(teacher)[1]
    made = setup.set_up(transfer_config("linear"), tmp_path / "run")
    assert made.dataset.mean.tolist() == own["mean"]
    scratch = setup.set_up(transfer_config("scratch"), tmp_path / "scratch")
    assert scratch.dataset.mean.tolist() == pytest.approx([own["mean"][0] + 50])


def test_a_resumed_run_keeps_its_own_statistics(mae_config, tmp_path, request):
    config = mae_config()
    train(config, tmp_path / "run", stop_at=1)
    own = setup.newest_meta(tmp_path / "run")[1]
    request.getfixturevalue("brighter")
    made = setup.set_up(config, tmp_path / "run")
    assert made.dataset.mean.tolist() == own["mean"]


def test_the_same_images_are_normalized_without_a_word(imae_config, tmp_path, caplog):
    with caplog.at_level("INFO"):
        setup.set_up(imae_config(), tmp_path / "run")
    assert "normalized" not in caplog.text


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_weights_of_another_number_of_heads_are_refused(
    part, teacher, mae_config, tmp_path
):
    config = mae_config()
    config.init = str(teacher)
    heads = restore.starting_params(setup.set_up(config, tmp_path / "run"))
    assert heads  # these fit
    config.model[part].heads = 8
    with pytest.raises(UserError, match=rf"init=.*: its model.{part}.heads is .*, here"):
        restore.starting_params(setup.set_up(config, tmp_path / "run"))


def test_a_probe_of_an_encoder_with_other_heads_is_refused(transfer_config, tmp_path):
    config = transfer_config("linear")
    config.model.encoder.heads = 8
    with pytest.raises(UserError, match="its model.encoder.heads is .*, here it is 8"):
        train(config, tmp_path / "run")


def test_what_was_refused_before_its_first_step_blocks_no_other_config(
    mae_config, tmp_path, monkeypatch
):
    def full(*_, **__):
        raise UserError("train.batch_size=32: take train.batch_size=16")

    with monkeypatch.context() as patched:
        patched.setattr("imae_jax.training.loop.make_feed", full)
        with pytest.raises(UserError, match="take train.batch_size=16"):
            train(mae_config(), tmp_path / "run")
    config = mae_config()
    config.train.batch_size = 16
    train(config, tmp_path / "run", stop_at=1)
    with pytest.raises(UserError, match="holds a run of another config"):
        train(mae_config(), tmp_path / "run")
    np.testing.assert_equal(setup.newest_meta(tmp_path / "run")[0], 1)
