import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imae_jax.models import masking, patches, transformer
from imae_jax.models.factory import build_autoencoder
from imae_jax.models.forward import forward
from imae_jax.models.layers import Compute
from imae_jax.models.transformer import VARIANTS
from imae_jax.training.state import init_params

UNSET = dict(width=None, depth=None, heads=None)
# Image and decoder of each variant's preset in the paper's tables; decoder of `mu`: tests.
SHAPES = {
    "mu/2": ((8, 8, 1), dict(width=32, depth=1, heads=2)),
    "Ti/2": ((32, 32, 3), dict(width=192, depth=4, heads=3)),
    "S/8": ((64, 64, 3), dict(width=192, depth=6, heads=6)),
    "B/16": ((224, 224, 3), dict(width=512, depth=8, heads=16)),
    "L/16": ((224, 224, 3), dict(width=512, depth=8, heads=16)),
}
# Counted by hand: a block of width w has 12 w^2 + 13 w. (MAE's release has 111,907,840 for
# B/16: it also counts its two fixed position embeddings, 197 x (768 + 512).)
PARAMETERS = {
    "mu/2": (26_948, 28_004),
    "Ti/2": (7_160_844, 7_197_900),
    "S/8": (24_149_568, 24_223_488),
    "B/16": (111_655_680, 112_049_408),
    "L/16": (329_239_296, 329_764_096),
}


def make(name, variant="mu/2", branches="both", attention="self", sources=2):
    image_shape, decoder = SHAPES[variant]
    return build_autoencoder(
        name=name,
        variant=variant,
        encoder=UNSET,
        decoder=decoder | dict(attention=attention),
        image_shape=image_shape,
        branches=branches,
        sources=sources,
        compute=Compute(),
    )


def initialized(name, seed=0, attention="self"):
    network = make(name, attention=attention)
    return network, init_params(network, seed)


def inputs(batch_size=4, seed=3, ratio=0.5):
    images = jax.random.normal(jax.random.key(seed), (batch_size, 8, 8, 1))
    return images, masking.random_mask(jax.random.key(seed + 1), batch_size, 16, ratio)


def count_parameters(network):
    shapes = jax.eval_shape(lambda: init_params(network, 0))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


@pytest.mark.slow
def test_every_variant_has_golden_parameter_counts():
    assert {variant.split("/")[0] for variant in PARAMETERS} == set(VARIANTS)
    for variant, expected in PARAMETERS.items():
        counts = tuple(count_parameters(make(name, variant)) for name in ("mae", "imae"))
        assert counts == expected, f"{variant} now has {counts}: change them if intended"


@pytest.mark.parametrize("variant", ["Ti/2", "B/16"])
def test_output_shapes_of_full_size_models(variant):
    network = make("imae", variant)
    height, width, channels = SHAPES[variant][0]
    length = network.num_patches
    kept = length // 4

    def run():
        images = jnp.zeros((2, height, width, channels))
        mask = masking.random_mask(jax.random.key(0), 2, length, 0.75)
        return forward(network, init_params(network, 0), images, mask)

    out = jax.eval_shape(run)
    encoder, decoder = network.encoder_size.width, network.decoder_size.width
    assert out["tokens"].shape == (2, 1 + kept, encoder)
    assert out["latents"].shape == (2, 2, 1 + kept, decoder)
    assert out["pred"].shape == (2, 2, length, network.patch_size**2 * channels)


@pytest.mark.parametrize("variant", ["Ti", "Ti/0", "XL/16", "Ti/x", ""])
def test_unknown_variants_are_refused(variant):
    with pytest.raises(ValueError, match="is not a variant"):
        transformer.decode_variant(variant)


def test_initialisation_is_maes():
    _, params = initialized("imae")
    kernel = params["encoder"]["transformer"]["block_00"]["mlp_in"]["kernel"]
    bound = np.sqrt(6 / sum(kernel.shape))
    assert 0.95 * bound < np.abs(kernel).max() <= bound
    embed = params["encoder"]["patch_embed"]
    assert np.abs(embed["kernel"]).max() <= np.sqrt(6 / (4 + 32))
    np.testing.assert_array_equal(embed["bias"], 0)
    for token in (params["encoder"]["class_token"], params["decoder"]["mask_token"]):
        assert 0.01 < token.std() < 0.03


