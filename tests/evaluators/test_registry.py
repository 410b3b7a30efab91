"""A new evaluator is one file, and one section of a config."""

import ast
import inspect
import sys
import textwrap
from types import SimpleNamespace

import numpy as np
import pytest
from ml_collections import ConfigDict

from imae_jax import evaluation, evaluators
from imae_jax.commands import actions
from imae_jax.errors import UserError
from imae_jax.evaluators.registry import all_evaluators
from imae_jax.report.page import write_report
from imae_jax.storage import atomic_files
from imae_jax.training.loop import train

FILE = '''
"""Mean pixel of mixtures and of images."""

import numpy as np

from imae_jax.config.rules import above
from imae_jax.errors import UserError
from imae_jax.evaluators.evaluator import Evaluator
from imae_jax.evaluators.metric_names import at
from imae_jax.evaluators.tables import Table, labelled_rows


def evaluate(networks, held_out, *, split, alpha, alphas, batch_size, seed, scale):
    (batch,) = held_out.batches(split, batch_size=batch_size, seed=seed)
    yield "mean", scale * held_out.pixels(batch.mixture(alpha)).mean()
    for weight in alphas:
        mean = held_out.pixels(batch.mixture(weight)).mean()
        yield f"{at(alpha=weight)}mean", scale * mean
    yield "teacher/mean", scale * held_out.dataset.splits["test"].images.mean()
    if "teacher" in networks:
        raise UserError("brightness has no use for a teacher")
    yield "count", len(batch.valid)


def check(section, key, model):
    if section.scale > model.num_patches:
        raise UserError(f"{key}.scale is too large for {model.num_patches} patches")


def tables(results):
    for run, numbers in results.items():
        rows = labelled_rows(numbers, {run: ["brightness/mean"]})
        yield Table("Brightness", "Scaled.", ["mean"], rows, run, example="brightness/mean")


EVALUATOR = Evaluator(
    evaluate,
    {"scale": above(0)},
    check,
    tables,
    needs_mixtures=True,
    without_alpha=("teacher/*",),
    without_mask_ratio=("teacher/*",),
)
'''


@pytest.fixture
def brightness(tmp_path, monkeypatch):
    """The evaluator's file, found beside the others; and its section."""
    folder = tmp_path / "evaluators"
    folder.mkdir()
    (folder / "brightness.py").write_text(FILE)
    monkeypatch.setattr(evaluators, "__path__", [*evaluators.__path__, str(folder)])
    all_evaluators.cache_clear()
    options = dict(split="test", batch_size=64, seed=0, alpha=0.3, alphas=(0.125, 0.3))
    yield options | {"scale": 2.0}
    all_evaluators.cache_clear()
    del sys.modules["imae_jax.evaluators.brightness"], evaluators.brightness


@pytest.fixture
def config(imae_config, brightness):
    """An i-MAE's, measured in this way alone."""
    config = imae_config()
    config.evals = {"brightness": brightness}
    config.data.evaluate_on.test = 64
    del config.explorer
    return config


@pytest.mark.slow
def test_it_is_measured_stored_and_shown(config, tmp_path):
    workdir = tmp_path / "mine"
    train(config, workdir, stop_at=1)
    numbers = evaluation.evaluate(config, workdir)
    assert numbers == atomic_files.read_json(workdir / "eval.json")
    assert numbers.keys() == {
        f"brightness/{metric}"
        for metric in (
            "mean",
            "alpha_0.12/mean",
            "alpha_0.30/mean",
            "teacher/mean",
            "count",
        )
    }
    # Both images of a pair have either role: all weights give one mean.
    assert np.ptp([numbers[key] for key in numbers if key.endswith("mean")]) < 0.1
    common = {"split": "test", "checkpoint": 1, "count": 64}
    settings = atomic_files.read_json(workdir / "eval_settings.json")
    mask_ratio = config.mask.ratio
    for metric, alpha, ratio in (
        ("mean", 0.3, mask_ratio),
        ("alpha_0.12/mean", 0.125, mask_ratio),
        ("teacher/mean", None, None),
    ):
        conditions = {"alpha": alpha, "mask_ratio": ratio}
        assert settings[f"brightness/{metric}"] == common | conditions
    page = write_report(workdir).read_text()
    assert "<h3>Brightness</h3>" in page
    assert f"{numbers['brightness/mean']:.3f}" in page
    assert f"64 mixtures of the test split, alpha 0.3, mask ratio {mask_ratio:g}." in page


@pytest.mark.parametrize(
    "option,value,message",
    [
        ("scale", -1.0, "evals.brightness.scale=-1.0: .* above 0 and finite"),
        ("scale", 17.0, "evals.brightness.scale is too large for 16 patches"),
        ("alphas", (0.7,), "evals.brightness.alphas=0.7"),
        ("colour", 1, "evals.brightness='colour': .* seed, scale"),
    ],
)
def test_its_options_are_checked(option, value, message, config, tmp_path):
    config.evals.brightness[option] = value
    with pytest.raises(UserError, match=message):
        train(config, tmp_path / "mine")


