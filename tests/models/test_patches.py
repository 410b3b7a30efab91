import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imae_jax.models import masking, patches

small = st.integers(1, 4)


@given(rows=small, columns=small, patch_size=small, channels=small)
def test_unpatchify_inverts_patchify(rows, columns, patch_size, channels):
    shape = (2, rows * patch_size, columns * patch_size, channels)
    images = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    cut = patches.patchify(images, patch_size)
    assert cut.shape == (2, rows * columns, patch_size**2 * channels)
    back = patches.unpatchify(cut, patch_size, shape[1:3])
    np.testing.assert_array_equal(back, images)


def test_patches_are_in_raster_order_and_pixels_in_row_column_channel_order():
    images = np.arange(4 * 6 * 3).reshape(1, 4, 6, 3)
    cut = patches.patchify(images, 2)
    # The patch in row 1, column 2 of the 2x3 grid is number 5.
    np.testing.assert_array_equal(cut[0, 5], images[0, 2:4, 4:6].reshape(-1))


def test_image_that_is_no_multiple_of_the_patch_is_refused():
    with pytest.raises(ValueError, match="8x9 is not divisible by patch size 2"):
        patches.patchify(np.zeros((1, 8, 9, 1)), 2)


# Few shapes: each is compiled.
@given(
    num_patches=st.sampled_from([1, 2, 7, 36]),
    ratio=st.sampled_from([0.0, 0.3, 0.5, 0.99]),
    seed=st.integers(0, 99),
)
def test_mask_partitions_the_patches(num_patches, ratio, seed):
    visible = int(num_patches * (1 - ratio))
    if visible < 1:
        with pytest.raises(ValueError, match="leaves 0 of"):
            masking.num_visible(num_patches, ratio)
        return
    mask = masking.random_mask(jax.random.key(seed), 3, num_patches, ratio)
    assert mask.ids_keep.shape == (3, visible)
    np.testing.assert_array_equal((~mask.mask).sum(axis=1), visible)
    for keep, removed in zip(mask.ids_keep, mask.mask, strict=True):
        assert sorted(keep.tolist()) == np.flatnonzero(~removed).tolist()


@given(
    num_patches=st.sampled_from([2, 7, 20]),
    seed=st.integers(0, 99),
    ratio=st.sampled_from([0.0, 0.4, 0.9]),
)
def test_restore_puts_every_visible_patch_back_in_its_place(num_patches, seed, ratio):
    if int(num_patches * (1 - ratio)) < 1:
        return
    mask = masking.random_mask(jax.random.key(seed), 2, num_patches, ratio)
    full = jnp.arange(2.0 * num_patches * 3).reshape(2, num_patches, 3)
    filler = jnp.full(3, -1.0)
    restored = patches.restore_order(
        patches.take_patches(full, mask.ids_keep), filler, mask.ids_restore
    )
    expected = np.where(mask.mask[:, :, None], -1, full)
    np.testing.assert_array_equal(restored, expected)


def test_masks_keep_the_smallest_noise_and_differ_between_samples():
    noise = jnp.array([[0.3, 0.1, 0.9, 0.2]])
    mask = masking.mask_from_noise(noise, 0.5)
    np.testing.assert_array_equal(mask.ids_keep, [[1, 3]])
    np.testing.assert_array_equal(mask.mask, [[True, False, True, False]])
    rows = masking.random_mask(jax.random.key(0), 16, 64, 0.5).mask
    assert len(np.unique(rows, axis=0)) == 16


@pytest.mark.parametrize("ratio", [0.25, 0.4, 0.5, 0.75, 0.9])
def test_covering_masks_remove_every_patch(ratio):
    mask = masking.random_mask(jax.random.key(0), 4, 16, ratio)
    masks = masking.covering_masks(mask)
    np.testing.assert_array_equal(masks[0].ids_keep, mask.ids_keep)
    np.testing.assert_array_equal(masks[0].mask, mask.mask)
    removed = np.stack([other.mask for other in masks])
    assert removed.any(axis=0).all()
    assert (removed.sum(axis=-1) == mask.mask.sum(axis=-1)).all()
    for other in masks:
        kept = np.take_along_axis(
            np.asarray(other.mask), np.asarray(other.ids_keep), axis=1
        )
        assert not kept.any()


def mae_position_embedding(width, rows, columns):
    """MAE's formula, written element by element."""

    def one_axis(width, position):
        angles = [position / 10000 ** (2 * i / width) for i in range(width // 2)]
        return [np.sin(a) for a in angles] + [np.cos(a) for a in angles]

    return np.array(
        [
            one_axis(width // 2, column) + one_axis(width // 2, row)
            for row in range(rows)
            for column in range(columns)
        ]
    )


@pytest.mark.parametrize("width,grid", [(8, (2, 2)), (192, (3, 5)), (768, (14, 14))])
def test_position_embedding_is_maes(width, grid):
    embedding = patches.sincos_position_embedding(width, grid)
    assert embedding.shape == (grid[0] * grid[1], width)
    np.testing.assert_allclose(embedding, mae_position_embedding(width, *grid), atol=1e-6)


def test_position_embedding_needs_a_width_divisible_by_four():
    with pytest.raises(ValueError, match="got 30"):
        patches.sincos_position_embedding(30, (2, 2))
