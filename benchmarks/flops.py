"""The matrix products of a training step, counted by hand."""

from imae_jax.models.mae import MAE
from imae_jax.models.masking import num_visible


def count(network: MAE, mask_ratio: float, kind: str, shared_mask: bool) -> float:
    """Operations of one image's (or mixture's) step, 2 per multiply-add.

    Args:
      network: the MAE, or the one of an i-MAE's encoder and decoder.
      mask_ratio: share of the patches that is removed.
      kind: "mae", or "imae" with both images through the teacher.
      shared_mask: whether the teacher sees each image once for both its roles.
    """
    encoder, decoder = network.encoder_size, network.decoder_size
    patches = network.num_patches
    visible = num_visible(patches, mask_ratio)
    values = network.patch_size**2 * network.channels

    def transformer(size, tokens):
        return size.depth * tokens * size.width * (24 * size.width + 4 * tokens)

    encode = transformer(encoder, 1 + visible) + 2 * visible * values * encoder.width
    head = 2 * (1 + visible) * encoder.width * decoder.width
    decode = transformer(decoder, 1 + patches) + 2 * patches * decoder.width * values
    if kind == "mae":
        forward, teacher = encode + head + decode, 0
    else:
        forward = encode + 2 * (head + decode)
        teacher = (1 if shared_mask else 2) * (encode + head)
    # The gradient costs a product for the input and one for the weights; pixels need none.
    return 3 * forward - 2 * visible * values * encoder.width + teacher
