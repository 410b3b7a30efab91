"""Disk: a run's config, checkpoints and results, written whole or not at all."""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from imae_jax import processes
from imae_jax.errors import UserError

# What a workdir holds beside its checkpoints.
CONFIG_FILE = "config.json"
EVAL_FILE = "eval.json"
SETTINGS_FILE = "eval_settings.json"

# The pytrees of arrays that a checkpoint can hold.
ARRAYS = ("params", "opt_state", "batch_stats")


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file atomically: a reader sees the old data or the new, never a part.

    Of several processes the first writes; when any of them returns, the file is there.
    """
    if processes.is_first():
        _replace(path, data)
    processes.wait(f"write {path}")


def _replace(path: Path, data: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def write_text(path: Path, text: str) -> None:
    """Writes `text` as UTF-8, atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as JSON, atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Reads a JSON file of a run; raises UserError if it is missing or broken."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; is {path.parent} a run?") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def flatten(tree: Mapping, prefix: str = "") -> dict[str, Any]:
    """Nested mappings -> {"a.b.c": value}."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def tree_leaves(tree) -> dict[str, Any]:
    """A pytree's leaves by path, such as `params/encoder/class_token`."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in leaves
    }


def tree_differences(expected, found) -> list[str]:
    """Compares two trees leaf by leaf: what is missing, unexpected or of another form."""
    expected, found = tree_leaves(expected), tree_leaves(found)
    lines = [f"missing {name}" for name in expected.keys() - found.keys()]
    lines += [f"unexpected {name}" for name in found.keys() - expected.keys()]
    for name in expected.keys() & found.keys():
        forms = [
            f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"
            for leaf in (found[name], expected[name])
        ]
        if forms[0] != forms[1]:
            lines.append(f"{name} is {forms[0]}, should be {forms[1]}")
    return sorted(lines)


def check_same_tree(expected, found, what: str) -> None:
    """Raises UserError with the differences, if there are any."""
    lines = tree_differences(expected, found)
    if lines:
        shown = "; ".join(lines[:8])
        more = f"; and {len(lines) - 8} more" if len(lines) > 8 else ""
        raise UserError(f"{what} does not fit the model: {shown}{more}")


def digest(params) -> str:
    """SHA-256 of all parameters: names, types, shapes and values."""
    sha = hashlib.sha256()
    for name, leaf in sorted(tree_leaves(params).items()):
        leaf = np.asarray(leaf)
        sha.update(f"{name} {leaf.dtype} {leaf.shape}\n".encode())
        sha.update(np.ascontiguousarray(leaf).tobytes())
    return sha.hexdigest()


class Checkpoints:
    """The checkpoints of one run, `workdir/checkpoints/<step>`, kept by orbax.

    Each holds arrays, by the names in ARRAYS, and `meta` (JSON). Use as a context manager:
    leaving it waits for the last save and reports its failure.
    """

    def __init__(self, workdir: Path, keep: int | None = None):
        """Opens a run's checkpoints; with `keep`, to write and to keep the newest."""
        policies = ocp.checkpoint_managers
        self._directory = (workdir / "checkpoints").absolute()
        if keep is None and not self._directory.is_dir():
            raise UserError(f"{workdir} holds no checkpoints")
        self._manager = ocp.CheckpointManager(
            self._directory,
            options=ocp.CheckpointManagerOptions(
                create=keep is not None,
                preservation_policy=policies.LatestN(keep) if keep else None,
            ),
            item_names=(*ARRAYS, "meta"),
            item_handlers={name: ocp.StandardCheckpointHandler() for name in ARRAYS}
            | {"meta": ocp.JsonCheckpointHandler()},
        )

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if not processes.is_loss(error):  # else nobody is there to finish the save with
            self._manager.close()

    def latest_step(self) -> int | None:
        """The newest complete checkpoint's step, or None."""
        return self._manager.latest_step()

    def save(self, step: int, arrays: Mapping[str, Any], meta: Mapping) -> None:
        """Starts saving pytrees of arrays and a JSON mapping as checkpoint `step`.

        Args:
          step: its number.
          arrays: by some of the names in ARRAYS; none of them empty.
          meta: what JSON can hold.
        """
        items = {name: ocp.args.StandardSave(tree) for name, tree in arrays.items()}
        self._manager.save(
            step,
            args=ocp.args.Composite(**items, meta=ocp.args.JsonSave(dict(meta))),
        )

    def meta(self, step: int) -> dict:
        """What was saved beside the arrays."""
        args = ocp.args.Composite(meta=ocp.args.JsonRestore())
        return self._manager.restore(step, args=args)["meta"]

    def restore(self, step: int, **like) -> dict[str, Any]:
        """Restores some of the arrays.

        Args:
          step: which checkpoint.
          **like: for each item wanted, a tree of arrays or `jax.ShapeDtypeStruct`s whose
            form and sharding the restored one takes.
        Raises:
          UserError: if an item's tree, shapes or types differ from what is wanted.
        """
        stored = self._manager.item_metadata(step)
        for item, tree in like.items():
            where = f"{item} in {self._directory / str(step)}"
            check_same_tree(tree, stored[item], where)
        args = {
            item: ocp.args.StandardRestore(
                jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)
            )
            for item, tree in like.items()
        }
        restored = self._manager.restore(step, args=ocp.args.Composite(**args))
        return {item: restored[item] for item in like}
