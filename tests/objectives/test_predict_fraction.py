"""Training on a fraction of the masked patches: which ones, and what the loss counts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imae_jax.models import masking
from imae_jax.models.forward import forward
from imae_jax.objectives.losses import target_patches
from imae_jax.objectives.mixing import make_mixtures
from imae_jax.training.setup import make_objective, set_up
from imae_jax.training.state import init_params

KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("num_patches", "ratio", "fraction", "expected"),
    [
        (196, 0.75, 0.25 / 0.75, 49),  # CrossMAE's: a quarter of all patches
        (16, 0.75, 0.5, 6),
        (16, 0.25, 1.0, 4),
        (16, 0.25, 0.4, 2),  # rounded
        (16, 0.25, 0.01, 1),
    ],
)
def test_the_number_is_rounded_and_at_least_one(num_patches, ratio, fraction, expected):
    assert masking.num_predicted(num_patches, ratio, fraction) == expected


def test_the_chosen_patches_are_a_uniform_sample_of_the_masked_ones():
    draws, count = 20_000, 3
    mask = masking.random_mask(KEY, draws, 8, 0.75)
    chosen = np.asarray(masking.first_masked(mask, count))
    masked = np.asarray(mask.mask)
    assert np.all(chosen.sum(axis=1) == count) and not np.any(chosen & ~masked)
    np.testing.assert_array_equal(masking.first_masked(mask, None), masked)
    # Each of 6 masked patches is chosen in 3 of 6 cases, whichever two are visible.
    rate = chosen.sum(axis=0) / masked.sum(axis=0)
    np.testing.assert_allclose(rate, count / 6, atol=5 * 0.5 / np.sqrt(0.75 * draws))
    first_two = masked[:, 0] & masked[:, 7]
    pairs = (chosen[first_two][:, 0] & chosen[first_two][:, 7]).mean()
    assert pairs == pytest.approx((3 * 2) / (6 * 5), abs=5 * 0.4 / np.sqrt(first_two.sum()))


@pytest.fixture
def prepared(mae_config, imae_config, tmp_path):
    """An objective, parameters, and normalized images with their draws."""

    def prepare(kind, fraction, attention="cross"):
        config = mae_config() if kind == "mae" else imae_config()
        config.mask.ratio = 0.5
        config.model.decoder.attention = attention
        config.loss.predict_fraction = fraction
        if kind == "imae":
            config.loss.distill_weight, config.teacher.init = 0.0, ""
        setup = set_up(config, tmp_path)
        objective = make_objective(setup)
        params = jax.jit(functools.partial(init_params, setup.model, 0))()
        images = jax.random.normal(KEY, (6, 8, 8, 1))
        return objective, params, images, objective.draw_masks(jax.random.key(1), images)

    return prepare


def total(objective, params, images, draws):
    return jax.jit(objective.loss_of)(params, None, images, draws)[0]


@pytest.mark.parametrize("kind", ["mae", "imae"])
def test_the_loss_is_the_mean_error_of_the_chosen_patches(kind, prepared):
    """Of predictions of all masked patches, as an evaluation has them."""
    objective, params, images, draws = prepared(kind, 0.4)
    assert objective.num_predicted == 3  # of 8
    if kind == "mae":
        mask, shown, sources = draws, images, images[:, None]
    else:
        mask = draws[1]
        mixtures = make_mixtures(images, draws[0], mask)
        shown, sources = mixtures.mixture, mixtures.sources
    pred = jax.jit(functools.partial(forward, objective.model))(params, shown, mask)["pred"]
    pred = np.asarray(pred if kind == "imae" else pred[:, None])
    error = np.square(pred - np.asarray(target_patches(sources, 2, False))).mean(axis=-1)
    expected = 0.0
    for each, ids in zip(error, mask.ids_restore, strict=True):
        expected += each[:, np.argsort(ids)[8 : 8 + 3]].mean(axis=-1).sum() / len(error)
    found = total(objective, params, images, draws)
    assert found == pytest.approx(expected, rel=1e-5)
    masked = np.where(np.asarray(mask.mask)[:, None], error, 0).sum() / 8 / len(error)
    assert found != pytest.approx(masked, rel=1e-3)


def test_no_gradient_comes_from_patches_that_are_not_chosen(prepared):
    """A MAE's masked patches are targets alone."""
    objective, params, images, mask = prepared("mae", 0.4)
    gradient = jax.grad(lambda x: total(objective, params, x, mask))(images)
    patches = np.asarray(target_patches(gradient, 2, False))
    has_any = np.abs(patches).max(axis=-1) > 0
    chosen = np.asarray(masking.first_masked(mask, 3))
    np.testing.assert_array_equal(has_any, chosen | ~np.asarray(mask.mask))


@pytest.mark.parametrize("kind", ["mae", "imae"])
def test_a_fraction_that_rounds_to_all_is_no_fraction(kind, prepared):
    whole, *inputs = prepared(kind, 1.0)
    nearly = prepared(kind, 0.95)[0]
    assert whole.num_predicted is None and nearly.num_predicted == 8
    np.testing.assert_allclose(total(nearly, *inputs), total(whole, *inputs), rtol=1e-6)


def test_the_loss_of_visible_patches_does_not_count(prepared):
    """Their predictions are 0, so targets there would change it."""
    objective, params, images, mask = prepared("mae", 1.0)
    out = forward(objective.model, params, images, mask)
    target = target_patches(images, 2, False)
    error = jnp.square(out["pred"] - target).mean(axis=-1)
    masked = np.asarray(error)[np.asarray(mask.mask)]
    found = total(objective, params, images, mask)
    assert found == pytest.approx(masked.mean(), rel=1e-5)
    assert not np.asarray(out["pred"])[~np.asarray(mask.mask)].any()
