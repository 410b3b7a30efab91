"""FLOPs of a training step's matrix products, counted by formula."""

from imae_jax.models.mae import MAE
from imae_jax.models.masking import num_predicted, num_visible


def count(
    network: MAE, mask_ratio: float, predict_fraction: float, kind: str, shared_mask: bool
) -> float:
    """FLOPs of a training step per image (or mixture), 2 per multiply-add.

    Args:
      network: the MAE, or a MAE with the encoder and decoder of the i-MAE.
      mask_ratio: fraction of masked patches.
      predict_fraction: fraction of these that a decoder of cross-attention predicts.
      kind: "mae", or "imae" with both images through the teacher.
      shared_mask: True if the teacher sees each image once for both its roles.
    """
    encoder, decoder = network.encoder_size, network.decoder_size
    patches = network.num_patches
    visible = num_visible(patches, mask_ratio)
    values = network.patch_size**2 * network.channels

    def transformer(size, tokens):
        return size.depth * tokens * size.width * (24 * size.width + 4 * tokens)

    encode = transformer(encoder, 1 + visible) + 2 * visible * values * encoder.width
    head = 2 * (1 + visible) * encoder.width * decoder.width
    if network.decoder_attention == "self":
        predicted, blocks = patches, transformer(decoder, 1 + patches)
    else:
        predicted = num_predicted(patches, mask_ratio, predict_fraction)
        of_each = predicted * (20 * decoder.width + 4 * (1 + visible))
        key_value = 4 * (1 + visible) * decoder.width
        blocks = decoder.depth * decoder.width * (of_each + key_value)
    decode = blocks + 2 * predicted * decoder.width * values
    if kind == "mae":
        forward, teacher = encode + head + decode, 0
    else:
        forward = encode + 2 * (head + decode)
        teacher = (1 if shared_mask else 2) * (encode + head)
    # The gradient takes a product for the input (not for pixels) and one for the weights.
    return 3 * forward - 2 * visible * values * encoder.width + teacher
