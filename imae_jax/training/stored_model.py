"""Model of a stored run, built from its config and metadata after both are checked."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from imae_jax.config import checks
from imae_jax.config.rules import RULES, Rule, count_from, hold, is_count, is_number
from imae_jax.errors import UserError, require
from imae_jax.models.classifier import Classifier
from imae_jax.models.factory import build_model
from imae_jax.models.imae import IMAE
from imae_jax.models.mae import MAE
from imae_jax.models.patches import grid_size
from imae_jax.models.transformer import Size
from imae_jax.objectives.mae import check_decoder

# Of an image: their position embeddings are computed, and no array bounds their number.
MAX_PATCHES = 2**16
MAX_VALUE = 1e6  # of pixel statistics, on the 0..255 scale
# Keys of a config that its model is built from, by section: needed, and possible.
_COMPUTE = {"compute": (("dtype", "attention", "scan", "remat"), ())}
_AUTOENCODER = _COMPUTE | {
    "model": (("name", "variant", "encoder", "decoder"), ()),
    "model.encoder": ((), Size._fields),
    "model.decoder": ((*Size._fields, "attention"), ()),
}
_CLASSIFIER = _COMPUTE | {
    "model": (("name", "variant", "encoder", "mode", "pools"), ("drop_path",)),
    "model.encoder": ((), Size._fields),
}


def _are_numbers(value: Any) -> bool:
    is_list = isinstance(value, list | tuple)
    return is_list and all(is_number(x) and abs(x) <= MAX_VALUE for x in value)


def _is_shape(value: Any) -> bool:
    is_list = isinstance(value, list | tuple) and len(value) == 3
    return is_list and all(is_count(x) and x >= 1 for x in value)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(x, str) for x in value)


# Statistics of pixels, for each channel.
MEAN = Rule(_are_numbers, f"finite numbers, up to {MAX_VALUE:g}")
STD = Rule(
    lambda x: _are_numbers(x) and all(value >= 1 / MAX_VALUE for value in x),
    f"numbers from {1 / MAX_VALUE:g} to {MAX_VALUE:g}",
)
_META = {
    "image_shape": Rule(_is_shape, "height, width and channels, each at least 1"),
    "mean": MEAN,
    "std": STD,
    "class_names": Rule(_are_texts, "names of classes"),
}
_OPTIONAL_META = {
    "step": Rule(
        lambda x: count_from(0).allows(x) and x < 2**53, "a whole number, at least 0"
    ),
    "sizes": Rule(lambda x: isinstance(x, Mapping), "numbers of images by split"),
    "images": Rule(lambda x: isinstance(x, Mapping), "digests of file names by split"),
    "teacher": Rule(lambda x: x is None or isinstance(x, Mapping), "step and digest"),
    "versions": Rule(lambda x: isinstance(x, Mapping), "versions by package"),
}


def stored_model(config: ConfigDict, meta: Mapping) -> MAE | IMAE | Classifier:
    """Builds the model of a run that was stored with `config` and `meta`.

    Args:
      config: config of the run; as read from a file, unchecked.
      meta: metadata stored with its arrays, see `setup.run_meta`; unchecked.
    Raises:
      UserError: naming the first key that is missing, unknown or out of its range.
    """
    _check_meta(meta)
    _check_config(config)
    image_shape = tuple(meta["image_shape"])
    checks.check_model(config, image_shape)
    if config.model.name != "classifier":
        check_decoder(config, image_shape)
    rows, columns = grid_size(image_shape[:2], checks.patch_size(config))
    allowed = f"an image of at most {MAX_PATCHES:,} patches"
    require(rows * columns <= MAX_PATCHES, "image_shape", list(image_shape), allowed)
    return build_model(config, image_shape, len(meta["class_names"]))


def _check_meta(meta: Mapping) -> None:
    if not isinstance(meta, Mapping):
        raise UserError("its metadata are no JSON object")
    for key, rule in (_META | _OPTIONAL_META).items():
        if key in meta:
            require(rule.allows(meta[key]), key, meta[key], rule.allowed)
        elif key in _META:
            raise UserError(f"its metadata have no {key}: must be {rule.allowed}")
    channels = meta["image_shape"][2]
    for key in ("mean", "std"):
        allowed = f"of {channels} channels, as image_shape is"
        require(len(meta[key]) == channels, key, list(meta[key]), allowed)


def _check_config(config: ConfigDict) -> None:
    _check_section(config, "model", (("name",), None))
    hold(config, {"model.name": RULES["model.name"]})
    is_classifier = config.model.name == "classifier"
    for name, keys in (_CLASSIFIER if is_classifier else _AUTOENCODER).items():
        _check_section(config, name, keys)
    needed: dict[str, tuple[str, ...]] = {"data": ("name",)}
    if not is_classifier:
        needed |= {"mask": ("ratio",), "loss": ("norm_pix",)}
    if config.model.name == "imae":
        needed["loss"] += ("branches",)
        needed["mix"] = ("sources",)
    for name, those in needed.items():
        _check_section(config, name, (those, None))
    checks.check_keys(config)
    if is_classifier:
        pools, mode = config.model.pools, config.model.mode
        allowed = "a single one where the encoder is trained too"
        require(len(pools) <= 1 or mode == "linear", "model.pools", pools, allowed)


def _check_section(config: ConfigDict, name: str, keys: tuple) -> None:
    """Raises UserError unless a section has keys (needed, possible; None: any)."""
    section = config
    for part in name.split("."):
        section = section[part] if part in section else None
        if not isinstance(section, ConfigDict):
            raise UserError(f"its config has no section {name}")
    needed, possible = keys
    for key in needed:
        if key not in section:
            raise UserError(f"its config has no {name}.{key}")
    unknown = set(section) - set(needed) - set(possible or ())
    if possible is not None and unknown:
        raise UserError(f"its config has an unknown {name}.{min(unknown)}")
