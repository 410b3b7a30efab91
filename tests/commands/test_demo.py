"""The demo's config, and what is asked of it."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from configs import demo as demo_config
from imae_jax.commands import demo
from imae_jax.errors import UserError


@pytest.mark.parametrize("name", ["reconstruction", "separability"])
def test_sections_that_it_reads_are_asked_for(name, tmp_path):
    config = demo_config.get_config("digits,runlocal")
    del config.imae.evals[name]
    with pytest.raises(UserError, match=f"no demo: .* 'imae.evals.{name}'"):
        demo.demo(config, tmp_path / "demo")


def test_by_default_it_is_a_short_one_of_drawn_scenes():
    config = demo_config.get_config()
    assert config == demo_config.get_config("shapes")
    runs = ["imae", "imae_without_distillation", "teacher"]
    assert list(config) == [*runs[:2], "photographs", runs[2]]
    for run in runs:
        assert config[run].data.name == "shapes" and config[run].train.total_epochs == 5
    assert "attributes" in config.imae.evals and "semantics" not in config.imae.evals
    assert "semantics" in demo_config.get_config("digits").imae.evals


def test_no_scene_is_drawn_for_a_config_with_a_bad_key(tmp_path, monkeypatch):
    monkeypatch.setattr(demo.setup, "check", lambda *_: pytest.fail("too late"))
    for name in ("teacher", "imae"):
        config = demo_config.get_config()
        config[name].mask.ratio = 1.5
        with pytest.raises(UserError, match=f"{name}: invalid mask.ratio=1.5"):
            demo.demo(config, tmp_path / "demo")


def test_photographs_are_the_first_picture(tmp_path, monkeypatch, caplog):
    def check(*_):
        raise UserError("checked")

    monkeypatch.setattr(demo.setup, "check", check)
    with pytest.raises(UserError, match="checked"), caplog.at_level("INFO"):
        demo.demo(demo_config.get_config(), tmp_path / "demo")
    picture = tmp_path / "demo" / "photographs.png"
    assert f"separated by cifar10_small_imae.safetensors: {picture}" in caplog.text
    assert plt.imread(picture).shape[1] > 500
    assert demo_config.get_config("digits,runlocal").photographs.weights == ""


def test_each_photograph_is_mixed_with_the_next():
    config = demo_config.get_config().photographs
    config.alpha = 0.4
    china, flower = (np.asarray(plt.imread(file), float) for file in config.files)
    axes = demo.draw_photographs(config).axes
    titles = [axis.get_title().replace("\n", " ") for axis in axes[:5]]
    rebuilt = ["subordinate rebuilt", "subordinate target", "dominant rebuilt"]
    assert titles == ["mixture", *rebuilt, "dominant target"]
    first, second = (
        [axis.get_images()[0].get_array().astype(float) for axis in row]
        for row in (axes[:5], axes[5:])
    )
    for mixture, subordinate, target_a, dominant, target_b in (first, second):
        assert np.abs(mixture - 0.4 * target_a - 0.6 * target_b).max() <= 1.5
        for rebuilt, target, other in (
            (subordinate, target_a, target_b),
            (dominant, target_b, target_a),
        ):
            assert np.square(rebuilt - target).mean() < np.square(rebuilt - other).mean()
    assert (first[2] == second[4]).all() and (first[4] == second[2]).all()
    for picture, photograph in ((first[2], china), (first[4], flower)):
        middle = photograph[:, 106:-106].mean(axis=(0, 1))
        np.testing.assert_allclose(picture.mean(axis=(0, 1)), middle, atol=8)


@pytest.mark.parametrize(
    "key,value,message",
    [
        ("alpha", 0.9, r"alpha=0.9: must be in \(0, 0.5\]"),
        ("mask_ratio", 1.0, r"mask_ratio=1.0: must be in \[0, 1\)"),
        ("files", ("a.jpg",), "files=.*must be two or more image files"),
        ("files", ("configs/demo.py",) * 2, "configs/demo.py is no image"),
        ("files", ("nowhere.jpg",) * 2, "nowhere.jpg cannot be read"),
        ("weights", "nowhere", "nowhere does not exist"),
        ("weights", "weights/cifar10_small_teacher.safetensors", "this is a MAE"),
    ],
)
def test_photographs_or_weights_that_cannot_be_used(key, value, message, tmp_path):
    config = demo_config.get_config()
    config.photographs[key] = value
    with pytest.raises(UserError, match=f"photographs: .*{message}"):
        demo.demo(config, tmp_path / "demo")
    assert not list((tmp_path / "demo").iterdir())
