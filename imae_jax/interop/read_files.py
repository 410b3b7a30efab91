"""Reads arrays from files, whose format is detected from their content.

Nothing in a file is executed: PyTorch files are read with `weights_only`.
"""

import argparse
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes  # noqa: F401  (bfloat16 for safetensors)
import numpy as np
import safetensors

from imae_jax.errors import UserError

_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"  # PyTorch's formats, since 1.6 and before
_WRAPPERS = ("model", "state_dict")  # keys of the weights in training scripts' files


class FileContents(NamedTuple):
    """FileContents of a weights file.

    Attributes:
      arrays: arrays by the file's own names.
      metadata: metadata of a safetensors file.
      config: `config.json` of a Hugging Face folder, with its `preprocessor_config`.
      args: arguments of the training script, if stored.
    """

    arrays: dict[str, np.ndarray]
    metadata: Mapping[str, str] = {}
    config: Mapping[str, Any] = {}
    args: Mapping[str, Any] = {}


def read(path: Path) -> FileContents:
    """Reads a safetensors or PyTorch file, or a Hugging Face folder.

    Raises:
      UserError: if it is neither, is incomplete, or holds more than arrays.
    """
    if path.is_dir():
        return _read_folder(path)
    try:
        with open(path, "rb") as file:
            head = file.read(9)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    # First: the header's length, 8 bytes, may begin as a pickle does.
    if head[4:] == b"\0\0\0\0{":
        return _read_safetensors(path)
    if head.startswith((_ZIP, _PICKLE)):
        return _read_torch(path)
    raise UserError(
        f"{path} is no checkpoint: it begins like neither a safetensors file nor one of "
        "PyTorch's"
    )


def _read_safetensors(path: Path) -> FileContents:
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
            return FileContents(
                arrays, metadata, args=json.loads(metadata.get("args", "{}"))
            )
    # TypeError, AttributeError: types that NumPy does not have.
    except (
        safetensors.SafetensorError,
        AttributeError,
        TypeError,
        ValueError,
        OSError,
    ) as error:
        raise UserError(f"{path} is no whole safetensors file: {error}") from None


def _read_folder(path: Path) -> FileContents:
    if not (path / "config.json").exists():
        raise UserError(f"{path} holds no config.json: it is no folder of Hugging Face's")
    stated = _read_json(path / "config.json")
    if stated.get("model_type") != "vit_mae":
        kind = stated.get("model_type", "none that is named")
        raise UserError(f"{path} holds a model of type {kind!r}; it must be 'vit_mae'")
    if (path / "preprocessor_config.json").exists():
        stated["preprocessor_config"] = _read_json(path / "preprocessor_config.json")
    weights = path / "model.safetensors"
    if not weights.exists():
        raise UserError(f"{path} holds no model.safetensors")
    return _read_safetensors(weights)._replace(config=stated)


def _read_json(path: Path) -> dict:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} holds no JSON object")
    return found


def _read_torch(path: Path) -> FileContents:
    torch = import_torch(f"{path} is a file of PyTorch's")
    allowed = torch.serialization.safe_globals([argparse.Namespace])
    try:
        with allowed:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = next((x for x in str(error).splitlines() if "Unsupported" in x), "")
        raise UserError(
            f"{path} is refused: it holds more than arrays, numbers and text, which would "
            f"have to be run to be read. {reason}".strip()
        ) from None
    # Any other exception means a damaged file.
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is no whole file of PyTorch's: {text}") from None
    args = found.get("args", {}) if isinstance(found, dict) else {}
    state = found
    for name in _WRAPPERS:
        if isinstance(found, dict) and isinstance(found.get(name), dict):
            state = found[name]
            break
    is_state = isinstance(state, dict) and state
    if not is_state or not all(isinstance(x, torch.Tensor) for x in state.values()):
        raise UserError(f"{path} holds no weights: a mapping of names to arrays")
    try:
        arrays = {
            str(name): (x.float() if x.is_floating_point() else x).detach().numpy()
            for name, x in state.items()
        }
    except (RuntimeError, TypeError) as error:
        raise UserError(f"{path} holds arrays of another kind: {error}") from None
    args = vars(args) if isinstance(args, argparse.Namespace) else args
    return FileContents(arrays, args=args if isinstance(args, dict) else {})


def import_torch(why: str):
    """Imports PyTorch; raises UserError if it is missing."""
    try:
        import torch
    except ImportError:
        raise UserError(f"{why}, which needs it: pip install torch") from None
    return torch
