"""`torchvision:NAME`: classifiers of torchvision, read before their last linear layer."""

from typing import Any

from imae_jax.encoders import torch_modules
from imae_jax.encoders.encoder import Encoder, Preprocessing, import_library
from imae_jax.encoders.spec import Spec


def open_encoder(spec: Spec) -> Encoder:
    """Opens a model with torchvision's default weights, or with `weights=random`.

    Raises:
      UserError: if torchvision is missing, has no such model, cannot get its weights, or
        the model has no linear layer.
    """
    models = import_library("torchvision", spec.text).models
    torch = import_library("torch", spec.text)
    weights = torch_modules.opened(
        spec.text, lambda: models.get_model_weights(spec.argument).DEFAULT
    )

    def make(weights: Any) -> Any:
        return torch_modules.opened(
            spec.text, lambda: models.get_model(spec.argument, weights=weights)
        )

    record = weights.transforms()
    recorded = Preprocessing(
        tuple(record.crop_size) * (2 // len(record.crop_size)),
        3,
        tuple(record.mean),
        tuple(record.std),
        record.interpolation.value,
        f"torchvision's {weights}",
    )
    preprocessing = spec.preprocessing(recorded)

    def wrap(module: Any) -> Encoder:
        linear = [x for x in module.modules() if isinstance(x, torch.nn.Linear)]
        spec.check(bool(linear), "a classifier that ends in a linear layer")
        seen = []
        linear[-1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))

        def read(images: Any) -> Any:
            seen.clear()
            module(images)
            return seen.pop()

        function = torch_modules.as_function(module, read)
        return Encoder(spec.text, function, preprocessing, untrained=untrained)

    def untrained() -> Encoder:
        return wrap(torch_modules.seeded(lambda: make(None)))

    return untrained() if spec.is_random else wrap(make(weights))
