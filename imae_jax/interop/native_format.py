"""Our own weights format: safetensors by our names, with config and metadata."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_dtypes
import numpy as np
import safetensors.numpy
from ml_collections import ConfigDict

from imae_jax.errors import UserError
from imae_jax.interop import read_files
from imae_jax.interop.read_files import FileContents
from imae_jax.models.classifier import Classifier
from imae_jax.models.imae import IMAE
from imae_jax.models.mae import MAE
from imae_jax.storage import atomic_files, pytrees, workdir
from imae_jax.training import trained_run
from imae_jax.training.stored_model import stored_model

FORMAT = "imae_jax 1"
DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}
# Keys that hold paths, beside `data.dir` (`init` may be "teacher", which is none).
PATHS = ("init", "teacher.init", "evals.separability.teacher", "data.files.label_maps")
BASELINE_RUNS = "evals.separability.baseline_runs."
# Keys of the run's meta that are exported.
META = ("image_shape", "mean", "std", "class_names", "sizes", "teacher", "step", "versions")


class Released(NamedTuple):
    """FileContents of one of our weights files.

    Attributes:
      config: config of the run, without paths.
      arrays: `params` and, for linear probes, `batch_stats`; float32.
      meta: see `META`.
      digest: SHA-256 of the arrays as stored in the file.
    """

    config: ConfigDict
    arrays: dict[str, Any]
    meta: dict
    digest: str


def write(path: Path, run: trained_run.TrainedRun, dtype: str) -> str:
    """Writes a run's weights; returns their digest."""
    arrays = {"params": run.params} | (
        {"batch_stats": run.batch_stats} if run.batch_stats else {}
    )
    arrays = jax.tree.map(lambda x: np.asarray(x).astype(DTYPES[dtype]), arrays)
    meta = {key: run.meta[key] for key in META if key in run.meta} | {"step": run.step}
    config = workdir.as_json(without_paths(run.config))
    metadata = {
        "format": FORMAT,
        "config": json.dumps(config),
        "meta": json.dumps(meta),
        "sha256": pytrees.digest(arrays),
    }
    metadata["sha256_of_text"] = _digest_of_text(metadata)
    leaves = {k: np.ascontiguousarray(x) for k, x in pytrees.tree_leaves(arrays).items()}
    atomic_files.write_bytes(path, safetensors.numpy.save(leaves, metadata))
    return metadata["sha256"]


def read(contents: FileContents, path: Path) -> Released:
    """Reads and verifies a file written by `write`.

    Raises:
      UserError: if it is of another version, or damaged.
    """
    metadata = contents.metadata
    if metadata["format"] != FORMAT:
        raise UserError(
            f"{path} is of format {metadata['format']!r}; this version reads {FORMAT!r}"
        )
    if metadata.get("sha256_of_text") != _digest_of_text(metadata):
        raise UserError(f"{path} is damaged: its config or meta is not what was written")
    stated = {
        key: read_files.parse_object(metadata.get(key, ""), f"{key} in {path}")
        for key in ("config", "meta")
    }
    try:
        arrays = pytrees.nested(contents.arrays)
    except ValueError as error:
        raise UserError(f"{path} is damaged: the names of its arrays: {error}") from None
    try:
        config = workdir.config_of(stated["config"])
        network = stored_model(config, stated["meta"])
        _check_arrays(network, contents.arrays)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    like = trained_run.abstract_variables(network)
    arrays = jax.tree.map(lambda x: x.astype(np.float32), arrays)
    pytrees.check_same_tree(like, arrays, str(path))
    return Released(config, arrays, stated["meta"], metadata["sha256"])


def _check_arrays(network: MAE | IMAE | Classifier, leaves: Mapping[str, Any]) -> None:
    """Raises UserError for another model's sizes, before it is built, or odd values."""
    parts = [("encoder", network.encoder_size, "class_token")]
    if network.has_decoder:
        parts.append(("decoder", network.decoder_size, "mask_token"))
    for part, size, token in parts:
        prefix = f"params/{part}/transformer/block_"
        blocks = {name.split("/")[3] for name in leaves if name.startswith(prefix)}
        if len(blocks) != size.depth:
            names = (f"block_{layer:02d}" for layer in range(size.depth))
            first = next((name for name in names if name not in blocks), None)
            lacks = f": missing params/{part}/transformer/{first}" if first else ""
            raise UserError(
                f"its config says {part} depth {size.depth}, its arrays say "
                f"{len(blocks)}{lacks}"
            )
        shape = getattr(leaves.get(f"params/{part}/{token}"), "shape", None)
        if shape != (size.width,):
            raise UserError(
                f"its config says {part} width {size.width}, its {token} is {shape}"
            )
    for name, x in leaves.items():
        if x.dtype not in DTYPES.values():
            raise UserError(f"{name} is {x.dtype}; must be {' or '.join(DTYPES)}")
        if not np.all(np.isfinite(x)):
            raise UserError(f"{name} holds values that are not finite")


def _digest_of_text(metadata: Mapping[str, str]) -> str:
    text = "\n".join(metadata.get(name, "") for name in ("config", "meta"))
    return hashlib.sha256(text.encode()).hexdigest()


def without_paths(config: ConfigDict) -> ConfigDict:
    """Returns the config without the paths of its machine."""
    config = config.copy_and_resolve_references()
    config.data.dir = "data"
    for key, value in pytrees.flatten(workdir.as_json(config)).items():
        if (key in PATHS or key.startswith(BASELINE_RUNS)) and value != "teacher":
            config.update_from_flattened_dict({key: ""})
    return config
