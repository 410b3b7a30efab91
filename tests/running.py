"""main.py as its users run it, and the numbers that a run leaves."""

import importlib
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from imae_jax.commands.failures import DEFECT

ROOT = Path(__file__).parent.parent


def command(*arguments):
    return [sys.executable, str(ROOT / "main.py"), *map(str, arguments)]


def environment():
    """One device, as on a laptop; optimizations off as in the other tests."""
    return {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}


def importer(variable, where):
    """Returns a function that imports what only some tests need, or skips them.

    Where the environment has `variable`, absence is a failure. `where`: what installs it.
    """

    def require(name):
        if os.environ.get(variable):
            return importlib.import_module(name)
        reason = f"{name} is not installed ({where})"
        return pytest.importorskip(name, reason=reason)

    return require


def call(*arguments, cwd=ROOT):
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, cwd=cwd, env=environment()
    )


def fails(*arguments):
    """Runs a command that should fail; returns its one line."""
    done = call(*arguments)
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 1, done.stderr
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    assert DEFECT not in done.stderr  # as bad as a traceback
    return lines[0]


def events(workdir):
    """The events in a workdir's tensorboard/, in the order of the files' names."""
    found = []
    for path in sorted((workdir / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:  # length, its checksum, an event, its checksum
            (length,) = struct.unpack("<Q", data[:8])
            found.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return found
