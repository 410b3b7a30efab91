"""Checkpoints with atomic saves and verified restores."""

import contextlib
import hashlib
import itertools
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import jax
import orbax.checkpoint as ocp

from imae_jax.distributed import processes, sharding
from imae_jax.errors import UserError, describe
from imae_jax.storage import atomic_files
from imae_jax.storage.pytrees import (
    check_same_tree,
    checksums,
    is_finite,
    tree_leaves,
)

logger = logging.getLogger(__name__)

# Names of the pytrees that a checkpoint can hold.
ARRAYS = ("params", "opt_state", "batch_stats")


class Damaged(UserError):
    """Raised if a checkpoint cannot be read, or has other values or no finite ones."""


class Checkpoints:
    """Checkpoints of one run, `workdir/checkpoints/<step>`, managed by orbax.

    Each holds pytrees named in `ARRAYS`, `meta` (JSON), and the checksums of both. Use as
    a context manager: leaving it waits for the last save and reports its failure.
    """

    def __init__(self, workdir: Path, keep: int | None = None, keep_best: int = 0):
        """Opens the checkpoints of a run.

        Args:
          workdir: folder of the run.
          keep: number of newest checkpoints to keep; None: open for reading only.
          keep_best: number of checkpoints with the lowest loss to keep as well.
        """
        self._directory = (workdir / "checkpoints").absolute()
        is_writer = keep is not None
        if not is_writer and not self._directory.is_dir():
            raise UserError(f"{workdir} holds no checkpoints")
        policies = ocp.checkpoint_managers
        kept, ranked = [policies.LatestN(keep)], {}
        if keep_best:
            by_loss = dict(get_metric_fn=lambda metrics: metrics["loss"], reverse=True)
            by_loss["keep_checkpoints_without_metrics"] = False
            kept.append(policies.BestN(n=keep_best, **by_loss))
            # Without a function here, losses are not stored, and a resumed run knows none.
            ranked = dict(best_fn=lambda metrics: metrics["loss"], best_mode="min")
        self._manager = ocp.CheckpointManager(
            self._directory,
            options=ocp.CheckpointManagerOptions(
                create=is_writer,
                cleanup_tmp_directories=is_writer,  # unfinished saves of a killed run
                preservation_policy=policies.AnyPreservationPolicy(kept)
                if is_writer
                else None,
                **ranked,
            ),
            item_names=(*ARRAYS, "meta"),
            item_handlers={name: ocp.StandardCheckpointHandler() for name in ARRAYS}
            | {"meta": ocp.JsonCheckpointHandler()},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: object, error: BaseException | None, traceback: object
    ) -> None:
        if processes.is_connection_lost(error):  # the save cannot finish without the others
            return
        with self._saying_why():
            self._manager.close()

    @contextlib.contextmanager
    def _saying_why(self) -> Iterator[None]:
        """Turns errors of a save, including background ones, into a UserError."""
        try:
            yield
        except Exception as error:
            if processes.is_connection_lost(error):
                raise
            is_full = shutil.disk_usage(self._directory).free == 0
            is_full |= "space left" in str(error)
            reason = "no space is left on the disk" if is_full else describe(error)
            raise UserError(f"{self._directory} cannot be written: {reason}") from error

    def steps(self) -> list[int]:
        """Steps of all complete checkpoints, newest first."""
        return sorted(self._manager.all_steps(), reverse=True)

    def best_step(self) -> int:
        """Step of the undamaged checkpoint with the lowest loss.

        Raises:
          UserError: if none has a loss, as for imported weights.
        """
        losses = {}
        for step in self.steps():
            with contextlib.suppress(Damaged):
                if (loss := self.meta(step).get("loss")) is not None:
                    losses[step] = loss
        if not losses:
            raise UserError(f"{self._directory}: no checkpoint says its loss; name a step")
        return min(losses, key=losses.__getitem__)

    def save(self, step: int, arrays: Mapping[str, Any], meta: Mapping) -> None:
        """Starts saving pytrees of arrays and a JSON mapping as checkpoint `step`.

        Args:
          step: number of training steps.
          arrays: nonempty pytrees by names in `ARRAYS`.
          meta: JSON-serializable; its `loss`, if any, ranks the best checkpoints.
        Raises:
          UserError: if a value is NaN or infinite, or nothing can be written.
        """
        if bad := _not_finite(arrays):
            raise UserError(f"step {step} is not saved: {bad} has NaN or infinite values")
        items = {
            name: ocp.args.StandardSave(jax.tree.map(sharding.first_copy, tree))
            for name, tree in arrays.items()
        }
        meta = dict(meta) | {"checksums": _checksums(arrays)}
        meta["sha256"] = _sha256(meta)
        with self._saying_why():
            self._manager.save(
                step,
                args=ocp.args.Composite(**items, meta=ocp.args.JsonSave(meta)),
                metrics={"loss": meta["loss"]} if "loss" in meta else None,
            )

    def newest(self, read: Callable[[int], Any]) -> tuple[int, Any]:
        """Reads the newest undamaged checkpoint; logs damaged ones.

        Args:
          read: reads a step with `meta` and `restore`.
        Returns:
          The step and the result of `read`.
        Raises:
          UserError: if there are none, or all are damaged.
        """
        damaged = {}
        for step in self.steps():
            try:
                found = read(step)
            except Damaged as error:
                if not (self._directory / str(step)).exists():
                    # The run is active and has replaced it by a newer one.
                    self._manager.reload()
                    return self.newest(read)
                damaged[step] = error
                continue
            for earlier in damaged.values():
                logger.warning(f"{earlier}; the one before is taken")
            return step, found
        if damaged:
            where = f"{self._directory}/{{{','.join(map(str, damaged))}}}"
            raise UserError(
                f"{where}: all checkpoints are damaged ({damaged[max(damaged)]}). To begin "
                "again, take another workdir"
            )
        raise UserError(f"{self._directory} holds no finished checkpoint")

    def set_aside(self, after: int) -> None:
        """Renames the checkpoints after step `after`, which are damaged, to make room."""
        for step in self.steps():
            if step > after and processes.is_first():
                path = self._directory / str(step)
                atomic_files.replace(path, _unused(path.with_name(f"damaged-{step}")))
        processes.wait("damaged checkpoints are set aside")
        self._manager.reload()

    def meta(self, step: int) -> dict:
        """Reads the JSON saved with the arrays; raises Damaged."""
        with self._reading(step):
            args = ocp.args.Composite(meta=ocp.args.JsonRestore())
            meta = self._manager.restore(step, args=args)["meta"]
        if not _is_whole(meta):
            raise Damaged(f"checkpoint {self._directory / str(step)} is damaged: its meta")
        return meta

    def restore(self, step: int, **like: Any) -> dict[str, Any]:
        """Restores some of the pytrees.

        Args:
          step: step of the checkpoint.
          **like: for each pytree to restore, arrays or `jax.ShapeDtypeStruct`s with its
            structure, shapes, types and sharding.
        Raises:
          Damaged: if it cannot be read, its values differ from those saved, or are not
            finite.
          UserError: if structure, shapes or types differ from `like`.
        """
        meta = self.meta(step)
        with self._reading(step):
            stored = self._manager.item_metadata(step)
            trees = {item: dict(tree_leaves(stored[item])) for item in like}
        for item, tree in like.items():
            if not trees[item] and tree_leaves(tree):
                where = self._directory / str(step)
                raise Damaged(f"checkpoint {where} is damaged: it lists no {item}")
            check_same_tree(tree, stored[item], f"{item} in {self._directory / str(step)}")
        args = {
            item: ocp.args.StandardRestore(
                jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)
            )
            for item, tree in like.items()
        }
        with self._reading(step):
            restored = self._manager.restore(step, args=ocp.args.Composite(**args))
        found = {item: restored[item] for item in like}
        for name, value in _checksums(found).items():
            if value != meta.get("checksums", {}).get(name, value):
                where = self._directory / str(step)
                raise Damaged(f"checkpoint {where} is damaged: the values of {name}")
        if bad := _not_finite(found):
            where = self._directory / str(step)
            raise Damaged(f"checkpoint {where}: {bad} has NaN or infinite values")
        return found

    @contextlib.contextmanager
    def _reading(self, step: int) -> Iterator[None]:
        """Turns errors of the libraries into Damaged or, for I/O and memory, UserError."""
        try:
            yield
        except Exception as error:
            is_damage = not isinstance(error, MemoryError | OSError)
            is_damage |= isinstance(error, FileNotFoundError)
            is_damage &= "RESOURCE_EXHAUSTED" not in str(error)
            # A single process of several must not fall back to another checkpoint.
            kind = Damaged if is_damage and jax.process_count() == 1 else UserError
            where = self._directory / str(step)
            reason = describe(error)
            raise kind(f"checkpoint {where} cannot be read: {reason}") from error


