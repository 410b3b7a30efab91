"""Construction of models from config sections."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from imae_jax.models import layers
from imae_jax.models.classifier import Classifier
from imae_jax.models.imae import IMAE
from imae_jax.models.layers import Compute
from imae_jax.models.mae import MAE, Autoencoder
from imae_jax.models.transformer import Size, decode_variant


def as_mae(model: Any) -> MAE:
    """Returns the MAE with an `Autoencoder`'s encoder and decoder."""
    fields = (field.name for field in dataclasses.fields(Autoencoder) if field.init)
    shared = {name: getattr(model, name) for name in fields}
    return MAE(**shared | {"parent": None, "name": None})


def _encoder_fields(
    variant: str,
    encoder: Mapping[str, int | None],
    image_shape: tuple[int, int, int],
    compute: Compute,
) -> dict:
    """Returns the fields that all models have, see `build_autoencoder`."""
    size, patch_size = decode_variant(variant)
    *image_size, channels = image_shape
    return dict(
        encoder_size=size._replace(**{k: v for k, v in encoder.items() if v is not None}),
        patch_size=patch_size,
        image_size=tuple(image_size),
        channels=channels,
        compute=compute,
    )


def build_autoencoder(
    *,
    name: str,
    variant: str,
    encoder: Mapping[str, int | None],
    decoder: Mapping[str, Any],
    image_shape: tuple[int, int, int],
    compute: Compute,
    branches: str = "both",
    sources: int = 2,
) -> MAE | IMAE:
    """Makes the model that a config's `model` section describes.

    Args:
      name: "mae" or "imae".
      variant: see `decode_variant`.
      encoder: width, depth and heads; None keeps the variant's value.
      decoder: width, depth, heads and attention, see `mae.Decoder`.
      image_shape: (H, W, C).
      compute: see `layers.choose`.
      branches, sources: see `IMAE`.
    """
    fields = _encoder_fields(variant, encoder, image_shape, compute)
    fields["decoder_size"] = Size(*(decoder[name] for name in Size._fields))
    fields["decoder_attention"] = decoder["attention"]
    if name == "mae":
        return MAE(**fields)
    return IMAE(**fields, branches=branches, sources=sources)


# Keyword options: the `model` section of a config, and the data's form.
def build_classifier(
    *,
    variant: str,
    encoder: Mapping[str, int | None],
    mode: str,
    pools: Sequence[str],
    image_shape: tuple[int, int, int],
    num_classes: int,
    compute: Compute,
    drop_path: float = 0.0,
) -> Classifier:
    """Makes the classifier that a config's `model` section describes.

    Args:
      variant, encoder, image_shape, compute: see `build_autoencoder`.
      mode: one of MODES.
      pools, num_classes, drop_path: see `Classifier`.
    """
    return Classifier(
        **_encoder_fields(variant, encoder, image_shape, compute),
        num_classes=num_classes,
        pools=tuple(pools),
        is_probe=mode == "linear",
        drop_path=drop_path,
    )


def build_model(
    config: ConfigDict,
    image_shape: tuple[int, int, int],
    num_classes: int = 0,
    platform: str | None = None,
) -> MAE | IMAE | Classifier:
    """Makes the model of a checked config.

    Args:
      config: a run's config.
      image_shape: (H, W, C).
      num_classes: number of classes, for a classifier.
      platform: target platform, "cpu", "gpu" or "tpu"; None for the current one.
    """
    form = layers.choose(**config.compute, platform=platform or jax.default_backend())
    fields = dict(config.model) | dict(image_shape=image_shape, compute=form)
    if fields["name"] == "classifier":
        del fields["name"]
        return build_classifier(**fields, num_classes=num_classes)
    if fields["name"] == "imae":
        fields |= dict(branches=config.loss.branches, sources=config.mix.sources)
    return build_autoencoder(**fields)
