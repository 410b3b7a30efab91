"""`run:WORKDIR` and `file:WEIGHTS.safetensors`: MAE, i-MAE and classifiers from here."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from imae_jax import pretrained
from imae_jax.encoders.encoder import Encoder, Preprocessing, mask_noise
from imae_jax.encoders.spec import Spec
from imae_jax.models.forward import encode, forward
from imae_jax.models.imae import IMAE
from imae_jax.models.mae import MAE
from imae_jax.models.masking import Mask, mask_from_noise

OUTPUTS = ("tokens", "latents")


@functools.partial(jax.jit, static_argnums=(0, 1))
def _outputs(
    network: MAE | IMAE, output: str, params: Any, images: jax.Array, mask: Mask
) -> jax.Array:
    return forward(network, params, images, mask)[output]


_encode = jax.jit(encode, static_argnums=0)


def open_encoder(spec: Spec) -> Encoder:
    """Opens a run, or weights exported from one.

    Options: `mask_ratio`, of one mask for all images; `output`, "tokens" of the encoder or
    "latents" after MAE's `decoder_embed` or the two heads of i-MAE; `weights=random`.

    Raises:
      UserError: see `pretrained.load`; and for options that this model does not have.
    """
    model = pretrained.load(spec.argument)
    output = spec.options.get("output", "tokens")
    has_decoder = model.network.has_decoder
    spec.check(output in OUTPUTS, f"with output= one of {', '.join(OUTPUTS)}")
    is_plain = output == "tokens" and "mask_ratio" not in spec.options
    allowed = "without mask_ratio= and output=latents: it is an encoder without a decoder"
    spec.check(has_decoder or is_plain, allowed)
    height, width, channels = model.image_shape
    recorded = Preprocessing(
        (height, width),
        channels,
        tuple(map(float, model.mean / 255)),
        tuple(map(float, model.std / 255)),
        "bicubic",
        "the run's own",
    )
    wrap = functools.partial(_wrapped, spec, model, output, spec.preprocessing(recorded))
    return wrap(_random(model) if spec.is_random else model.params)


def _random(model: pretrained.Pretrained) -> Any:
    """Returns random parameters of the model."""
    key = jax.random.key(0)
    inputs = jnp.zeros((1, *model.image_shape))
    if not model.network.has_decoder:
        return model.network.init(key, inputs, is_training=False)["params"]
    return model.network.init(key, *model.network.example_inputs(key))["params"]


def _wrapped(
    spec: Spec,
    model: pretrained.Pretrained,
    output: str,
    preprocessing: Preprocessing,
    params: Any,
) -> Encoder:
    """Makes the encoder of a model with these parameters."""
    network = model.network
    shown, has_branches = "whole images", output == "latents" and network.is_fed_mixtures
    part: dict[str, Any] = {}
    if not network.has_decoder:

        def function(images: np.ndarray) -> jax.Array:
            return _encode(network, params, images)
    else:
        count = network.num_patches
        ratio = spec.mask_ratio(count)
        one = mask_from_noise(jnp.asarray(mask_noise(ratio, count))[None], ratio)
        if ratio:
            shown = f"{one.ids_keep.shape[1]} of {count} patches, one mask for all images"
            part = dict(kept=np.asarray(one.ids_keep[0]), num_patches=count)

        def function(images: np.ndarray) -> jax.Array:
            mask = jax.tree.map(
                lambda x: jnp.broadcast_to(x, (len(images), *x.shape[1:])), one
            )
            return _outputs(network, output, params, images, mask)

    def untrained() -> Encoder:
        return _wrapped(spec, model, output, preprocessing, _random(model))

    fixed = preprocessing, 1, shown, has_branches, untrained
    return Encoder(spec.text, function, *fixed, **part)
