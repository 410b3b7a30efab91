import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imae_jax.models import masking
from imae_jax.models.patches import patchify
from imae_jax.objectives import mask_kinds
from imae_jax.objectives.mask_kinds import Masking
from imae_jax.objectives.mixing import group_sources, mix
from imae_jax.training.setup import make_objective, set_up

KEY = jax.random.key(0)


def masks(kind, ratio=0.75, grid=(4, 4), count=400, weight=0.0, images=None):
    return Masking(ratio, kind, weight, grid).draw(KEY, count, images)


def masked(*args, **options):
    """Returns [B, rows, columns] bool."""
    grid = options.get("grid", (4, 4))
    return np.asarray(masks(*args, **options).mask).reshape(-1, *grid)


def neighbours_alike(masked):
    """The fraction of neighbouring patches that are both masked or both visible."""
    down = masked[:, 1:] == masked[:, :-1]
    right = masked[:, :, 1:] == masked[:, :, :-1]
    return (down.mean() + right.mean()) / 2


@pytest.mark.parametrize("kind", mask_kinds.MASK_KINDS)
@pytest.mark.parametrize(
    ("ratio", "grid", "kept"), [(0.9, (7, 5), 3), (0.5, (1, 6), 3), (0.0, (2, 2), 4)]
)
def test_every_kind_leaves_the_same_number_visible(kind, ratio, grid, kept):
    images = jax.random.normal(KEY, (3, 2 * grid[0], 2 * grid[1], 1))
    mask = masks(kind, ratio, grid, 3, 1.0, images)
    assert mask.ids_keep.shape == (3, kept)
    np.testing.assert_array_equal(np.sum(~mask.mask, axis=1), kept)
    for ids, restore, hidden in zip(*map(np.asarray, jax.tree.leaves(mask)), strict=True):
        np.testing.assert_array_equal(np.sort(restore), np.arange(restore.size))
        np.testing.assert_array_equal(np.argsort(restore)[:kept], ids)
        assert not hidden[ids].any()


def test_scores_of_blocks_by_hand():
    corners, sides = jnp.array([[[1, 0], [0, 2]]]), jnp.array([[[3, 3], [2, 2]]])
    scores = mask_kinds.scores_of_blocks(corners, sides, (4, 4))
    third = 2 / 3  # the distance from the first block's centre, where its half side is 1
    expected = [
        [2, 2, 1.5, 1.5],
        [third, third, third, 1.5],
        [third, 0, third, 2],
        [third, third, third, 2],
    ]
    np.testing.assert_allclose(scores.reshape(4, 4), -np.array(expected), rtol=1e-6)


def test_blocks_are_rectangles_of_beits_sizes_within_the_grid(monkeypatch):
    found = {}

    def keep(corners, sides, grid):
        found.update(corners=np.asarray(corners), sides=np.asarray(sides))
        return jnp.zeros((500, 14 * 14))

    monkeypatch.setattr(mask_kinds, "scores_of_blocks", keep)
    mask_kinds.block_scores(KEY, 500, (14, 14), 0.4)
    corners, sides = found["corners"], found["sides"]
    assert corners.min() == 0 and (corners + sides).max() == 14
    assert sides.min() >= 1
    area, aspect = sides.prod(axis=-1), sides[..., 0] / sides[..., 1]
    most = 196 - masking.num_visible(196, 0.4)
    # Rounding of the sides aside.
    assert 9 <= area.min() < 20 and most < area.max() < 1.2 * most
    assert 0.2 < aspect.min() < 0.35 and 2.9 < aspect.max() < 5
    assert abs(np.log(aspect).mean()) < 0.02


def test_blocks_hang_together_and_reach_every_patch():
    blocks = masked("block", 0.5, grid=(8, 8))
    assert neighbours_alike(blocks) > 0.8
    assert neighbours_alike(masked("random", 0.5, grid=(8, 8))) < 0.53
    often = blocks.mean(axis=0)
    assert often.min() > 0.05 and often.max() < 0.95
    # Neither rows nor columns nor a side is preferred.
    np.testing.assert_allclose(often, often[::-1, ::-1], atol=0.12)
    np.testing.assert_allclose(often, often.T, atol=0.12)


