"""The lines that a training run begins with, and those that follow."""

import jax
import pytest

from imae_jax.training import loop, opening
from imae_jax.training.setup import set_up


@pytest.fixture
def said(capsys):
    """A function that trains and returns what was printed, line by line."""

    def train(config, workdir):
        state = loop.train(config, workdir)
        return state, capsys.readouterr().out.splitlines()

    return train


def test_an_imae_says_what_it_is_about_to_do(imae_config, tmp_path, said):
    config = imae_config()
    config.log.every_steps = 50
    state, lines = said(config, tmp_path / "run")
    begin = lines.index("run: an i-MAE")
    rows = dict(line.split(maxsplit=1) for line in lines[begin + 1 : begin + 9])
    count = sum(x.size for x in jax.tree.leaves(state.params))
    assert rows["model"].endswith(f"patches of 2 px: {count:,} parameters")
    assert rows["model"].startswith("encoder 1 x 32, decoder 1 x 16")
    assert rows["start"] == "random weights"
    assert rows["teacher"] == f"{config.teacher.init}, step 4"
    assert rows["data"] == "digits, 1,297 images of 8 x 8 x 1"
    # 4 * 32 / 1297 epochs of 1297 / 32 steps
    assert rows["steps"] == "4 of 32 images each: 0.0987 epochs of 40.53 steps"
    assert rows["rate"].startswith(f"{config.optim.blr * 32 / 256:.3g} after ")
    assert f" x {jax.devices()[0].device_kind}, float32" in rows["device"]
    assert rows["folder"] == str(tmp_path / "run")
    steps = [line.split("  ")[0] for line in lines if line.startswith("run: step")]
    assert steps == ["run: step 1/4", "run: step 4/4"]

    _, lines = said(config, tmp_path / "run")
    assert lines[-1] == "run: has its 4 steps, nothing to do"


def test_an_unknown_room_is_not_said(mae_config, tmp_path, monkeypatch):
    monkeypatch.setattr(opening.memory, "room", lambda device: None)
    setup = set_up(mae_config(), tmp_path)
    assert opening._device(setup) == "8 x cpu, float32"


def test_a_resumed_run_says_so(mae_config, tmp_path, said, capsys):
    loop.train(mae_config(), tmp_path / "run", stop_at=2)
    capsys.readouterr()
    _, lines = said(mae_config(), tmp_path / "run")
    assert "  start    resumes at step 2" in lines
    assert not any(line.strip().startswith("teacher") for line in lines)
