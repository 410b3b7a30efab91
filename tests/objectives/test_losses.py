import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imae_jax.objectives import losses


def random(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


MASK = jnp.array([[True, False, True], [False, True, True]])


def branches(seed=0):
    """A batch of two mixtures: three patches of four pixels, two visible tokens."""
    out = dict(pred=random(seed, 2, 2, 3, 4), latents=random(seed + 1, 2, 2, 3, 5))
    return out, random(seed + 2, 2, 2, 3, 4), random(seed + 3, 2, 2, 3, 5)


def test_masked_patch_error_by_hand():
    pred = jnp.zeros((1, 3, 2))
    target = jnp.array([[[1.0, 3.0], [100.0, 100.0], [2.0, 2.0]]])
    # Patches 0 and 2 are removed: (1 + 9) / 2 = 5 and (4 + 4) / 2 = 4.
    error = losses.masked_patch_error(pred, target, MASK[:1])
    np.testing.assert_allclose(error, [4.5])


def test_latent_error_by_hand():
    latents = jnp.array([[[1.0, 2.0], [0.0, 0.0]]])
    np.testing.assert_allclose(losses.latent_error(latents, jnp.zeros((1, 2, 2))), [1.25])


def test_norm_pix_uses_the_unbiased_variance():
    patch = np.array([1.0, 2.0, 3.0, 6.0])
    expected = (patch - 3) / np.sqrt(np.var(patch, ddof=1) + 1e-6)
    np.testing.assert_allclose(
        losses.normalize_patches(jnp.array(patch)), expected, rtol=1e-6
    )
    constant = losses.normalize_patches(jnp.full(4, 7.0))
    np.testing.assert_array_equal(constant, 0)


def test_imae_losses_against_numpy():
    out, target, teacher = branches()
    total, parts = losses.imae_losses(out, target, MASK, teacher, distill_weight=0.5)
    expected = 0.0
    for s, name in enumerate(("subordinate", "dominant")):
        pixels = ((np.asarray(out["pred"]) - target)[:, s] ** 2).mean(-1)
        reconstruction = (pixels * MASK).sum() / MASK.sum()
        distillation = ((np.asarray(out["latents"]) - teacher)[:, s] ** 2).mean()
        np.testing.assert_allclose(
            parts[f"loss/reconstruction_{name}"], reconstruction, rtol=1e-5
        )
        np.testing.assert_allclose(parts[f"loss/distill_{name}"], distillation, rtol=1e-5)
        expected += reconstruction + 0.5 * distillation
    np.testing.assert_allclose(total, expected, rtol=1e-5)
    np.testing.assert_allclose(parts["loss/total"], total)


def test_weights_choose_the_mixtures_of_each_branch():
    out, target, teacher = branches()
    weights = jnp.array([[0.0, 1.0], [2.0, 1.0]])
    total, parts = losses.imae_losses(out, target, MASK, teacher, 0.5, weights)
    second = jax.tree.map(lambda x: x[1:], (out, target, MASK, teacher))
    _, alone = losses.imae_losses(*second, 0.5)
    _, both = losses.imae_losses(out, target, MASK, teacher, 0.5)
    for name in ("reconstruction", "distill"):
        key = f"loss/{name}_subordinate"
        np.testing.assert_allclose(parts[key], alone[key], rtol=1e-6)
        key = f"loss/{name}_dominant"
        np.testing.assert_allclose(parts[key], both[key], rtol=1e-6)
    expected = sum(
        weight * parts[f"loss/{name}_{branch}"]
        for name, weight in (("reconstruction", 1.0), ("distill", 0.5))
        for branch in ("subordinate", "dominant")
    )
    np.testing.assert_allclose(total, expected, rtol=1e-6)
    ones = losses.imae_losses(out, target, MASK, teacher, 0.5, jnp.ones((2, 2)))[0]
    np.testing.assert_array_equal(
        ones, losses.imae_losses(out, target, MASK, teacher, 0.5)[0]
    )


def test_predictions_of_visible_patches_get_no_gradient():
    out, target, teacher = branches()

    def loss(pred):
        return losses.imae_losses({**out, "pred": pred}, target, MASK, teacher, 1.0)[0]

    gradient = np.asarray(jax.grad(loss)(out["pred"]))
    visible = ~np.broadcast_to(MASK[:, None, :, None], gradient.shape)
    assert np.all(gradient[visible] == 0)
    assert np.all(gradient[~visible] != 0)


def test_swapping_branches_and_targets_swaps_the_losses_exactly():
    out, target, teacher = branches()
    _, parts = losses.imae_losses(out, target, MASK, teacher, 1.0)
    swapped_out = {name: value[:, ::-1] for name, value in out.items()}
    _, swapped = losses.imae_losses(
        swapped_out, target[:, ::-1], MASK, teacher[:, ::-1], 1.0
    )
    for kind in ("reconstruction", "distill"):
        assert swapped[f"loss/{kind}_subordinate"] == parts[f"loss/{kind}_dominant"]
        assert swapped[f"loss/{kind}_dominant"] == parts[f"loss/{kind}_subordinate"]


def test_changing_only_the_dominant_target_changes_only_the_dominant_terms():
    out, target, teacher = branches()
    _, before = losses.imae_losses(out, target, MASK, teacher, 1.0)
    _, after = losses.imae_losses(
        out, target.at[:, 1].add(1.0), MASK, teacher.at[:, 1].add(1.0), 1.0
    )
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {
        "loss/reconstruction_dominant",
        "loss/distill_dominant",
        "loss/total",
    }


def test_without_teacher_there_is_no_distillation_term():
    out, target, _ = branches()
    total, parts = losses.imae_losses(out, target, MASK, None, 1.0)
    assert not any("distill" in name for name in parts)
    both = parts["loss/reconstruction_subordinate"] + parts["loss/reconstruction_dominant"]
    np.testing.assert_allclose(total, both)


def test_shapes_that_differ_are_refused_instead_of_broadcast():
    with pytest.raises(ValueError, match="pred is"):
        losses.masked_patch_error(jnp.zeros((2, 3, 4)), jnp.zeros((1, 3, 4)), MASK)
    with pytest.raises(ValueError, match="teacher's"):
        losses.latent_error(jnp.zeros((2, 3, 4)), jnp.zeros((2, 1, 4)))