@pytest.mark.parametrize(("ratio", "whole"), [(0.75, 1), (0.5, 2), (0.25, 3)])
def test_a_grid_shows_whole_cosets(ratio, whole):
    visible = ~masked("grid", ratio, grid=(6, 8))
    cells = visible.reshape(-1, 3, 2, 4, 2)
    same = cells == cells[:, :1, :, :1]
    assert same.all()  # of every 2x2 patches, the same ones
    assert (cells[:, 0, :, 0].sum(axis=(1, 2)) == whole).all()
    np.testing.assert_allclose(visible.mean(axis=0), 1 - ratio, atol=0.1)


def test_a_grid_of_another_ratio_takes_part_of_a_coset_at_random():
    visible = ~masked("grid", 0.9, grid=(6, 6), count=2000)
    assert (visible.sum(axis=(1, 2)) == 3).all()
    cosets = visible.reshape(-1, 3, 2, 3, 2).sum(axis=(1, 3)).reshape(-1, 4)
    assert (np.sort(cosets, axis=1) == [0, 0, 0, 3]).all()
    np.testing.assert_allclose(visible.mean(axis=0), 3 / 36, atol=0.03)


def graded():
    """Images [400, 8, 8, 1] whose patch l varies by l, in a shuffled order."""
    scale = jax.random.permutation(jax.random.key(1), jnp.arange(16.0))
    patches = scale[:, None] * jnp.array([1.0, -1.0, 1.0, -1.0])
    rows = patches.reshape(4, 4, 2, 2).swapaxes(1, 2).reshape(8, 8, 1)
    return jnp.broadcast_to(rows, (400, 8, 8, 1)), np.asarray(scale)


@pytest.mark.parametrize(
    ("weight", "kept"), [(1e4, np.arange(4)), (-1e4, 12 + np.arange(4))]
)
def test_a_large_weight_keeps_the_flattest_or_the_most_varied(weight, kept):
    images, scale = graded()
    mask = masks("content", weight=weight, images=images)
    np.testing.assert_array_equal(np.sort(scale[np.asarray(mask.ids_keep)]), [kept] * 400)


def test_a_weight_changes_how_often_a_patch_is_masked():
    images, scale = graded()
    order = np.argsort(scale)
    for weight, sign in ((1.0, 1), (-1.0, -1)):
        often = masked("content", weight=weight, images=images).mean(axis=0).ravel()[order]
        assert np.corrcoef(often, np.arange(16))[0, 1] * sign > 0.9
        assert 0.2 < often.min() and often.max() - often.min() > 0.3
    alike = masked("content", weight=1e4, images=jnp.zeros((2000, 8, 8, 1)))
    np.testing.assert_allclose(alike.mean(axis=0), 0.75, atol=0.04)


@pytest.mark.parametrize("kind", mask_kinds.MASK_KINDS)
def test_the_first_masked_patches_are_a_uniform_sample_of_the_masked(kind):
    images, _ = graded()
    images = jnp.tile(images, (10, 1, 1, 1))
    mask = masks(kind, 0.5, count=4000, weight=1.0, images=images)
    first = np.asarray(masking.first_masked(mask, 2)).sum(axis=0)
    np.testing.assert_allclose(first / np.sum(mask.mask, axis=0), 0.25, atol=0.08)


@pytest.mark.parametrize("kind", ["mae", "imae"])
def test_content_is_that_of_what_the_encoder_sees(kind, mae_config, imae_config, tmp_path):
    config = mae_config() if kind == "mae" else imae_config()
    config.mask.update(dict(ratio=0.5, kind="content", content_weight=1e4))
    if kind == "imae":
        config.loss.distill_weight, config.teacher.init = 0.0, ""
        config.mix.clean_fraction = 0.5
    objective = make_objective(set_up(config, tmp_path))
    images = jax.random.randint(KEY, (8, 8, 8, 1), 0, 256).astype(jnp.uint8)
    draws = objective.draw_masks(KEY, images)
    shown = objective.augmentation.normalize(images)
    if kind == "imae":
        draws, shown = draws[1], mix(group_sources(shown), draws[0])
    ranks = np.argsort(np.argsort(patchify(shown, 2).var(axis=-1), axis=-1), axis=-1)
    np.testing.assert_array_equal(draws.mask, ranks >= 8)
