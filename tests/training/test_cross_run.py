"""Runs whose decoder has cross-attention, from their start to their pictures."""

import jax
import numpy as np
import pytest

import imae_jax
from imae_jax import evaluation
from imae_jax.errors import UserError
from imae_jax.models import masking
from imae_jax.storage.metrics_log import read_metrics
from imae_jax.storage.workdir import as_json, config_of
from imae_jax.training import loop


@pytest.fixture(scope="module")
def cross_config(imae_config):
    """Makes a fresh i-MAE config that trains on half of the masked patches."""

    def make():
        config = imae_config()
        config.model.decoder.attention = "cross"
        config.loss.predict_fraction = 0.5
        config.mask.ratio = 0.5
        config.data.evaluate_on.update(dict(train=150, validation=150, test=150))
        return config

    return make


@pytest.fixture(scope="module")
def run(cross_config, tmp_path_factory):
    """A run of four steps: its workdir and final state."""
    workdir = tmp_path_factory.mktemp("cross") / "run"
    return workdir, loop.train(cross_config(), workdir)


@pytest.mark.slow
def test_it_resumes_exactly(cross_config, run, tmp_path):
    loop.train(cross_config(), tmp_path, stop_at=2)
    state = loop.train(cross_config(), tmp_path)
    jax.tree.map(np.testing.assert_array_equal, state, run[1])
    expected = [line["loss/total"] for line in read_metrics(run[0])]
    assert [line["loss/total"] for line in read_metrics(tmp_path)] == expected


@pytest.mark.slow
def test_it_is_evaluated_and_pictured(cross_config, run):
    config = cross_config()
    for name in set(config.evals) - {"reconstruction", "separability", "quality"}:
        del config.evals[name]
    found = evaluation.evaluate(config, run[0])
    assert all(np.isfinite(value) for value in found.values())
    for branch in ("subordinate", "dominant"):
        assert 0.5 < found[f"reconstruction/{branch}/ratio"] < 5
        assert f"separability/{branch}/r2" in found
    figures = {path.name for path in (run[0] / "figures").iterdir()}
    assert {"reconstructions.png", "explorer.json"} <= figures


@pytest.mark.slow
def test_every_masked_patch_is_predicted_after_training(run):
    """Not only the fraction that training decodes."""
    model = imae_jax.load(run[0])
    random = np.random.default_rng(0)
    images = random.normal(size=(3, 8, 8, 1)).astype(np.float32)
    mask = masking.random_mask(jax.random.key(0), 3, 16, 0.5)
    pred = model.forward(images, mask.ids_keep, mask.ids_restore)["pred"]
    is_predicted = np.abs(pred).max(axis=-1) > 0
    expected = np.broadcast_to(np.asarray(mask.mask)[:, None], is_predicted.shape)
    np.testing.assert_array_equal(is_predicted, expected)
    pixels = random.integers(0, 256, (2, 8, 8, 1), np.uint8)
    apart = model.separate(pixels[0], pixels[1], alpha=0.3)
    for image in (apart.subordinate, apart.dominant):
        # No patch is left at the mean pixel, which a 0 would be.
        patches = image.reshape(4, 2, 4, 2).transpose(0, 2, 1, 3).reshape(16, 4)
        assert np.all(np.ptp(patches, axis=1) > 0)


def test_it_does_not_start_from_another_decoder(cross_config, tmp_path):
    config = cross_config()
    config.init = "teacher"
    with pytest.raises(UserError, match="cross_attention") as error:
        loop.train(config, tmp_path)
    assert "\n" not in str(error.value)


def test_configs_stored_before_have_self_attention(imae_config, mae_config):
    for config in (imae_config(), mae_config()):
        stored = as_json(config)
        del stored["model"]["decoder"]["attention"], stored["loss"]["predict_fraction"]
        assert as_json(config_of(stored)) == as_json(config)
