"""MAE against an independent implementation: transformers' ViTMAE, in PyTorch.

Its weights come here as a user's would, by `interop`.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from configs import mae
from imae_jax.interop import import_weights, read_files
from imae_jax.interop.architecture import detect
from imae_jax.models import masking, patches
from imae_jax.models.factory import build_model
from imae_jax.models.forward import forward
from imae_jax.models.layers import Compute
from imae_jax.objectives import losses

# (H, W), patch size, channels, encoder and decoder (width, depth, heads)
SIZES = [
    ((8, 8), 2, 1, (32, 2, 4), (16, 1, 2)),
    ((32, 32), 4, 3, (48, 3, 3), (32, 2, 4)),
]
TOLERANCE = 2e-5


def torch_mae(parity, size, norm_pix, seed=0):
    """A ViTMAE in which every weight, biases too, is random."""
    torch, transformers = parity("torch"), parity("transformers")
    (height, _), patch_size, channels, encoder, decoder = size
    config = transformers.ViTMAEConfig(
        image_size=height,
        patch_size=patch_size,
        num_channels=channels,
        hidden_size=encoder[0],
        num_hidden_layers=encoder[1],
        num_attention_heads=encoder[2],
        intermediate_size=4 * encoder[0],
        decoder_hidden_size=decoder[0],
        decoder_num_hidden_layers=decoder[1],
        decoder_num_attention_heads=decoder[2],
        decoder_intermediate_size=4 * decoder[0],
        layer_norm_eps=1e-6,
        mask_ratio=0.5,
        norm_pix_loss=norm_pix,
    )
    network = transformers.ViTMAEForPreTraining(config).eval()
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "pos" not in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
        # Released checkpoints carry MAE's embeddings; the library's formula has another
        # order (see below).
        for embedding in (
            network.vit.embeddings.position_embeddings,
            network.decoder.decoder_pos_embed,
        ):
            grid = (height // patch_size, height // patch_size)
            formula = patches.sincos_position_embedding(embedding.shape[-1], grid)
            embedding[0, 1:] = torch.from_numpy(formula)
            embedding[0, 0] = 0
    return network


@pytest.mark.parametrize("norm_pix", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_mae_is_transformers_vitmae(parity, size, norm_pix, tmp_path):
    torch = parity("torch")
    reference = torch_mae(parity, size, norm_pix)
    reference.save_pretrained(tmp_path)
    found = detect(read_files.read(tmp_path))
    config, params, meta = import_weights.as_run(found, mae.get_config("imagenet"))
    assert config.loss.norm_pix == norm_pix
    network = build_model(config, meta["image_shape"]).clone(compute=Compute())
    image_size, patch_size, channels, encoder, decoder = size
    assert (network.encoder_size, network.decoder_size) == (encoder, decoder)

    random = np.random.default_rng(0)
    images = random.normal(size=(3, *image_size, channels)).astype(np.float32)
    noise = random.uniform(size=(3, network.num_patches)).astype(np.float32)
    with torch.no_grad():
        pixels = torch.from_numpy(images.transpose(0, 3, 1, 2))
        expected = reference(pixels, noise=torch.from_numpy(noise))
        tokens = reference.vit(pixels, noise=torch.from_numpy(noise)).last_hidden_state

    mask = masking.mask_from_noise(jnp.asarray(noise), 0.5)
    np.testing.assert_array_equal(mask.mask, expected.mask.numpy())
    np.testing.assert_array_equal(mask.ids_restore, expected.ids_restore.numpy())
    out = forward(network, params, images, mask)
    np.testing.assert_allclose(out["tokens"], tokens.numpy(), atol=TOLERANCE)
    np.testing.assert_allclose(out["pred"], expected.logits.numpy(), atol=TOLERANCE)
    target = patches.patchify(jnp.asarray(images), patch_size)
    if norm_pix:
        target = losses.normalize_patches(target)
    loss, _ = losses.mae_losses(out, target, mask.mask)
    np.testing.assert_allclose(loss, expected.loss.numpy(), rtol=TOLERANCE)


def test_position_embedding_is_transformers_with_rows_and_columns_exchanged(parity):
    """MAE's released code has the column's half first, transformers 5 the row's."""
    module = parity("transformers.models.vit_mae.modeling_vit_mae")
    theirs = module.build_2d_sinusoidal_position_embedding(3, 5, 48).numpy()
    ours = patches.sincos_position_embedding(48, (3, 5))
    exchanged = np.concatenate([theirs[:, 24:], theirs[:, :24]], axis=1)
    np.testing.assert_allclose(ours, exchanged, atol=1e-6)
