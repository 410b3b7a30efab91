"""`timm:NAME`: models of timm, with its own record of their preprocessing."""

import logging
from typing import Any

from imae_jax.encoders import torch_modules
from imae_jax.encoders.encoder import Encoder, Preprocessing, import_library
from imae_jax.encoders.spec import Spec
from imae_jax.interop import read_files
from imae_jax.storage.local_paths import local_path

logger = logging.getLogger(__name__)


def open_encoder(spec: Spec) -> Encoder:
    """Opens a model with timm's weights, those of `checkpoint=FILE`, or `weights=random`.

    Raises:
      UserError: if timm is missing, has no such model, or cannot get its weights.
    """
    timm = import_library("timm", spec.text)
    checkpoint = spec.options.get("checkpoint")
    is_alone = not (checkpoint and spec.is_random)
    spec.check(is_alone, "with checkpoint= or weights=, not both")

    def make(pretrained: bool) -> Any:
        return torch_modules.opened(
            spec.text,
            lambda: timm.create_model(spec.argument, pretrained=pretrained, num_classes=0),
        )

    if spec.is_random:
        module = torch_modules.seeded(lambda: make(False))
    else:
        module = make(pretrained=not checkpoint)
    if checkpoint:
        arrays = read_files.read(local_path(checkpoint, "checkpoint")).arrays
        unused = torch_modules.load_arrays(spec.text, module, arrays)
        if unused:
            logger.info(f"{checkpoint}: {len(unused)} arrays not used, as {unused[0]}")
    record = timm.data.resolve_model_data_config(module)
    recorded = Preprocessing(
        tuple(record["input_size"][1:]),
        record["input_size"][0],
        tuple(record["mean"]),
        tuple(record["std"]),
        record["interpolation"],
        "timm's pretrained_cfg",
    )
    preprocessing = spec.preprocessing(recorded)

    def wrap(module: Any) -> Encoder:
        def read(images: Any) -> Any:
            features = module.forward_features(images)
            return torch_modules.tokens_of(features, module.num_features)

        return Encoder(
            spec.text,
            torch_modules.as_function(module, read),
            preprocessing,
            num_prefix=getattr(module, "num_prefix_tokens", 0),
            untrained=lambda: wrap(torch_modules.seeded(lambda: make(False))),
        )

    return wrap(module)
