"""`Classifier`: an encoder of whole images with linear classification heads."""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from imae_jax.models.layers import Compute
from imae_jax.models.mae import Encoder
from imae_jax.models.patches import grid_size
from imae_jax.models.transformer import Size, layer_norm

# "linear": heads on a frozen encoder. "finetune": everything, from a run's encoder.
# "scratch": everything, from random weights.
MODES = ("linear", "finetune", "scratch")
# Input of a head: the class token, or the mean of the patch tokens.
POOLS = ("class_token", "mean")
# Std of a head's initial weights (MAE: a normal distribution truncated at +-2).
PROBE_STD, FINETUNE_STD = 0.01, 2e-5


class Classifier(nn.Module):
    """An encoder that sees all patches, and a head for each pool.

    A probe's input is the encoder's final tokens through a BatchNorm without scale and bias
    (MAE). Otherwise the mean is taken over the tokens of an encoder without final
    LayerNorm, and goes through a new one, `fc_norm` (MAE); the class token is taken after
    the final LayerNorm (code).

    Attributes:
      encoder_size: size of the encoder.
      patch_size: p.
      image_size, channels: (H, W) and C.
      num_classes: number of classes.
      pools: some of POOLS; only a probe may have several, trained in parallel.
      is_probe: True if the encoder is frozen.
      drop_path: see `Transformer`.
      compute: dtypes and kernels of the encoder; heads are float32.
    """

    has_decoder: ClassVar[bool] = False
    is_fed_mixtures: ClassVar[bool] = False

    encoder_size: Size
    patch_size: int
    image_size: tuple[int, int]
    channels: int
    num_classes: int
    pools: tuple[str, ...]
    is_probe: bool
    drop_path: float
    compute: Compute

    @property
    def num_patches(self) -> int:
        """Number of patches of an image, L."""
        rows, columns = grid_size(self.image_size, self.patch_size)
        return rows * columns

    def example_inputs(self, key: jax.Array) -> tuple[jax.Array, bool]:
        """Returns example arguments of a call: one image, not in training."""
        return jnp.zeros((1, *self.image_size, self.channels)), False

    @nn.compact
    def __call__(self, images: jax.Array, is_training: bool) -> dict[str, jax.Array]:
        """Classifies images.

        Args:
          images: [B, H, W, C] normalized pixels.
          is_training: True for BatchNorm to use and track the batch's statistics.
        Returns:
          [B, classes] float32 logits, by pool.
        """
        tokens = Encoder(
            **self.encoder_size._asdict(),
            patch_size=self.patch_size,
            compute=self.compute,
            drop_path=self.drop_path,
            final_norm=self.is_probe or "mean" not in self.pools,
            name="encoder",
        )(images).astype(jnp.float32)
        if self.is_probe:
            tokens = jax.lax.stop_gradient(tokens)
        pooled = dict(class_token=tokens[:, 0], mean=tokens[:, 1:].mean(axis=1))
        std = PROBE_STD if self.is_probe else FINETUNE_STD
        logits = {}
        for pool in self.pools:
            x = pooled[pool]
            if self.is_probe:
                x = nn.BatchNorm(
                    use_running_average=not is_training,
                    momentum=0.9,  # MAE: PyTorch's 0.1
                    epsilon=1e-6,
                    use_bias=False,
                    use_scale=False,
                    name=f"norm_{pool}",
                )(x)
            elif pool == "mean":
                x = layer_norm(Compute(), "fc_norm")(x)
            init = nn.initializers.normal(std)
            logits[pool] = nn.Dense(
                self.num_classes, kernel_init=init, name=f"head_{pool}"
            )(x)
        return logits