def _checksums(arrays: Mapping[str, Any]) -> dict[str, int]:
    """Checksums by item and path, such as `params/encoder/class_token`."""
    sums = jax.device_get(checksums(dict(arrays)))
    return {name: int(value) for name, value in tree_leaves(sums).items()}


def _not_finite(arrays: Mapping[str, Any]) -> str:
    """Name of the first pytree with a value that is NaN or infinite, else ""."""
    return next((name for name, tree in arrays.items() if not is_finite(tree)), "")


def _is_whole(meta: Any) -> bool:
    """True if metadata are as saved; those of an earlier version have no checksums."""
    if not isinstance(meta, dict):
        return False
    is_old = not meta.keys() & {"checksums", "sha256"}
    return is_old or meta.get("sha256") == _sha256(meta)


def _sha256(meta: Mapping) -> str:
    """SHA-256 of everything in `meta` but `sha256` itself."""
    text = json.dumps({k: v for k, v in meta.items() if k != "sha256"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def newest_meta(workdir: Path) -> tuple[int, dict] | None:
    """Reads step and metadata of a run's newest undamaged checkpoint, without Orbax.

    Opens one small file, and no arrays; None if there is no such file.
    """
    steps = {path.parts[-3]: path for path in workdir.glob("checkpoints/*/meta/metadata")}
    for step in sorted((name for name in steps if name.isdecimal()), key=int, reverse=True):
        try:
            meta = json.loads(steps[step].read_text("utf-8"))
            if _is_whole(meta):
                return int(step), meta
        except (OSError, ValueError, RecursionError):
            continue
    return None


def _unused(path: Path) -> Path:
    """Returns the path, with a number appended if it exists."""
    paths = (path.with_name(f"{path.name}-{number}") for number in itertools.count(2))
    return next(p for p in itertools.chain([path], paths) if not p.exists())
