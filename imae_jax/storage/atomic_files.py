"""Atomic reading and writing of a run's files.

Mounts of buckets and shares lack some operations of a disk. A file is written without
them, and atomically where the system can rename; what is lacking is logged once.
"""

import contextlib
import errno
import functools
import glob
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from imae_jax.distributed import processes
from imae_jax.errors import UserError

logger = logging.getLogger(__name__)

# Errors by which file systems refuse what they do not support.
UNSUPPORTED = {
    getattr(errno, name)
    for name in ("EPERM", "EACCES", "ENOTSUP", "EOPNOTSUPP", "ENOSYS", "EINVAL", "ENOTTY")
} | {errno.ENOLCK, errno.EXDEV}

# In the name of what is being written, before random letters.
UNFINISHED = ".writing-"
# Seconds after which such a file or folder that has not changed was left by a process that
# was killed.
ABANDONED = 24 * 3600

# Files of a workdir beside its checkpoints.
CONFIG_FILE = "config.json"
EVAL_FILE = "eval.json"
SETTINGS_FILE = "eval_settings.json"
# Its entry {evaluator: the reason} of those that eval.json lacks; metrics have a slash.
LEFT_OUT = "left_out"


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file atomically: a reader sees the old data or the new, never a mixture.

    The first process writes; all return when the file is there.
    """
    if processes.is_first():
        with naming(path):
            _replace(path, data)
    processes.wait(f"write {path}")


def _replace(path: Path, data: bytes) -> None:
    prefix = f".{path.name}{UNFINISHED}"
    remove_abandoned(path.parent, prefix)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=prefix)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            sync(file)
        set_mode(temporary, 0o644)
        replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Context whose errors of a disk name the file; those of a write name none."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def remove_abandoned(folder: Path, prefix: str) -> None:
    """Removes files and folders of this prefix that killed processes left half written."""
    for path in folder.glob(f"{glob.escape(prefix)}*"):
        with contextlib.suppress(OSError):  # another process was first
            if time.time() - path.stat().st_mtime > ABANDONED:
                _remove(path)


@contextlib.contextmanager
def without(consequence: str) -> Iterator[None]:
    """Context that continues where a file system does not support what is done in it.

    Args:
      consequence: what is lacking then, in words; logged once in a process.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        _log_once(f"{consequence}: this file system refuses it ({error.strerror})")


@functools.cache
def _log_once(text: str) -> None:
    logger.warning(text)


def sync(file: IO[bytes]) -> None:
    """Flushes an open file to the disk, where the file system can."""
    file.flush()
    with without("files may be lost when the machine stops, not when the program does"):
        os.fsync(file.fileno())


def set_mode(path: str | Path, mode: int) -> None:
    """Sets the permissions of a file or folder, where the file system can."""
    with without("files keep the permissions that they were given"):
        os.chmod(path, mode)


def replace(temporary: str | Path, path: Path) -> None:
    """Renames a file or folder, or copies it where the file system cannot rename.

    Raises:
      OSError: if neither is possible; nothing half written is left.
    """
    temporary = Path(temporary)
    with without("files are copied to their place, so a reader may see one half written"):
        os.replace(temporary, path)
    if temporary.exists():
        _copy(temporary, path)
        _remove(temporary)


def _copy(source: Path, target: Path) -> None:
    """Copies the contents of a file or folder, and neither times nor permissions."""
    is_folder = source.is_dir()
    with contextlib.ExitStack() as stack:
        if is_folder:
            target.mkdir(exist_ok=True)
        else:
            file = stack.enter_context(open(target, "wb"))
        try:
            if is_folder:
                for path in source.iterdir():
                    _copy(path, target / path.name)
            else:
                file.write(source.read_bytes())
                sync(file)
        except BaseException:
            _remove(target)
            raise


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def write_text(path: Path, text: str) -> None:
    """Writes `text` as UTF-8, atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as JSON, atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Reads a JSON file of a run; raises UserError if it is missing or broken."""
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; is {path.parent} a run?") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Context with a temporary folder, renamed to `path` on success, else deleted."""
    parent, prefix = path.absolute().parent, f".{path.name}{UNFINISHED}"
    remove_abandoned(parent, prefix)
    with naming(path):
        temporary = Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
        try:
            yield temporary
            set_mode(temporary, 0o755)
            replace(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
