"""PyTorch modules as functions on NumPy images."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from imae_jax.encoders.encoder import import_library, reason
from imae_jax.errors import UserError


def as_function(module: Any, read: Callable[[Any], Any]) -> Callable[[np.ndarray], Any]:
    """Returns a function of preprocessed images [B, H, W, C], in evaluation mode.

    Args:
      module: the PyTorch module; moved to the GPU if there is one.
      read: tensor [B, C, H, W] -> features.
    """
    torch = import_library("torch", "torch")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    module.eval().to(device)

    def function(images: np.ndarray) -> Any:
        with torch.inference_mode():
            return read(torch.from_numpy(images).permute(0, 3, 1, 2).to(device))

    return function


def seeded(make: Callable[[], Any]) -> Any:
    """Calls a function that draws random weights, the same in every call."""
    torch = import_library("torch", "torch")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make()


def opened(text: str, make: Callable[[], Any]) -> Any:
    """Calls a library's function; its error is raised as a UserError in one line."""
    try:
        return make()
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"invalid encoder={text!r}: {reason(error)}") from error


def load_arrays(text: str, module: Any, arrays: Mapping[str, np.ndarray]) -> list[str]:
    """Loads arrays into a module; returns the names of those that it does not have.

    Raises:
      UserError: if one of the module's is missing, or has another shape.
    """
    torch = import_library("torch", text)
    own = module.state_dict()
    for name, tensor in own.items():
        if name not in arrays or tuple(tensor.shape) != arrays[name].shape:
            has = list(arrays[name].shape) if name in arrays else "missing"
            raise UserError(
                f"invalid encoder={text!r}: the checkpoint's {name} is {has}; it must be "
                f"{list(tensor.shape)}"
            )
    module.load_state_dict({name: torch.as_tensor(arrays[name]) for name in own})
    return sorted(arrays.keys() - own.keys())


def tokens_of(features: Any, width: int) -> Any:
    """Returns [B, D] and [B, T, D] as they are, and maps as tokens in raster order.

    Args:
      features: [B, D], [B, T, D], [B, D, h, w] or [B, h, w, D].
      width: D.
    """
    if features.ndim != 4:
        return features
    if features.shape[1] == width:
        features = features.permute(0, 2, 3, 1)
    return features.reshape(len(features), -1, width)
