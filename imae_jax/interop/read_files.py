"""Reads arrays from files, whose format is detected from their content.

Nothing in a file is executed: PyTorch files are read with `weights_only`, and with inert
stand-ins for the few other types that scripts store beside weights.
"""

import io
import json
import os
import pickle
import stat
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import ml_dtypes  # noqa: F401  (bfloat16 for safetensors)
import numpy as np
import safetensors

from imae_jax.errors import UserError, one_line
from imae_jax.interop import file_kinds, nested_weights, pickle_stand_ins
from imae_jax.storage import pytrees

_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"  # PyTorch's formats, since 1.6 and before
_INDEX = ".index.json"
# Weights in a folder of Hugging Face's, in the order in which they are looked for.
_FOLDER_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
# Key of the values' SHA-256 in the metadata of the safetensors files that we write.
DIGEST = "sha256"
_MAX_COMPRESSION = 1000  # of NumPy's archives: more bytes than that are not believed


class FileContents(NamedTuple):
    """FileContents of a weights file.

    Attributes:
      arrays: arrays by the file's own names, without what precedes all of them.
      metadata: metadata of a safetensors file.
      config: `config.json` of a Hugging Face folder, with its `preprocessor_config`.
      args: arguments of the training script, if stored.
      note: a line on what was left out, see `nested_weights.Weights`.
      files: the files with arrays.
    """

    arrays: dict[str, np.ndarray]
    metadata: Mapping[str, str] = {}
    config: Mapping[str, Any] = {}
    args: Mapping[str, Any] = {}
    note: str = ""
    files: tuple[Path, ...] = ()

    @property
    def is_native(self) -> bool:
        """True if the file is in our own format."""
        return self.metadata.get("format", "").startswith("imae_jax")


def read(path: Path) -> FileContents:
    """Reads a safetensors, NumPy or PyTorch file, or a Hugging Face folder.

    Raises:
      UserError: if it is none of them, is incomplete, damaged, or holds more than arrays.
    """
    contents = _read_folder(path) if path.is_dir() else _read_file(path)
    if contents.is_native:
        return contents
    try:
        weights = nested_weights.find(contents.arrays)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    arrays = {name: _as_numpy(x, name, path) for name, x in weights.arrays.items()}
    return contents._replace(arrays=arrays, note=weights.note)


def _read_file(path: Path) -> FileContents:
    """Reads a file's arrays as they are stored: of NumPy or of PyTorch."""
    if path.name.endswith(_INDEX):
        return _read_shards(path)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would be waited for
            raise UserError(f"{path} is no checkpoint: it is no regular file")
        with open(path, "rb") as file:
            head = file.read(file_kinds.HEAD)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    # First: the header's length, 8 bytes, may begin as a pickle does.
    if head[4:9] == b"\0\0\0\0{":
        contents = _read_safetensors(path)
    elif head.startswith(_ZIP):
        contents = _read_zip(path)
    elif head.startswith(_PICKLE):
        contents = _read_torch(path)
    else:
        raise UserError(f"{path} is no checkpoint: {file_kinds.name_kind(head)}")
    return contents._replace(files=(path,))


def _read_safetensors(path: Path) -> FileContents:
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    # TypeError, AttributeError: types that NumPy does not have.
    except (
        safetensors.SafetensorError,
        AttributeError,
        TypeError,
        ValueError,
        OSError,
    ) as error:
        raise UserError(f"{path} is no whole safetensors file: {error}") from None
    args = parse_object(metadata.get("args", "{}"), f"args in {path}")
    contents = FileContents(arrays, metadata, args=args)
    # Tools that change the type of arrays may keep the digest of float32 ones.
    is_as_written = all(x.dtype == np.float32 for x in arrays.values())
    if contents.is_native or (is_as_written and DIGEST in metadata):
        if pytrees.digest(arrays) != metadata.get(DIGEST):
            raise UserError(
                f"{path} is damaged: its values have another digest than stated"
            )
    return contents


