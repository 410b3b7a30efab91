"""The library from end to end on four steps: what each of .ci/run's legs runs.

Nothing but the package and the fixtures is used, so that it runs outside the clone, too.
"""

import json
import math

import numpy as np
import pytest
from sklearn.datasets import load_digits

import imae_jax
from imae_jax import evaluation
from imae_jax.interop import export_weights
from imae_jax.training.loop import train

pytestmark = pytest.mark.smoke
IMAGES = (load_digits().images[:60, ..., None] * 255 / 16).astype(np.uint8)


@pytest.fixture(scope="module")
def run(imae_config, tmp_path_factory):
    """The workdir of an i-MAE of four steps, taught by a MAE of four, and measured."""
    workdir = tmp_path_factory.mktemp("smoke") / "imae"
    config = imae_config()
    train(config, workdir)
    # Two of the evaluators on few images, and no panel: seconds in place of minutes.
    for name in {*config.evals} - {"reconstruction", "separability"}:
        del config.evals[name]
    del config.explorer
    config.evals.separability.alphas = ()
    config.data.evaluate_on.update(dict(train=40, validation=40, test=40))
    evaluation.evaluate(config, workdir)
    return workdir


def test_training_and_evaluation(run):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 4
    assert all(math.isfinite(value) for value in json.loads(lines[-1]).values())
    results = json.loads((run / "eval.json").read_text())
    assert results["separability/subordinate/r2"] < 1
    assert any((run / "figures").iterdir())


def test_what_is_exported_is_loaded(run, tmp_path):
    export_weights.export(run, "safetensors", tmp_path / "imae.safetensors")
    model, same = imae_jax.load(run), imae_jax.load(tmp_path / "imae.safetensors")
    tokens = model.encode(IMAGES)
    assert tokens.shape == (60, 17, 32)
    np.testing.assert_array_equal(same.encode(IMAGES), tokens)
    apart = same.separate(IMAGES[0], IMAGES[1], alpha=0.3)
    assert apart.subordinate.shape == apart.dominant.shape == (8, 8, 1)


def test_a_compiled_program_is_exported(run, tmp_path):
    export_weights.export(run, "stablehlo", tmp_path / "programs")
    assert any((tmp_path / "programs").iterdir())


def test_the_metric(run):
    scores = imae_jax.mixture_separability(
        imae_jax.load(run).encode, *np.split(IMAGES / np.float32(255), [40]), alpha=0.3
    )
    assert scores["subordinate/r2"] < 1 and 0 <= scores["assignment_accuracy"] <= 1
