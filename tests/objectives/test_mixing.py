import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from imae_jax.objectives import mixing
from imae_jax.objectives.mask_kinds import Masking

KEY = jax.random.key(0)


def masking(ratio, side):
    return Masking(ratio, "random", content_weight=0.0, grid=(side, side))


def images(batch_size=4):
    return jax.random.normal(KEY, (batch_size, 4, 4, 1))


def test_each_pair_makes_two_mixtures_in_which_its_images_change_roles():
    x = images()
    sources = mixing.group_sources(x)
    for pair in (0, 2):
        for s in range(2):
            np.testing.assert_array_equal(sources[pair, s], x[pair + s])
            np.testing.assert_array_equal(sources[pair + 1, s], x[pair + 1 - s])


@given(alpha=st.floats(0.01, 0.5), seed=st.integers(0, 9))
def test_mixture_weighs_the_subordinate_with_alpha(alpha, seed):
    sources = jax.random.normal(jax.random.key(seed), (2, 2, 4, 4, 3))
    mixture = mixing.mix(sources, jnp.full(2, alpha))
    expected = alpha * sources[:, 0] + (1 - alpha) * sources[:, 1]
    np.testing.assert_allclose(mixture, expected, atol=1e-6)


def test_drawn_alphas_are_uniform_up_to_one_half_and_one_per_sample():
    alpha = mixing.sample_alpha(KEY, 20_000, None, per_batch=False)
    assert 0 < alpha.min() and alpha.max() <= 0.5
    # min(lam, 1 - lam) with lam ~ Beta(1, 1) = U(0, 1) has the quantiles of U(0, 0.5).
    quantiles = np.quantile(alpha, [0.1, 0.5, 0.9])
    np.testing.assert_allclose(quantiles, [0.05, 0.25, 0.45], atol=0.01)


def test_alpha_per_batch_and_fixed():
    per_batch = mixing.sample_alpha(KEY, 8, None, per_batch=True)
    assert len(np.unique(per_batch)) == 1
    other = mixing.sample_alpha(jax.random.key(1), 8, None, per_batch=True)
    assert per_batch[0] != other[0]
    np.testing.assert_allclose(mixing.sample_alpha(KEY, 3, 0.2, False), 0.2)


def test_shared_mask_is_one_per_pair_and_otherwise_every_mixture_has_its_own():
    shared = mixing.group_mask(KEY, 16, masking(0.5, 8), shared_by=2)
    np.testing.assert_array_equal(shared.mask[::2], shared.mask[1::2])
    np.testing.assert_array_equal(shared.ids_keep[::2], shared.ids_keep[1::2])
    assert len(np.unique(shared.mask, axis=0)) == 8
    own = mixing.group_mask(KEY, 16, masking(0.5, 8))
    assert len(np.unique(own.mask, axis=0)) == 16


def test_make_mixtures_holds_together():
    x = images(8)
    draws = mixing.draw_mixtures(KEY, 8, masking=masking(0.75, 4), alpha=None)
    made = mixing.make_mixtures(x, *draws)
    np.testing.assert_array_equal(made.sources, mixing.group_sources(x))
    np.testing.assert_allclose(made.mixture, mixing.mix(made.sources, made.alpha))
    assert made.mask.ids_keep.shape == (8, 4)
    assert len(np.unique(made.alpha)) == 8


def test_clean_pairs_are_their_dominant_image_alone():
    draws = dict(masking=masking(0.75, 4), alpha=None)
    mixed = mixing.draw_mixtures(KEY, 16, **draws)
    for fraction, count in ((0.0, 0), (0.25, 4), (0.3, 4), (0.5, 8)):
        alpha, mask = mixing.draw_mixtures(KEY, 16, **draws, clean_fraction=fraction)
        assert np.count_nonzero(alpha == 0) == count
        np.testing.assert_array_equal(alpha[count:], mixed[0][count:])
        jax.tree.map(np.testing.assert_array_equal, mask, mixed[1])
        made = mixing.make_mixtures(images(16), alpha, mask)
        np.testing.assert_array_equal(made.mixture[:count], made.sources[:count, 1])


def test_role_weights_average_over_the_images_of_a_role():
    alpha = jnp.array([0.0, 0.0, 0.3, 0.2, 0.4, 0.5, 0.1, 0.1])
    weights = mixing.role_weights(alpha)
    errors = jax.random.normal(KEY, (8, 2))
    found = (errors * weights).mean(axis=0)
    np.testing.assert_allclose(found[0], errors[2:, 0].mean(), rtol=1e-5)
    np.testing.assert_allclose(found[1], errors[:, 1].mean(), rtol=1e-5)
