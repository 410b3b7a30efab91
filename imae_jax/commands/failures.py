"""Messages in one line for whatever ends a command."""

import os
import platform
import shlex
import tempfile
import traceback
from collections.abc import Sequence
from importlib import metadata

import imae_jax
from imae_jax.errors import UserError, describe, one_line
from imae_jax.runtime import PACKAGES

# Begins the message of a defect, and no other.
DEFECT = "this is a defect of imae_jax"


def explain(error: BaseException, arguments: Sequence[str]) -> str:
    """Returns one line for an exception: what is to be changed, or where a log is.

    Args:
      error: whatever a command raised.
      arguments: the command line, for the log of a defect.
    """
    said = one_line(error)
    if isinstance(error, UserError | OSError):
        return said
    # JAX's own class of errors is not imported for this; it says so in its text.
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in said:
        return f"out of memory ({said[:200]}): take a smaller model, images or batches"
    return f"{DEFECT}: {describe(error)}; {_write_log(error, arguments)}"


def _write_log(error: BaseException, arguments: Sequence[str]) -> str:
    """Writes a log of a defect; says where it is, or that it could not be written."""
    versions = [f"{name} {_version(name)}" for name in (*PACKAGES, "ml-collections")]
    lines = [
        f"command: {shlex.join(arguments)}",
        f"imae_jax {imae_jax.__version__}, Python {platform.python_version()}, "
        f"{platform.platform()}",
        ", ".join(versions),
        "",
        *traceback.format_exception(error),
    ]
    try:
        handle, path = tempfile.mkstemp(prefix="imae_jax_defect_", suffix=".log")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write("\n".join(lines))
    except OSError as refused:
        return f"no log could be written ({refused}); at {_last_place(error)}"
    return f"please report it with {path}"


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent"


def _last_place(error: BaseException) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{frame.filename}:{frame.lineno}"