def parse_object(text: str, what: str) -> dict:
    """Parses a JSON object; raises UserError, naming `what` it is."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{what} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise UserError(f"{what} holds no JSON object")
    return found


def _read_json(path: Path) -> dict:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    return parse_object(text, str(path))


def _read_folder(path: Path) -> FileContents:
    weights = [path / f"{name}{end}" for name in _FOLDER_WEIGHTS for end in ("", _INDEX)]
    weights = [x for x in weights if x.exists()]
    has_config = (path / "config.json").exists()
    if not has_config and not (weights and weights[0].name.endswith(_INDEX)):
        raise UserError(f"{path} holds no config.json: it is no folder of Hugging Face's")
    stated = _read_json(path / "config.json") if has_config else {}
    if has_config and stated.get("model_type") != "vit_mae":
        if (path / "checkpoints").is_dir():
            raise UserError(f"{path} is a run already: it is used as it is, not imported")
        kind = stated.get("model_type", "none that is named")
        raise UserError(f"{path} holds a model of type {kind!r}; it must be 'vit_mae'")
    if has_config:
        processor = path / "preprocessor_config.json"
        stated["preprocessor_config"] = _read_json(processor) if processor.exists() else {}
    if not weights:
        names = ", ".join(sorted(x.name for x in path.iterdir())[:6])
        raise UserError(f"{path} holds no {' or '.join(_FOLDER_WEIGHTS)}, but {names}")
    return _read_file(weights[0])._replace(config=stated)


def _read_shards(path: Path) -> FileContents:
    """Reads the files that an index lists, which lie beside it."""
    places: Any = _read_json(path).get("weight_map")
    is_map = isinstance(places, dict) and places
    if not is_map or not all(isinstance(x, str) for x in places.values()):
        raise UserError(f"{path} is no index: its weight_map must map arrays to files")
    arrays: dict[str, np.ndarray] = {}
    files = [path]
    for name in sorted(set(places.values())):
        shard = path.parent / name
        if Path(name).name != name or name.endswith(_INDEX) or not shard.is_file():
            raise UserError(f"{path}: {name!r} must be a file in the same folder")
        found = _read_file(shard).arrays
        wanted = {key for key, place in places.items() if place == name}
        if odd := sorted(found.keys() ^ wanted):
            lacks = "lacks" if odd[0] in wanted else "holds, unlike the index says,"
            raise UserError(f"{shard} {lacks} {odd[0]}")
        arrays |= found
        files.append(shard)
    return FileContents(arrays, files=tuple(files))


def _read_zip(path: Path) -> FileContents:
    """Reads a ZIP archive of NumPy's or PyTorch's after verifying its checksums."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            is_numpy = bool(members) and all(x.filename.endswith(".npy") for x in members)
            # PyTorch compresses nothing.
            most = path.stat().st_size * (_MAX_COMPRESSION if is_numpy else 1)
            if sum(x.file_size for x in members) > most:
                raise UserError(f"{path} is damaged: it states more bytes than it has")
            if is_numpy:
                return FileContents(_numpy_arrays(archive))
            pickles = [x for x in members if x.filename.endswith("/data.pkl")]
            if not pickles:
                names = ", ".join(x.filename for x in members[:4]) or "nothing"
                raise UserError(f"{path} is no checkpoint: it is a ZIP archive of {names}")
            # PyTorch itself does not compare them.
            if damaged := archive.testzip():
                raise UserError(f"{path} is damaged: {damaged} has another checksum")
    except UserError:
        raise
    # All that the standard library raises for damaged archives.
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        MemoryError,
        OSError,
        RuntimeError,
        ValueError,
    ) as error:
        if "allow_pickle" in str(error):  # NumPy's words
            text = "it has arrays of Python objects, which are not loaded"
            raise UserError(f"{path} is no checkpoint: {text}") from None
        raise UserError(f"{path} is no whole ZIP archive: {error}") from None
    return _read_torch(path)


def _numpy_arrays(archive: zipfile.ZipFile) -> dict[str, np.ndarray]:
    """Reads an `.npz`; slashes in names become dots."""
    arrays = {}
    for member in archive.infolist():
        name = member.filename.removesuffix(".npy").replace("/", ".")
        data = io.BytesIO(archive.read(member))
        arrays[name] = np.lib.format.read_array(data, allow_pickle=False)
    if len(arrays) < len(archive.infolist()):
        raise UserError(f"{archive.filename} holds two arrays of one name")
    return arrays


def _read_torch(path: Path) -> FileContents:
    torch = import_torch(f"{path} is a file of PyTorch's")
    stand_ins = pickle_stand_ins.of_file(path)
    try:
        with torch.serialization.safe_globals(stand_ins):
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        reason = next((line for line in lines if "WeightsUnpickler error" in line), "")
        raise UserError(
            f"{path} is refused: it holds more than arrays, numbers and text, which would "
            f"have to be run to be read; its model.state_dict() alone can be read. {reason}"
        ) from None
    # Any other exception means a damaged file.
    except Exception as error:
        text = one_line(error)[:200]
        raise UserError(f"{path} is no whole file of PyTorch's: {text}") from None
    arrays = nested_weights.flatten(found)
    if not arrays:
        keys = ", ".join(map(str, found))[:200] if isinstance(found, dict) else found
        raise UserError(
            f"{path} holds no weights, a mapping of names to arrays, but "
            f"{type(found).__name__} of {str(keys)[:200]}"
        )
    if sum(x.numel() for x in arrays.values()) > path.stat().st_size:
        raise UserError(f"{path} is damaged: its arrays have more values than it has bytes")
    args = found.get("args") if isinstance(found, dict) else None
    args = vars(args) if isinstance(args, pickle_stand_ins.StandIn) else args
    return FileContents(arrays, args=args if isinstance(args, dict) else {})


def _as_numpy(x: Any, name: str, path: Path) -> np.ndarray:
    """Converts an array; PyTorch's floating-point types become float32."""
    if isinstance(x, np.ndarray):
        return x
    try:
        return (x.float() if x.is_floating_point() else x).detach().numpy()
    except (RuntimeError, TypeError) as error:
        text = one_line(error)[:200]
        raise UserError(f"{path} holds arrays of another kind: {name}: {text}") from None


def import_torch(why: str) -> ModuleType:
    """Imports PyTorch; raises UserError if it is missing."""
    try:
        import torch
    except ImportError:
        raise UserError(f"{why}, which needs it: pip install torch") from None
    return torch
