"""The decoder of cross-attention: values, independence of its predictions, and size."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf, softmax

from imae_jax.models import masking
from imae_jax.models.factory import build_autoencoder
from imae_jax.models.forward import forward
from imae_jax.models.layers import LAYER_NORM_EPSILON, Compute
from imae_jax.models.patches import sincos_position_embedding
from imae_jax.models.transformer import Transformer
from imae_jax.training.state import init_params

HEADS, WIDTH, DEPTH, VISIBLE = 2, 16, 2, 12
KEY = jax.random.key(0)


def make(name="mae", attention="cross"):
    return build_autoencoder(
        name=name,
        variant="mu/2",
        encoder=dict(width=None, depth=None, heads=None),
        decoder=dict(width=WIDTH, depth=DEPTH, heads=HEADS, attention=attention),
        image_shape=(8, 8, 1),
        compute=Compute(),
    )


@pytest.fixture(scope="module")
def params():
    """Parameters of a MAE; all are random, biases too."""
    leaves, tree = jax.tree.flatten(jax.jit(lambda: init_params(make(), 0))())
    keys = jax.random.split(KEY, len(leaves))
    moved = (
        x + 0.1 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)
    )
    return jax.tree.unflatten(tree, moved)


@pytest.fixture(scope="module")
def inputs():
    """Images, and masks of 4 of their 16 patches."""
    return jax.random.normal(KEY, (3, 8, 8, 1)), masking.random_mask(KEY, 3, 16, 0.25)


def latents_of(seed=1):
    return jax.random.normal(jax.random.key(seed), (3, 1 + VISIBLE, WIDTH))


@functools.partial(jax.jit, static_argnames="count")
def decoded(params, latents, ids_restore, count=None):
    """The decoder's predictions [N, L, P]."""

    def decode(model):
        return model.decoder(latents, ids_restore, count)

    return make().apply({"params": params}, method=decode)


def norm(x, p):
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + LAYER_NORM_EPSILON) * p["scale"] + p["bias"]


def linear(x, p):
    return x @ p["kernel"] + p["bias"]