def test_swapping_the_heads_swaps_the_branches_exactly():
    network, params = initialized("imae")
    images, mask = inputs()
    out = forward(network, params, images, mask)
    swapped = dict(params)
    swapped["disentangle_subordinate"] = params["disentangle_dominant"]
    swapped["disentangle_dominant"] = params["disentangle_subordinate"]
    other = forward(network, swapped, images, mask)
    for name in ("latents", "pred"):
        np.testing.assert_array_equal(other[name], out[name][:, ::-1])
        assert not np.allclose(out[name], out[name][:, ::-1])


@pytest.mark.parametrize("sources", [3, 4])
def test_more_images_have_a_head_each_between_the_first_and_the_last(sources):
    network = make("imae", sources=sources)
    params = init_params(network, 0)
    heads = [name for name in params if name.startswith("disentangle_")]
    middle = [f"disentangle_middle_{n}" for n in range(1, sources - 1)]
    assert network.heads == ["disentangle_subordinate", *middle, "disentangle_dominant"]
    assert sorted(heads) == sorted(network.heads)
    images, mask = inputs()
    out = forward(network, params, images, mask)
    assert out["latents"].shape == (4, sources, 9, network.decoder_size.width)
    assert out["pred"].shape == (4, sources, 16, 4)
    for s, head in enumerate(network.heads):
        one = params | {head: jax.tree.map(jnp.zeros_like, params[head])}
        changed = forward(network, one, images, mask)["latents"] != out["latents"]
        np.testing.assert_array_equal(changed.any(axis=(0, 2, 3)), np.arange(sources) == s)


@pytest.mark.slow
def test_both_branches_share_the_decoder():
    network, params = initialized("imae")
    images, mask = inputs()

    def branch_sums(decoder):
        out = forward(network, {**params, "decoder": decoder}, images, mask)
        return out["pred"].sum(axis=(0, 2, 3))

    jacobian = jax.jacobian(branch_sums)(params["decoder"])
    for path, leaf in jax.tree_util.tree_leaves_with_path(jacobian):
        if "qkv" in str(path) and "bias" in str(path):
            continue  # a key's bias cancels in the softmax
        assert np.abs(leaf[0]).max() > 0 and np.abs(leaf[1]).max() > 0, path
    # The same latents give the same prediction, whichever branch they are in.
    latents = jax.random.normal(jax.random.key(0), (4, 1, 9, 32))
    twice = jnp.concatenate([latents, latents], axis=1)
    pred = network.apply({"params": params}, twice, mask.ids_restore, method="decode")
    np.testing.assert_array_equal(pred[:, 0], pred[:, 1])


def test_encoder_sees_only_visible_patches_and_samples_do_not_mix():
    network, params = initialized("imae")
    images, mask = inputs()

    def first_sample(images):
        return forward(network, params, images, mask)["pred"][0].sum()

    gradient = patches.patchify(jax.grad(first_sample)(images), 2)
    assert np.all(np.asarray(gradient)[np.asarray(mask.mask)] == 0)
    assert np.all(np.asarray(gradient)[1:] == 0)
    assert np.all(np.abs(gradient[0]).max(axis=-1)[~mask.mask[0]] > 0)


def test_unmasked_encoding_is_the_identity_order():
    network, params = initialized("mae")
    images, _ = inputs()
    every = jnp.broadcast_to(jnp.arange(16), (4, 16))
    plain = network.apply({"params": params}, images, method="encode")
    ordered = network.apply({"params": params}, images, every, method="encode")
    np.testing.assert_array_equal(plain, ordered)
    assert plain.shape == (4, 17, 32)


def test_subordinate_only_has_one_head_and_agrees_with_the_first_branch():
    both, params = initialized("imae")
    images, mask = inputs()
    single = make("imae", branches="subordinate")
    kept = {k: v for k, v in params.items() if k != "disentangle_dominant"}
    assert set(init_params(single, 0)) == set(kept)
    out = forward(single, kept, images, mask)
    assert out["pred"].shape[1] == 1
    expected = forward(both, params, images, mask)["pred"][:, :1]
    np.testing.assert_allclose(out["pred"], expected, atol=1e-5)
