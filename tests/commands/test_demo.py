"""The demo's config, and what is asked of it."""

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
    for run in config.values():
        assert run.data.name == "shapes" and run.train.total_epochs == 5
    assert list(config) == ["imae", "imae_without_distillation", "teacher"]
    assert "attributes" in config.imae.evals and "semantics" not in config.imae.evals
    assert "semantics" in demo_config.get_config("digits").imae.evals


def test_no_scene_is_drawn_for_a_config_with_a_bad_key(tmp_path, monkeypatch):
    monkeypatch.setattr(demo.setup, "check", lambda *_: pytest.fail("too late"))
    for name in ("teacher", "imae"):
        config = demo_config.get_config()
        config[name].mask.ratio = 1.5
        with pytest.raises(UserError, match=f"{name}: invalid mask.ratio=1.5"):
            demo.demo(config, tmp_path / "demo")
