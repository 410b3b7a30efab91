"""Checkpoints: saved whole or not at all, and never half restored."""

import contextlib
import hashlib
import itertools
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from imae_jax.distributed import processes
from imae_jax.errors import UserError
from imae_jax.storage.pytrees import check_same_tree, checksums, tree_leaves

logger = logging.getLogger(__name__)

# The pytrees of arrays that a checkpoint can hold.
ARRAYS = ("params", "opt_state", "batch_stats")


class Damaged(UserError):
    """A checkpoint cannot be read, or holds other values than were saved."""


class Checkpoints:
    """The checkpoints of one run, `workdir/checkpoints/<step>`, kept by orbax.

    Each holds arrays, by the names in ARRAYS, and `meta` (JSON), and the checksums of
    both. Use as a context manager: leaving it waits for the last save and reports its
    failure.
    """

    def __init__(self, workdir: Path, keep: int | None = None, keep_best: int = 0):
        """Opens a run's checkpoints, to read them.

        Args:
          workdir: the run's.
          keep: to write, too, and to keep so many of the newest.
          keep_best: and so many of those with the lowest loss.
        """
        self._directory = (workdir / "checkpoints").absolute()
        is_writer = keep is not None
        if not is_writer and not self._directory.is_dir():
            raise UserError(f"{workdir} holds no checkpoints")
        policies = ocp.checkpoint_managers
        kept = [policies.LatestN(keep)]
        if keep_best:
            by_loss = dict(get_metric_fn=lambda metrics: metrics["loss"], reverse=True)
            by_loss["keep_checkpoints_without_metrics"] = False
            kept.append(policies.BestN(n=keep_best, **by_loss))
        self._manager = ocp.CheckpointManager(
            self._directory,
            options=ocp.CheckpointManagerOptions(
                create=is_writer,
                cleanup_tmp_directories=is_writer,  # what a killed run left half written
                preservation_policy=policies.AnyPreservationPolicy(kept)
                if is_writer
                else None,
            ),
            item_names=(*ARRAYS, "meta"),
            item_handlers={name: ocp.StandardCheckpointHandler() for name in ARRAYS}
            | {"meta": ocp.JsonCheckpointHandler()},
        )

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if processes.is_loss(error):  # nobody is there to finish the save with
            return
        with self._saying_why():
            self._manager.close()

    @contextlib.contextmanager
    def _saying_why(self) -> Iterator[None]:
        """A save that fails, perhaps in the background, does so in one line."""
        try:
            yield
        except Exception as error:
            if processes.is_loss(error):
                raise
            is_full = shutil.disk_usage(self._directory).free == 0
            is_full |= "space left" in str(error)
            reason = "no space is left on the disk" if is_full else _in_one_line(error)
            raise UserError(f"{self._directory} cannot be written: {reason}") from error

    def steps(self) -> list[int]:
        """The steps of all complete checkpoints, the newest first."""
        return sorted(self._manager.all_steps(), reverse=True)

    def best_step(self) -> int:
        """That of the lowest loss, among those that are not damaged.

        Raises:
          UserError: if none says its loss, as those of imported weights.
        """
        losses = {}
        for step in self.steps():
            with contextlib.suppress(Damaged):
                if (loss := self.meta(step).get("loss")) is not None:
                    losses[step] = loss
        if not losses:
            raise UserError(f"{self._directory}: no checkpoint says its loss; name a step")
        return min(losses, key=losses.get)

    def save(self, step: int, arrays: Mapping[str, Any], meta: Mapping) -> None:
        """Starts saving pytrees of arrays and a JSON mapping as checkpoint `step`.

        Args:
          step: its number.
          arrays: by some of the names in ARRAYS; none of them empty.
          meta: what JSON can hold; with `loss`, by which the best are told.
        """
        items = {name: ocp.args.StandardSave(tree) for name, tree in arrays.items()}
        meta = dict(meta) | {"checksums": _checksums(arrays)}
        meta["sha256"] = _sha256(meta)
        with self._saying_why():
            self._manager.save(
                step,
                args=ocp.args.Composite(**items, meta=ocp.args.JsonSave(meta)),
                metrics={"loss": meta["loss"]} if "loss" in meta else None,
            )

    def newest(self, read: Callable[[int], Any]) -> tuple[int, Any] | None:
        """The newest checkpoint that is not damaged; each that is gets named.

        Args:
          read: what is wanted of a step, by `meta` and `restore`.
        Returns:
          The step and what `read` gave; None if there are no checkpoints.
        Raises:
          UserError: if all are damaged.
        """
        damaged = {}
        for step in self.steps():
            try:
                found = read(step)
            except Damaged as error:
                if not (self._directory / str(step)).exists():
                    # The run goes on, and has replaced it by a newer one.
                    self._manager.reload()
                    return self.newest(read)
                damaged[step] = error
                continue
            for error in damaged.values():
                logger.warning(f"{error}; the one before is taken")
            return step, found
        if damaged:
            where = f"{self._directory}/{{{','.join(map(str, damaged))}}}"
            raise UserError(
                f"{where}: all checkpoints are damaged ({damaged[max(damaged)]}). To begin "
                "again, take another workdir"
            )
        return None

    def set_aside(self, after: int) -> None:
        """Renames all checkpoints after step `after`, the damaged ones, to make room."""
        for step in self.steps():
            if step > after and processes.is_first():
                path = self._directory / str(step)
                path.rename(_unused(path.with_name(f"damaged-{step}")))
        processes.wait("damaged checkpoints are set aside")
        self._manager.reload()

    def meta(self, step: int) -> dict:
        """What was saved beside the arrays; raises Damaged."""
        with self._reading(step):
            args = ocp.args.Composite(meta=ocp.args.JsonRestore())
            meta = self._manager.restore(step, args=args)["meta"]
        # Checkpoints of an earlier version have no checksums.
        if meta.get("sha256", (sha := _sha256(meta))) != sha:
            raise Damaged(f"checkpoint {self._directory / str(step)} is damaged: its meta")
        return meta

    def restore(self, step: int, **like) -> dict[str, Any]:
        """Restores some of the arrays.

        Args:
          step: which checkpoint.
          **like: for each item wanted, a tree of arrays or `jax.ShapeDtypeStruct`s whose
            form and sharding the restored one takes.
        Raises:
          Damaged: if it cannot be read, or holds other values than were saved.
          UserError: if an item's tree, shapes or types differ from what is wanted.
        """
        meta = self.meta(step)
        with self._reading(step):
            stored = self._manager.item_metadata(step)
            trees = {item: dict(tree_leaves(stored[item])) for item in like}
        for item, tree in like.items():
            if not trees[item] and tree_leaves(tree):
                where = self._directory / str(step)
                raise Damaged(f"checkpoint {where} is damaged: it lists no {item}")
            where = f"{item} in {self._directory / str(step)}"
            check_same_tree(tree, stored[item], where)
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
        return found

    @contextlib.contextmanager
    def _reading(self, step: int) -> Iterator[None]:
        """Whatever a library raises over a broken file means one thing."""
        try:
            yield
        except Exception as error:
            is_damage = not isinstance(error, MemoryError | OSError)
            is_damage |= isinstance(error, FileNotFoundError)
            is_damage &= "RESOURCE_EXHAUSTED" not in str(error)
            # One of several processes cannot decide alone to read another checkpoint.
            kind = Damaged if is_damage and jax.process_count() == 1 else UserError
            where = self._directory / str(step)
            reason = _in_one_line(error)
            raise kind(f"checkpoint {where} cannot be read: {reason}") from error


def _checksums(arrays: Mapping[str, Any]) -> dict[str, int]:
    """By item and path, such as `params/encoder/class_token`."""
    sums = jax.device_get(checksums(dict(arrays)))
    return {name: int(value) for name, value in tree_leaves(sums).items()}


def _sha256(meta: Mapping) -> str:
    """Of all of it but this."""
    text = json.dumps({k: v for k, v in meta.items() if k != "sha256"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _in_one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}"


def _unused(path: Path) -> Path:
    """The path, or with a number behind it, where nothing lies yet."""
    paths = (path.with_name(f"{path.name}-{number}") for number in itertools.count(2))
    return next(p for p in itertools.chain([path], paths) if not p.exists())