def test_its_needs_are_checked(brightness, mae_config, tmp_path):
    config = mae_config()
    config.evals.brightness = brightness
    with pytest.raises(UserError, match="evals.brightness is about mixtures"):
        train(config, tmp_path / "mine")


def broken(name, measure):
    """`evaluation.measure` with a defect in one evaluator."""

    def run(run, evaluator):
        if evaluator == name:
            raise ValueError("no such axis")
        return measure(run, evaluator)

    return run


def test_a_process_of_several_leaves_out_what_all_leave_out(monkeypatch):
    """They would wait for one that goes on after an error of its own."""
    monkeypatch.setattr(evaluation.jax, "process_count", lambda: 2)
    failed = {}
    with evaluation._collecting(failed, "a"):
        raise UserError("too few rows")
    with pytest.raises(ZeroDivisionError), evaluation._collecting(failed, "b"):
        raise ZeroDivisionError
    assert failed.keys() == {"a"}


def test_what_was_measured_is_kept_where_a_picture_cannot_be_drawn(tmp_path, monkeypatch):
    def draw(run):
        raise ZeroDivisionError

    config = ConfigDict({"log": {"to": ()}})
    run = SimpleNamespace(config=config, workdir=tmp_path, step=1)
    measured = {"a/x": 1.0}, {"a/x": {}}, {}, {}
    monkeypatch.setattr(evaluation, "open_run", lambda config, workdir: run)
    monkeypatch.setattr(evaluation, "_measure_all", lambda run: measured)
    monkeypatch.setattr(evaluation, "draw", draw)
    with pytest.raises(ZeroDivisionError):
        evaluation.evaluate(config, tmp_path)
    assert atomic_files.read_json(tmp_path / "eval.json") == {"a/x": 1.0}
    settings = atomic_files.read_json(tmp_path / "eval_settings.json")
    assert settings[atomic_files.LEFT_OUT].keys() == {"figures"}


@pytest.mark.slow
def test_one_that_cannot_run_is_left_out(config, imae_config, tmp_path, monkeypatch):
    """The others are measured; with none of them, an older evaluation stays."""
    workdir = tmp_path / "mine"
    train(config, workdir, stop_at=1)
    before = evaluation.evaluate(config, workdir)
    assert "left_out" not in atomic_files.read_json(workdir / "eval_settings.json")
    config.evals.reconstruction = imae_config().evals.reconstruction
    # Measured before it, and loads a teacher.
    config.evals.attributes = imae_config().evals.semantics
    assert list(config.evals)[:2] == ["attributes", "brightness"]
    with pytest.raises(evaluation.Incomplete, match="eval.json lacks") as error:
        evaluation.evaluate(config, workdir)
    reason = "brightness has no use for a teacher"
    assert f"brightness ({reason}" in str(error.value) and "\n" not in str(error.value)
    results = atomic_files.read_json(workdir / "eval.json")
    assert {key.split("/")[0] for key in results} == {"attributes", "reconstruction"}
    settings = atomic_files.read_json(workdir / "eval_settings.json")
    left_out = settings.pop("left_out")
    assert list(left_out) == ["brightness"] and reason in left_out["brightness"]
    assert settings.keys() == results.keys()
    page = write_report(workdir).read_text()
    assert f"mine: brightness is left out: {reason}" in page
    # Through the command line: the tables, then one line and status 1.
    said = []
    monkeypatch.setattr(actions.logger, "info", said.append)
    with pytest.raises(evaluation.Incomplete, match=reason):
        actions.evaluate(SimpleNamespace(config=config, workdir=workdir))
    assert any("Reconstruction" in text for text in said)
    # A defect, too, costs only its own numbers.
    with monkeypatch.context() as patch, pytest.raises(ValueError, match="no such axis"):
        patch.setattr(evaluation, "measure", broken("attributes", evaluation.measure))
        evaluation.evaluate(config, workdir)
    kept = atomic_files.read_json(workdir / "eval.json")
    assert {key.split("/")[0] for key in kept} == {"reconstruction"}
    settings = atomic_files.read_json(workdir / "eval_settings.json")
    assert settings["left_out"]["attributes"] == "ValueError: no such axis"
    for name in ("attributes", "reconstruction"):
        del config.evals[name]
    results = kept
    assert before and results
    config.evals.brightness.scale = 3.0
    monkeypatch.setattr(evaluation, "measure", refuse)
    with pytest.raises(UserError, match="nothing could be measured: brightness"):
        evaluation.evaluate(config, workdir)
    assert atomic_files.read_json(workdir / "eval.json") == results


def refuse(run, name):
    raise UserError(f"{name} refuses")


@pytest.mark.parametrize("name", all_evaluators())
def test_no_option_of_an_evaluator_is_dead(name):
    source = textwrap.dedent(inspect.getsource(all_evaluators()[name].evaluate))
    (function,) = ast.parse(source).body
    loaded = {
        node.id
        for node in ast.walk(function)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }
    options = {argument.arg for argument in function.args.kwonlyargs}
    assert options and options <= loaded
