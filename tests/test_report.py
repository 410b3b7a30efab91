import pytest

from imae_jax import checkpoint, runs, train
from imae_jax.errors import UserError
from imae_jax.report import html


def test_report_of_a_run_that_has_only_begun(mae_config, tmp_path):
    """Killed before its first checkpoint: a config, and nothing else."""
    checkpoint.write_json(tmp_path / "config.json", runs.as_json(mae_config()))
    page = html.write_report(tmp_path).read_text()
    assert "0 steps, 0.0 epochs, unknown" in page and "<table>" not in page


def test_report_takes_the_numbers_of_the_imae_run_among_several(tmp_path):
    both = {"reconstruction/dominant/mse": 0.1234, "reconstruction/subordinate/mse": 0.2}
    found = {"a": {"reconstruction/mse": 0.5}, "b": both, "c": {}}
    for name, numbers in found.items():
        (tmp_path / name).mkdir()
        checkpoint.write_json(tmp_path / name / "eval.json", numbers)
    folders = {name: tmp_path / name for name in found}
    assert html.find_results(tmp_path, folders) == both
    checkpoint.write_json(tmp_path / "eval.json", {"reconstruction/mse": 1.0})
    assert html.find_results(tmp_path, folders) == {"reconstruction/mse": 1.0}
    assert html.find_results(tmp_path / "c", {}) == {}


def test_settings_with_markup_are_escaped(mae_config, tmp_path):
    config = mae_config()
    config.init = "<script>alert(1)</script>"
    checkpoint.write_json(tmp_path / "config.json", runs.as_json(config))
    assert "<script>" not in html.write_report(tmp_path).read_text()


def test_report_of_nothing(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        html.write_report(tmp_path)
    assert not list(tmp_path.iterdir())


def test_baseline_of_other_patches_is_refused(imae_config, teacher, tmp_path):
    config = imae_config()
    train.train(config, tmp_path / "imae", stop_at=1)
    other = imae_config()
    other.model.variant = "mu/4"
    other.teacher.init = ""
    other.loss.distill_weight = 0.0
    train.train(other, tmp_path / "other", stop_at=1)
    baselines = config.evals.separability.baseline_runs
    baselines.without_distillation = str(tmp_path / "other")
    with pytest.raises(UserError, match="without_distillation=.* its patch size is 4"):
        train.evaluate(config, tmp_path / "imae")
