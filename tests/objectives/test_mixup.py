import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imae_jax.objectives import mixup

KEY = jax.random.key(0)
MAE = dict(mixup_alpha=0.8, cutmix_alpha=1.0, switch_probability=0.5, smoothing=0.1)


def counted(batch_size, size=16):
    """Image j is j everywhere, and so is its label: what is mixed can be read off it."""
    labels = jnp.arange(batch_size)
    return jnp.broadcast_to(
        labels[:, None, None, None], (batch_size, size, size, 1)
    ), labels


def mixed(batch_size, key=KEY, **changes):
    images, labels = counted(batch_size)
    kwargs = dict(MAE, num_classes=batch_size, **{"smoothing": 0.0, **changes})
    images, targets = mixup.mixup_cutmix(key, images * 1.0, labels, **kwargs)
    return np.asarray(images)[..., 0], np.asarray(targets)


def partners(batch_size):
    return np.arange(batch_size) ^ 1


def test_labels_are_smoothed():
    smoothed = mixup.smooth_labels(jnp.array([2, 0]), 4, 0.1)
    expected = [[0.025, 0.025, 0.925, 0.025], [0.925, 0.025, 0.025, 0.025]]
    np.testing.assert_allclose(smoothed, expected, rtol=1e-6)


@given(
    seed=st.integers(0, 50),
    mixup_alpha=st.sampled_from([0.0, 0.2, 0.8]),
    cutmix_alpha=st.sampled_from([0.0, 0.5, 1.0]),
    smoothing=st.floats(0, 0.9),
)
def test_targets_are_distributions(seed, mixup_alpha, cutmix_alpha, smoothing):
    changes = dict(mixup_alpha=mixup_alpha, cutmix_alpha=cutmix_alpha, smoothing=smoothing)
    images, targets = mixed(8, jax.random.key(seed), **changes)
    np.testing.assert_allclose(targets.sum(axis=1), 1, atol=1e-5)
    assert targets.min() >= smoothing / 8 - 1e-6
    # The expected label under the target is the mean pixel, once smoothing is undone.
    expected = (targets - smoothing / 8) @ np.arange(8) / (1 - smoothing)
    np.testing.assert_allclose(images.mean(axis=(1, 2)), expected, atol=1e-4)
    # Only the two of a pair meet.
    own, other = np.arange(8), partners(8)
    both = targets[own, own] + targets[own, other]
    np.testing.assert_allclose(both, 1 - smoothing * 6 / 8, atol=1e-5)


def test_mixup_weighs_every_pixel_alike():
    images, targets = mixed(400, cutmix_alpha=0.0)
    np.testing.assert_allclose(images.std(axis=(1, 2)), 0, atol=1e-3)
    own = targets[np.arange(400), np.arange(400)]
    assert len(np.unique(own)) > 390  # each image has its own weight
    # Beta(a, a) has mean 1/2 and variance 1 / (4 (2 a + 1)).
    assert abs(own.mean() - 0.5) < 0.05
    assert abs(own.var() - 1 / (4 * 2.6)) < 0.02


def test_cutmix_pastes_one_box_of_the_partner():
    images, targets = mixed(400, mixup_alpha=0.0)
    own, other = np.arange(400), partners(400)
    pasted = images == other[:, None, None]
    assert np.all(pasted | (images == own[:, None, None]))
    np.testing.assert_allclose(targets[own, other], pasted.mean(axis=(1, 2)), atol=1e-6)
    for one in pasted[pasted.any(axis=(1, 2))][:50]:
        rows, columns = np.argwhere(one).T
        assert one[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()
    # Boxes lie everywhere; on average they lose a part beyond the border.
    cover = pasted.mean(axis=0)
    assert cover.min() > 0.05 and 0.2 < cover.mean() < 0.4


def test_cutmix_boxes_are_timms():
    """Sides of a box that lies whole in the image: 2 * (int(size * sqrt(1 - lam)) // 2)."""
    for kept in (0.2, 0.5, 0.9, 1.0):
        boxes = mixup.cutmix_boxes(KEY, jnp.full(200, kept), 20, 30)
        rows, columns = np.any(boxes, axis=2).sum(axis=1), np.any(boxes, axis=1).sum(axis=1)
        share = np.sqrt(1 - kept)
        assert rows.max() == 2 * (int(20 * share) // 2)
        assert columns.max() == 2 * (int(30 * share) // 2)


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_switch(probability):
    images, _ = mixed(400, switch_probability=probability)
    own, other = np.arange(400)[:, None, None], partners(400)[:, None, None]
    is_cut = np.all((images == own) | (images == other), axis=(1, 2))
    assert abs(is_cut.mean() - probability) < 0.07


def test_nothing_to_mix():
    images, targets = mixed(8, mixup_alpha=0.0, cutmix_alpha=0.0)
    np.testing.assert_array_equal(images, np.asarray(counted(8)[0])[..., 0])
    np.testing.assert_array_equal(targets, np.eye(8))
