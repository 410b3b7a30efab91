"""Contrast of an image's roles, and uniformity: values, terms of the loss, collectives."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import imae
from imae_jax.aot import compile_step, plan
from imae_jax.distributed import sharding
from imae_jax.models.forward import forward
from imae_jax.objectives import losses
from imae_jax.objectives.contrast import contrast_loss, pool, uniformity_loss
from imae_jax.objectives.distillation import teacher_latents
from imae_jax.objectives.imae import IMAEObjective
from imae_jax.objectives.mixing import make_mixtures
from imae_jax.storage.metrics_log import read_metrics
from imae_jax.storage.workdir import as_json, config_of
from imae_jax.training.loop import train
from imae_jax.training.setup import make_objective, set_up
from imae_jax.training.state import init_params


def random(seed, *shape):
    return np.array(jax.random.normal(jax.random.key(seed), shape))


def unit_means(tokens):
    """Pooled tokens, in NumPy."""
    mean = tokens[..., 1:, :].mean(axis=-2)
    return mean / np.linalg.norm(mean, axis=-1, keepdims=True)


def tokens_of(features):
    """Tokens [..., 3, D] whose pooled features are those: the class token is noise."""
    patches = np.stack([features] * 2, axis=-2)
    noise = random(9, *features.shape[:-1], 1, features.shape[-1])
    return np.concatenate([noise, patches], axis=-2)


def test_contrast_against_optax():
    latents, temperature = random(0, 6, 2, 4, 5), 0.3
    a = unit_means(latents[:, 0])
    b = unit_means(latents[:, 1])[[1, 0, 3, 2, 5, 4]]
    cross_entropy = optax.losses.softmax_cross_entropy_with_integer_labels
    directions = [x @ y.T / temperature for x, y in ((a, b), (b, a))]
    expected = np.mean([cross_entropy(logits, jnp.arange(6)) for logits in directions])
    found = np.mean([logits.argmax(axis=1) == np.arange(6) for logits in directions])
    loss, accuracy = contrast_loss(latents, temperature)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(accuracy, found, rtol=1e-6)
    assert 0 < found < 1


def test_perfect_roles_have_no_loss():
    images = np.eye(8)
    latents = tokens_of(np.stack([images, images[[1, 0, 3, 2, 5, 4, 7, 6]]], axis=1))
    loss, accuracy = contrast_loss(latents, 0.05)
    assert loss < 1e-6 and accuracy == 1


def test_telling_the_mixture_alone_is_not_enough():
    """Both roles in both mixtures of a pair look alike; only partners are confused."""
    pairs = np.repeat(np.eye(4), 2, axis=0)  # [B, E]
    latents = tokens_of(np.stack([pairs, pairs], axis=1))
    loss, _ = contrast_loss(latents, 0.05)
    np.testing.assert_allclose(loss, np.log(2), rtol=1e-5)
    # The same without each image's partner among its candidates.
    logits = pairs @ pairs.T / 0.05
    logits[np.arange(8), np.arange(8) ^ 1] = -np.inf
    without = np.log(np.exp(logits).sum(axis=1)) - np.diag(logits)
    assert without.max() < 1e-6


def test_uniformity_against_numpy():
    tokens = random(1, 6, 4, 5)
    cosines = unit_means(tokens) @ unit_means(tokens).T
    expected = np.mean([cosines[i, j] ** 2 for i in range(6) for j in range(6) if i != j])
    np.testing.assert_allclose(uniformity_loss(tokens), expected, rtol=1e-5)
    assert uniformity_loss(tokens_of(np.eye(6))) == 0
    np.testing.assert_allclose(uniformity_loss(tokens_of(np.ones((6, 4)))), 1, rtol=1e-6)


def test_pooled_features_ignore_the_class_token_and_size():
    tokens = random(2, 3, 4, 5)
    np.testing.assert_allclose(pool(tokens), unit_means(tokens), rtol=1e-5)
    np.testing.assert_allclose(pool(7 * tokens), pool(tokens), rtol=1e-5)
    tokens[:, 0] += 1
    np.testing.assert_allclose(pool(tokens), unit_means(tokens), rtol=1e-5)
    gradient = jax.grad(lambda x: pool(x).sum())(jnp.zeros((3, 4, 5)))
    assert np.isfinite(gradient).all()


class WithoutTerms(IMAEObjective):
    """The objective as it was before it had terms between images."""

    def loss_of(self, params, teacher_params, images, draws):
        alpha, mask, weights = draws
        mixtures = make_mixtures(images, alpha, mask)
        out = forward(self.model, params, mixtures.mixture, mask)
        latents = teacher_latents(self.teacher, teacher_params, mixtures)
        target = losses.target_patches(mixtures.sources, self.model.patch_size, False)
        return losses.imae_losses(out, target, mask.mask, latents, 1.0, weights)


def test_terms_that_are_off_leave_the_program_as_it_was(imae_config, tmp_path):
    setup = set_up(imae_config(), tmp_path)
    objective = make_objective(setup)
    before = WithoutTerms(**vars(objective))
    with_contrast = IMAEObjective(**vars(objective) | {"contrast_weight": 0.1})
    images = np.zeros((8, 8, 8, 1), np.uint8)
    arguments = init_params(setup.model, 0), {}, setup.teacher.params, images, 0, 0
    ours, theirs, other = (
        jax.jit(jax.value_and_grad(x.__call__, has_aux=True)).lower(*arguments).as_text()
        for x in (objective, before, with_contrast)
    )
    assert ours == theirs != other


def test_terms_are_weighted_and_logged(imae_config, tmp_path):
    found = {}
    for weights in ((0.0, 0.0), (0.5, 0.0), (0.0, 2.0)):
        config = imae_config()
        config.loss.contrast_weight, config.loss.uniformity_weight = weights
        setup = set_up(config, tmp_path)
        images = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 1), np.uint8)
        params = init_params(setup.model, 0)
        objective = jax.jit(make_objective(setup))
        total, (metrics, _) = objective(params, {}, setup.teacher.params, images, 0, 0)
        assert total == metrics["loss/total"]
        found[weights] = metrics
    plain, contrast, uniformity = found.values()
    assert contrast.keys() - plain.keys() == {"loss/contrast", "contrast/accuracy"}
    assert uniformity.keys() - plain.keys() == {"loss/uniformity"}
    for metrics, term in ((contrast, 0.5), (uniformity, 2.0)):
        name = "loss/contrast" if metrics is contrast else "loss/uniformity"
        expected = plain["loss/total"] + term * metrics[name]
        np.testing.assert_allclose(metrics["loss/total"], expected, rtol=1e-6)
        assert metrics[name] > 0


@pytest.mark.parametrize("term", ["contrast", "uniformity"])
def test_eight_devices_have_the_loss_and_gradient_of_one(term):
    def loss(latents):
        if term == "contrast":
            return contrast_loss(latents, 0.1)[0]
        return uniformity_loss(latents[:, 0])

    latents = random(3, 16, 2, 4, 5)
    value, gradient = jax.jit(jax.value_and_grad(loss))(latents)
    split = jax.device_put(latents, sharding.batch_sharding(sharding.make_mesh()))
    found, split_gradient = jax.jit(jax.value_and_grad(loss))(split)
    np.testing.assert_allclose(found, value, rtol=1e-6)
    np.testing.assert_allclose(split_gradient, gradient, rtol=1e-4, atol=1e-7)
    assert np.abs(gradient[:, 0]).max() > 1e-3


def test_a_term_takes_one_all_gather_and_one_sum():
    """Of the features of all images, and of their gradients."""

    def exchanged(**weights):
        config = imae.get_config("digits,runlocal")
        config.loss.update(weights)
        config = plan.adapted(config, "cpu")
        mesh = sharding.make_mesh()
        step = compile_step.trace(config, mesh, "cpu")
        compiled = step.traced.lower().compile()
        return plan.traffic(compiled, step, config, mesh)

    plain = exchanged()
    width = imae.get_config("digits,runlocal").model.decoder.width
    for weight, features in (("contrast_weight", 2 * width), ("uniformity_weight", 32)):
        found = exchanged(**{weight: 1.0})
        kinds, before = (
            collections.Counter(x["kind"] for x in part["collectives"])
            for part in (found, plain)
        )
        assert kinds["all-gather"] - before["all-gather"] == 1
        assert kinds.keys() == {"all-gather", "all-reduce"}
        (gathered,) = (x for x in found["collectives"] if x["kind"] == "all-gather")
        nbytes = 4 * 32 * features  # float32, B = 32
        assert gathered["nbytes"] == nbytes
        assert found["least_bytes_sent"] - plain["least_bytes_sent"] == 2 * nbytes
        # A sum sends twice its bytes; and a few numbers for the log.
        more = found["bytes_sent"] - plain["bytes_sent"]
        assert more == pytest.approx(3 * nbytes, abs=64)
        assert found["stray_collectives"] == 0


def test_configs_stored_before_have_the_terms_off(imae_config, mae_config):
    config = imae_config()
    stored = as_json(config)
    for key in ("contrast_weight", "contrast_temperature", "uniformity_weight"):
        del stored["loss"][key]
    assert as_json(config_of(stored)) == as_json(config)
    stored = as_json(mae_config())
    assert as_json(config_of(stored)) == stored


@pytest.mark.slow
def test_both_terms_fall_in_a_run(imae_config, tmp_path):
    config = imae_config()
    config.loss.distill_weight, config.teacher.init = 0.0, ""
    config.loss.contrast_weight = config.loss.uniformity_weight = 10.0
    config.mix.alpha, config.mask.ratio = 0.4, 0.5
    config.train.total_steps, config.optim.blr = 40, 0.03
    train(config, tmp_path)
    lines = read_metrics(tmp_path)
    for name, fraction in (("loss/contrast", 0.9), ("loss/uniformity", 0.7)):
        after = np.mean([line[name] for line in lines[-5:]])
        assert after < fraction * lines[0][name], name
    assert all(0 <= line["contrast/accuracy"] <= 1 for line in lines)


@pytest.mark.parametrize("name", ["contrast_weight", "uniformity_weight"])
def test_terms_between_images_allow_no_microbatches(name):
    config = imae.get_config("digits")
    assert IMAEObjective.may_accumulate(config)
    config.loss[name] = 0.1
    assert not IMAEObjective.may_accumulate(config)
