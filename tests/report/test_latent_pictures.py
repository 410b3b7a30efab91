"""Latents as colours, and the class token's attention."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imae_jax import evaluation, pretrained
from imae_jax.evaluators.networks import Network
from imae_jax.models import masking
from imae_jax.models.forward import attention_of_class_token, embed
from imae_jax.models.patches import patchify
from imae_jax.report import latent_pictures

KEY = jax.random.key(0)


def test_attention_is_softmax_written_out():
    qkv = np.asarray(jax.random.normal(KEY, (2, 5, 24)))
    found = attention_of_class_token(jnp.asarray(qkv), heads=2)
    query, keys = qkv[:, 0, :8], qkv[:, :, 8:16]
    expected = np.zeros((2, 4))
    for image in range(2):
        for head in (slice(0, 4), slice(4, 8)):
            e = np.exp(keys[image, :, head] @ query[image, head] / 2)
            expected[image] += (e / e.sum())[1:] / 2
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_attention_is_that_of_the_last_block(student):
    model = pretrained.load(student)
    images = jax.random.normal(KEY, (2, 8, 8, 1))
    found = embed(model.network, model.params, images)["attention"]
    assert found.shape == (2, 16) and (found > 0).all()
    assert (found.sum(axis=1) < 1).all()
    depth = model.network.encoder_size.depth
    kernel = ("encoder", "transformer", f"block_{depth - 1:02d}", "attention", "qkv")
    params = jax.tree.map(jnp.asarray, model.params)
    place = params
    for name in kernel:
        place = place[name]
    width = model.network.encoder_size.width
    for name in place:  # no queries: every token attends to all alike
        place[name] = place[name].at[..., :width].set(0)
    flat = embed(model.network, params, images)["attention"]
    np.testing.assert_allclose(flat, 1 / 17, rtol=1e-5)


def test_every_patch_is_of_the_first_pass_that_shows_it():
    mask = masking.random_mask(KEY, 3, 16, 0.75)
    seen = []

    def predict(images, turned):
        ids = np.asarray(turned.ids_keep)
        seen.append(ids)
        values = ids[..., None] + 100.0 * (len(seen) - 1)
        latents = np.stack([values, -values], axis=1)  # [B, S, K, 1]
        return {"latents": np.pad(latents, [(0, 0), (0, 0), (1, 0), (0, 0)])}

    found = latent_pictures.everywhere(Network(predict=predict), np.zeros(3), mask)
    assert found.shape == (3, 2, 16, 1) and len(seen) == 4
    np.testing.assert_array_equal(found[:, 1], -found[:, 0])
    np.testing.assert_array_equal(found[:, 0, :, 0] % 100, np.tile(np.arange(16), (3, 1)))
    first = np.take_along_axis(found[:, 0, :, 0], np.asarray(mask.ids_keep), axis=1)
    assert (first < 100).all() and (found[:, 0].max(axis=(1, 2)) >= 300).all()


@pytest.mark.parametrize("ratio", [0.25, 0.4, 0.5, 0.75, 0.9])
def test_showing_masks_show_every_patch(ratio):
    mask = masking.random_mask(KEY, 4, 16, ratio)
    masks = masking.showing_masks(mask)
    np.testing.assert_array_equal(masks[0].ids_keep, mask.ids_keep)
    shown = np.stack([~np.asarray(other.mask) for other in masks])
    assert shown.any(axis=0).all() and len(masks) == -(-16 // mask.ids_keep.shape[1])
    assert (shown.sum(axis=-1) == mask.ids_keep.shape[1]).all()


def test_colours_are_the_principal_components_less_each_positions_mean():
    random = np.random.default_rng(0)
    factors = random.normal(size=(200, 2, 6, 3)) * [9, 4, 1]
    base = np.linalg.qr(random.normal(size=(8, 8)))[0][:3]
    position = 100 * random.normal(size=(6, 8))
    own = factors @ base + position
    found, other = latent_pictures.as_colours(own, own[:, :1] + 5 * position)
    assert found.shape == (200, 2, 6, 3) and found.min() == 0 and found.max() == 255
    # The same content has the same colour, wherever it lies.
    np.testing.assert_allclose(other[..., 0], found[:, :1, :, 0], atol=12)
    for n in range(3):
        expected = factors[..., n] - factors[..., n].mean(axis=0)
        inside = (found[..., n] > 0) & (found[..., n] < 255)
        correlation = np.corrcoef(found[inside, n], expected[inside])[0, 1]
        assert abs(correlation) > 0.99


def test_a_branch_that_is_the_teacher_has_its_colours(held_out_of):
    """Latents of each image alone under the same masks, as a perfect student has them."""
    held_out, teacher = held_out_of

    def predict(images, mask):
        return dict(latents=np.asarray(teacher(images, mask)))

    class Perfect:
        """Knows the sources of each mixture."""

        def __init__(self, batch):
            self.sources = batch.sources

        def predict(self, images, mask):
            both = [teacher(self.sources[:, s], mask) for s in range(2)]
            return dict(latents=np.stack(both, axis=1))

        def embed(self, images):
            return dict(attention=np.full((len(images), 16), 0.05))

    options = dict(split="test", batch_size=8, seed=0)
    batch = next(held_out.batches(**options))
    networks = dict(student=Perfect(batch), teacher=SimpleNamespace(predict=predict))
    columns = latent_pictures.picture_columns(networks, held_out, alpha=0.3, **options)
    for branch in ("subordinate", "dominant"):
        np.testing.assert_allclose(
            columns[f"{branch}\nbranch"], columns[f"{branch}\nteacher"]
        )
        assert columns[f"{branch}\nimage"].shape == (6, 8, 8, 1)
    assert columns["attention"].shape == (6, 4, 4, 1) and columns["attention"].min() == 255
    assert columns["subordinate\nbranch"].std() > 20


@pytest.fixture
def held_out_of(imae_config, student):
    """Held-out digits, and latents of images that are linear in their visible patches."""
    held_out = evaluation.open_run(imae_config(), student).held_out
    weights = np.random.default_rng(0).normal(size=(4, 5))

    def latents(images, mask):
        seen = np.take_along_axis(
            np.asarray(patchify(images, 2)), np.asarray(mask.ids_keep)[..., None], axis=1
        )
        return np.pad(seen @ weights, [(0, 0), (1, 0), (0, 0)])

    return held_out, latents
