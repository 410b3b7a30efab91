"""`hf:FOLDER_OR_ID`: vision models of Hugging Face's transformers."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from imae_jax.encoders import torch_modules
from imae_jax.encoders.encoder import (
    PILLOW,
    Encoder,
    Preprocessing,
    import_library,
    mask_noise,
)
from imae_jax.encoders.spec import Spec
from imae_jax.interop.metadata import RESCALE
from imae_jax.storage.local_paths import local_path


def open_encoder(spec: Spec) -> Encoder:
    """Opens the image encoder of a model; `mask_ratio` is for ViTMAE, 0 by default.

    Raises:
      UserError: if transformers or PyTorch is missing, or there is no such model.
    """
    import_library("torch", spec.text)
    transformers = import_library("transformers", spec.text)
    path = local_path(spec.argument, "encoder")
    # A path that looks like no ID must not be asked for on the network.
    is_path = path.is_dir() or not spec.argument.startswith((".", "/", "~"))
    spec.check(is_path, "hf:FOLDER_OR_ID; there is no such folder")
    name = str(path) if path.is_dir() else spec.argument
    config = torch_modules.opened(
        spec.text, lambda: transformers.AutoConfig.from_pretrained(name)
    )
    is_masked = config.model_type == "vit_mae"
    spec.check(is_masked or "mask_ratio" not in spec.options, "without mask_ratio=")
    preprocessing = spec.preprocessing(_record(spec, transformers, name, config))

    def random() -> Any:
        return torch_modules.seeded(lambda: transformers.AutoModel.from_config(config))

    def wrap(module: Any) -> Encoder:
        module = getattr(module, "vision_model", module)
        return _wrapped(spec, module, preprocessing, is_masked, lambda: wrap(random()))

    if spec.is_random:
        return wrap(random())
    return wrap(_trained(spec, transformers, name))


def _trained(spec: Spec, transformers: ModuleType, name: str) -> Any:
    """Opens a model, all of whose weights must be there but an unused pooler's."""
    module, info = torch_modules.opened(
        spec.text,
        lambda: transformers.AutoModel.from_pretrained(name, output_loading_info=True),
    )
    missing = sorted(x for x in info["missing_keys"] if "pooler" not in x)
    spec.check(not missing, f"a model with all its weights; {missing[:1]} is missing")
    return module


def _record(spec: Spec, transformers: ModuleType, name: str, config: Any) -> Preprocessing:
    """Reads preprocessor_config.json; without one, mean and std must be given."""
    try:
        stated, _ = transformers.ImageProcessingMixin.get_image_processor_dict(name)
    except OSError:
        stated = {}
    channels = getattr(config, "num_channels", 3)
    size = stated.get("crop_size") or stated.get("size") or config.image_size
    if isinstance(size, dict):
        sides = size.get("height", size.get("shortest_edge")), size.get("width")
        size = sides[0], sides[1] or sides[0]
    size = tuple(np.broadcast_to(size, 2).tolist())
    given = [stated.get(f"image_{x}") or () for x in ("mean", "std")]
    if stated and not stated.get("do_normalize", True):
        given = [[0.0], [1.0]]
    has_own = {"mean", "std"} <= spec.options.keys()
    spec.check(all(given) or has_own, "with mean= and std=, which it does not record")
    factor = stated.get("rescale_factor", 1 / 255)
    is_of_ones = stated.get("do_rescale", True) is True and RESCALE.allows(factor)
    allowed = "with mean= and std= of pixels in 0..1: its record does not rescale them so"
    spec.check(is_of_ones or has_own, allowed)
    mean, std = (tuple(map(float, x)) or None for x in given)
    resample = stated.get("resample", 2)
    spec.check(resample in PILLOW, f"with resample= one of {list(PILLOW)} in its record")
    source = "its preprocessor_config.json" if stated else "its config.json"
    return Preprocessing(size, channels, mean, std, PILLOW[resample], source)


def _wrapped(
    spec: Spec,
    module: Any,
    preprocessing: Preprocessing,
    is_masked: bool,
    untrained: Callable[[], Encoder],
) -> Encoder:
    assert preprocessing.size is not None, "see `_record`"
    config, options, shown = module.config, {}, "whole images"
    part: dict[str, Any] = {}
    patch = getattr(config, "patch_size", None)
    count = 0
    if patch:
        count = int(np.prod([side // patch for side in preprocessing.size]))
    if is_masked:
        ratio = config.mask_ratio = spec.mask_ratio(count)
        options["noise"] = mask_noise(ratio, count)
        if ratio:
            whole, count = count, int(count * (1 - ratio))
            shown = f"{count} of {whole} patches, one mask for all images"
            part = dict(kept=np.argsort(options["noise"])[:count], num_patches=whole)
    torch = import_library("torch", spec.text)

    def read(images: Any) -> Any:
        noise = {
            name: torch.as_tensor(x, device=images.device).repeat(len(images), 1)
            for name, x in options.items()
        }
        features = module(pixel_values=images, **noise).last_hidden_state
        width = features.shape[1 if features.ndim == 4 else -1]
        return torch_modules.tokens_of(features, width)

    function = torch_modules.as_function(module, read)
    prefix = 0
    if count:  # tokens beyond those of patches
        shape: tuple = (1, *preprocessing.size, preprocessing.channels)
        blank = np.zeros(shape, np.float32)
        tokens = torch_modules.opened(spec.text, lambda: function(blank))
        prefix = max(0, tokens.shape[1] - count) if tokens.ndim == 3 else 0
    fixed = preprocessing, prefix, shown
    return Encoder(spec.text, function, *fixed, untrained=untrained, **part)
