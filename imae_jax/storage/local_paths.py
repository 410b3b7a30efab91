"""Expands paths given by users and rejects addresses of object stores."""

import re
from pathlib import Path

from ml_collections import ConfigDict

from imae_jax.errors import UserError, require

# Any scheme; the usual ones also with one slash, as `pathlib` normalizes them.
ADDRESS = re.compile(r".*://|(gs|s3|https?|ftp|file|hdfs|az|abfss?|r2|hf):/", re.DOTALL)


def is_address(text: str) -> bool:
    """True if the text is an address with a scheme, not a path."""
    return ADDRESS.match(text) is not None


def local_path(path: str | Path, key: str) -> Path:
    """Returns the path with `~` expanded.

    Args:
      path: path of a file or folder.
      key: flag, config key or argument that holds the path, for messages.
    Raises:
      UserError: for an address with a scheme, or the home of an unknown user.
    """
    if is_address(str(path)):
        raise UserError(
            f"invalid {key}={str(path)!r}: must be a path of this machine; "
            "mount the bucket or share (gcsfuse, mountpoint-s3, rclone mount) and give the "
            "path below the mount, or copy it here"
        )
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        text = f"it must be a path whose home folder is known ({error})"
        raise UserError(f"invalid {key}={str(path)!r}: {text}") from None


def check_name(name: str, key: str) -> None:
    """Raises UserError unless the name is that of a folder directly in another."""
    is_name = isinstance(name, str) and name.isprintable() and 0 < len(name) <= 100
    is_plain = is_name and not name.startswith(".") and not set(name) & set("/\\")
    require(is_plain, key, name, "a name of 1 to 100 characters, no path")


def check_paths(config: ConfigDict, prefix: str = "") -> None:
    """Raises UserError if any text in a config is an address with a scheme."""
    for name, value in config.items():
        key = f"{prefix}{name}"
        if isinstance(value, ConfigDict):
            check_paths(value, f"{key}.")
        elif isinstance(value, str) and is_address(value):
            local_path(value, key)