def plain(params, latents, shuffled):
    """Predictions [masked, P] of one image, token by token, in NumPy."""
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params["decoder"])
    positions = sincos_position_embedding(WIDTH, (4, 4))
    found = []
    for place in shuffled[VISIBLE:]:
        x = params["mask_token"] + positions[place]
        for layer in range(DEPTH):
            block = params["transformer"][f"block_{layer:02d}"]
            cross = block["cross_attention"]
            query = linear(norm(x, block["norm_1"]), cross["query"])
            key, value = np.split(linear(latents, cross["key_value"]), 2, axis=-1)
            parts = []
            for head in range(HEADS):
                of = slice(head * WIDTH // HEADS, (head + 1) * WIDTH // HEADS)
                weights = softmax(key[:, of] @ query[of] / np.sqrt(WIDTH / HEADS))
                parts.append(weights @ value[:, of])
            x = x + linear(np.concatenate(parts), cross["out"])
            hidden = linear(norm(x, block["norm_2"]), block["mlp_in"])
            hidden = hidden * (1 + erf(hidden / np.sqrt(2))) / 2
            x = x + linear(hidden, block["mlp_out"])
        x = norm(x, params["transformer"]["norm"])
        found.append(linear(x, params["pred"]))
    return np.stack(found)


def test_it_predicts_what_a_plain_rendering_does(params, inputs):
    mask, latents = inputs[1], latents_of()
    found = np.asarray(decoded(params, latents, mask.ids_restore))
    for pred, each, ids in zip(found, latents, mask.ids_restore, strict=True):
        shuffled = np.argsort(ids)
        expected = plain(params, np.asarray(each, np.float64), shuffled)
        np.testing.assert_allclose(pred[shuffled[VISIBLE:]], expected, atol=2e-5)
        assert np.abs(expected).max() > 0.1
        assert not pred[shuffled[:VISIBLE]].any()


def test_queries_do_not_see_each_other():
    """And do, by self-attention."""
    form = Transformer(DEPTH, HEADS, Compute())
    queries, context = latents_of(2), latents_of(3)
    other = queries.at[:, 0].add(1.0)
    for given, is_independent in (((context,), True), ((), False)):
        variables = form.init(KEY, queries, *given)
        run = jax.jit(functools.partial(form.apply, variables))
        before, after = run(queries, *given), run(other, *given)
        same = np.all(before == after, axis=(0, 2))
        assert not same[0] and np.all(same[1:] == is_independent)


def test_each_patch_is_predicted_alike_whichever_others_are(params, inputs):
    mask, latents = inputs[1], latents_of()
    whole = np.asarray(decoded(params, latents, mask.ids_restore))
    for count in range(1, 5):
        some = np.asarray(decoded(params, latents, mask.ids_restore, count))
        chosen = np.asarray(masking.first_masked(mask, count))
        assert np.all(chosen.sum(axis=1) == count)
        np.testing.assert_allclose(some[chosen], whole[chosen], atol=1e-6)
        assert not some[~chosen].any()


def test_what_is_not_predicted_is_not_computed(params, inputs):
    """The number of queries is a constant of the program."""
    for count, expected in ((None, 4), (2, 2)):
        run = functools.partial(decoded, params, count=count)
        text = str(jax.make_jaxpr(run)(latents_of(), inputs[1].ids_restore))
        hidden = [n for n in range(1, 18) if f"f32[3,{n},{4 * WIDTH}]" in text]
        assert hidden == [expected]


def test_gradients_reach_all_that_predicts(params, inputs):
    images, mask = inputs

    @jax.jit
    def gradients(params, images):
        def loss(params, images):
            return jnp.square(forward(make(), params, images, mask)["pred"]).sum()

        return jax.grad(loss, (0, 1))(params, images)

    of_params, of_images = gradients(params, images)
    for path, leaf in jax.tree_util.tree_leaves_with_path(of_params):
        assert np.isfinite(leaf).all()
        if "key_value" in str(path) and "bias" in str(path):
            leaf = leaf[WIDTH:]  # a key's bias cancels in the softmax
        assert np.abs(leaf).max() > 1e-6, path
    of_patches = np.asarray(of_images).reshape(3, 4, 2, 4, 2).transpose(0, 1, 3, 2, 4)
    is_seen = np.abs(of_patches).max(axis=(3, 4)).reshape(3, 16) > 0
    np.testing.assert_array_equal(is_seen, ~np.asarray(mask.mask))


def test_the_class_token_is_among_the_keys(params, inputs):
    latents = latents_of()
    before = decoded(params, latents, inputs[1].ids_restore)
    after = decoded(params, latents.at[:, 0].add(1.0), inputs[1].ids_restore)
    is_masked = np.asarray(inputs[1].mask)
    assert np.all(np.abs(after - before).max(axis=-1)[is_masked] > 1e-4)


def test_it_has_as_many_parameters_as_self_attention_by_other_names():
    def count(tree):
        return sum(leaf.size for leaf in jax.tree.leaves(tree))

    full, cross = (
        jax.eval_shape(lambda a=a: init_params(make("imae", a), 0))["decoder"]
        for a in ("self", "cross")
    )
    # A block of width w has 12 w^2 + 13 w; LayerNorm, mask token, and pred of 4 pixels.
    w = WIDTH
    expected = DEPTH * (12 * w**2 + 13 * w) + 2 * w + w + (w + 1) * 4
    assert count(full) == count(cross) == expected
    # So weights of one are never taken for those of the other.
    assert jax.tree.structure(full) != jax.tree.structure(cross)


def test_branches_of_an_imae_are_decoded_each_from_its_own_latents(inputs):
    images, mask = inputs
    network = make("imae")
    weights = jax.jit(lambda: init_params(network, 0))()
    run = jax.jit(lambda weights: forward(network, weights, images, mask, 3)["pred"])
    pred = run(weights)
    heads = "disentangle_subordinate", "disentangle_dominant"
    swapped = weights | dict(
        zip(heads, (weights[heads[1]], weights[heads[0]]), strict=True)
    )
    other = run(swapped)
    np.testing.assert_array_equal(other, pred[:, ::-1])
    chosen = np.asarray(masking.first_masked(mask, 3))
    assert np.all(np.abs(pred[:, 0] - pred[:, 1]).max(axis=-1)[chosen] > 0)
