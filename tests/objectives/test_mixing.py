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


SOURCES = st.integers(2, 4)


@given(count=SOURCES, groups=st.integers(1, 4))
def test_every_image_has_every_role_once_in_its_group(count, groups):
    sources = np.asarray(mixing.group_sources(np.arange(count * groups), count))
    first = np.arange(count * groups) // count * count
    for s in range(count):
        np.testing.assert_array_equal(np.sort(sources[:, s]), np.arange(count * groups))
        np.testing.assert_array_equal(sources[:, s] // count * count, first)
    np.testing.assert_array_equal(sources[:, 0], np.arange(count * groups))


def test_three_images_rotate_through_the_roles():
    expected = [[0, 1, 2], [1, 2, 0], [2, 0, 1], [3, 4, 5], [4, 5, 3], [5, 3, 4]]
    for kind in (np.asarray, jnp.asarray):
        np.testing.assert_array_equal(mixing.group_sources(kind(range(6)), 3), expected)


@given(count=st.integers(3, 4), per_batch=st.booleans(), seed=st.integers(0, 9))
def test_drawn_weights_are_a_sorted_point_of_the_simplex(count, per_batch, seed):
    weights = mixing.sample_alpha(jax.random.key(seed), 12, None, per_batch, count)
    assert weights.shape == (12, count) and weights.min() > 0
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-5)
    assert (jnp.diff(weights, axis=1) >= 0).all()
    assert len(np.unique(weights, axis=0)) == (1 if per_batch else 12)


def test_weights_of_three_are_uniform_on_the_simplex():
    """The order statistics of uniform spacings have the means of Renyi's formula."""
    weights = mixing.sample_alpha(KEY, 20_000, None, False, 3)
    expected = np.array([1 / 3, 1 / 3 + 1 / 2, 1 / 3 + 1 / 2 + 1]) / 3
    np.testing.assert_allclose(weights.mean(axis=0), expected, atol=0.005)
    # Any one of them alone has P(w > x) = (1 - x)^2, so the least P(w > x) = (1 - 3 x)^2.
    assert abs(float((weights[:, 0] > 0.1).mean()) - 0.49) < 0.01


def test_a_number_stands_for_evenly_spaced_weights():
    np.testing.assert_array_equal(mixing.weights_at(0.3, 2), [0.3, 0.7])
    np.testing.assert_allclose(mixing.weights_at(0.3, 3), [0.2, 1 / 3, 0.7 * 2 / 3])
    np.testing.assert_allclose(mixing.weights_at(0.2, 4), [0.1, 0.2, 0.3, 0.4])
    np.testing.assert_allclose(mixing.weights_at(0.5, 4), 0.25)
    assert mixing.fixed_alpha(0.3, 5, 2).shape == (5,)
    fixed = mixing.sample_alpha(KEY, 5, 0.2, False, 4)
    np.testing.assert_allclose(fixed, [[0.1, 0.2, 0.3, 0.4]] * 5, rtol=1e-6)


def test_a_mixture_of_three_by_hand():
    sources = images(3)[None]
    weights = jnp.array([[0.1, 0.3, 0.6]])
    expected = 0.1 * sources[0, 0] + 0.3 * sources[0, 1] + 0.6 * sources[0, 2]
    np.testing.assert_allclose(mixing.mix(sources, weights)[0], expected, atol=1e-6)


def test_clean_groups_of_three_are_their_dominant_image_alone_and_share_masks():
    draws = dict(masking=masking(0.75, 4), alpha=None, sources=3, shared_mask=True)
    weights, mask = mixing.draw_mixtures(KEY, 12, **draws, clean_fraction=0.5)
    np.testing.assert_array_equal(weights[:6], [[0, 0, 1]] * 6)
    assert (weights[6:] > 0).all()
    by_group = np.asarray(mask.mask).reshape(4, 3, 16)
    np.testing.assert_array_equal(by_group, by_group[:, :1].repeat(3, axis=1))
    assert len(np.unique(by_group[:, 0], axis=0)) > 1
    made = mixing.make_mixtures(images(12), weights, mask)
    np.testing.assert_allclose(made.mixture[:6], made.sources[:6, 2], atol=1e-6)
    roles = mixing.role_weights(weights)
    np.testing.assert_array_equal(roles, [[0, 0, 1]] * 6 + [[2, 2, 1]] * 6)
