import jax
import numpy as np
import pytest

from imae_jax.models.factory import build_autoencoder
from imae_jax.models.forward import forward
from imae_jax.models.layers import Compute
from imae_jax.objectives import mixing
from imae_jax.objectives.distillation import teacher_latents
from imae_jax.objectives.mask_kinds import Masking
from imae_jax.training.state import init_params

SIZE = dict(width=32, depth=1, heads=2)
TEACHER = build_autoencoder(
    name="mae",
    variant="mu/2",
    encoder=SIZE,
    decoder=SIZE | dict(attention="self"),
    image_shape=(8, 8, 1),
    compute=Compute(),
)
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def params():
    return init_params(TEACHER, 0)


def make_mixtures(shared_mask):
    images = jax.random.normal(KEY, (6, 8, 8, 1))
    masking = Masking(0.5, "random", content_weight=0.0, grid=(4, 4))
    draws = mixing.draw_mixtures(
        KEY, 6, masking=masking, alpha=0.3, shared_mask=shared_mask
    )
    return mixing.make_mixtures(images, *draws)


@pytest.mark.slow
def test_targets_are_the_latents_of_each_image_alone_under_the_mixtures_mask(params):
    mixtures = make_mixtures(shared_mask=False)
    targets = teacher_latents(TEACHER, params, mixtures)
    assert targets.shape == (6, 2, 9, 32)
    for s in range(2):
        alone = forward(TEACHER, params, mixtures.sources[:, s], mixtures.mask)
        np.testing.assert_allclose(targets[:, s], alone["latents"], atol=1e-5)
    assert not np.allclose(targets[:, 0], targets[:, 1])


@pytest.mark.slow
def test_shared_mask_runs_the_teacher_once_per_image_with_the_same_result(params):
    mixtures = make_mixtures(shared_mask=True)
    plain = teacher_latents(TEACHER, params, mixtures, shared_mask=False)
    shared = teacher_latents(TEACHER, params, mixtures, shared_mask=True)
    np.testing.assert_allclose(shared, plain, atol=1e-5)

    def flops(shared_mask):
        run = jax.jit(
            lambda params: teacher_latents(
                TEACHER, params, mixtures, shared_mask=shared_mask
            )
        )
        return run.lower(params).compile().cost_analysis()["flops"]

    assert flops(True) < 0.6 * flops(False)


def test_mixture_input_makes_both_targets_equal(params):
    mixtures = make_mixtures(shared_mask=False)
    targets = teacher_latents(TEACHER, params, mixtures, teacher_input="mixture")
    np.testing.assert_array_equal(targets[:, 0], targets[:, 1])
    mixed = forward(TEACHER, params, mixtures.mixture, mixtures.mask)["latents"]
    np.testing.assert_allclose(targets[:, 0], mixed, atol=1e-5)


@pytest.mark.parametrize("shared_mask", [True, False])
@pytest.mark.parametrize("teacher_input", ["image", "mixture"])
def test_subordinate_only(params, shared_mask, teacher_input):
    mixtures = make_mixtures(shared_mask)
    options = dict(teacher_input=teacher_input, shared_mask=shared_mask)
    single = teacher_latents(TEACHER, params, mixtures, **options, num_sources=1)
    both = teacher_latents(TEACHER, params, mixtures, **options)
    np.testing.assert_allclose(single, both[:, :1], atol=1e-5)


@pytest.mark.parametrize("shared_mask", [True, False])
@pytest.mark.parametrize("teacher_input", ["image", "mixture"])
def test_no_gradient_reaches_the_teacher(params, shared_mask, teacher_input):
    mixtures = make_mixtures(shared_mask)

    def loss(params):
        return teacher_latents(
            TEACHER,
            params,
            mixtures,
            teacher_input=teacher_input,
            shared_mask=shared_mask,
        ).sum()

    for leaf in jax.tree.leaves(jax.grad(loss)(params)):
        np.testing.assert_array_equal(leaf, 0)
