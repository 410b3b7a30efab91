"""Writing on disks, and on mounts that lack some of their operations."""

import errno
import fcntl
import logging
import os
import subprocess
import sys
import time

import pytest

from configs import studies
from imae_jax.commands.study_grid import make_grid
from imae_jax.errors import UserError
from imae_jax.storage import atomic_files
from imae_jax.storage.workdir import exclusive_lock, open_workdir

REFUSALS = [errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.EACCES]
CALLS = ["chmod", "fsync", "replace"]


@pytest.fixture(autouse=True)
def nothing_said():
    """As in a new process."""
    atomic_files._log_once.cache_clear()


@pytest.fixture
def refuse(monkeypatch):
    """Has a function of `os` fail with an error number."""

    def patch(name, number, module=os):
        def fail(*args, **options):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(module, name, fail)

    return patch


def warnings(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


@pytest.fixture
def log(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("imae_jax"), "propagate", True)
    return caplog


def test_what_killed_processes_left_is_removed_after_a_day(tmp_path):
    left = [".a.json.writing-x1", ".a.writing-x2", ".a.json.writing-new", ".a.json.mine"]
    for name in left:
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").write_text("")
        age = 3600 * (1 if "new" in name else 25)
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    atomic_files.write_json(tmp_path / "a.json", 1)
    assert not (tmp_path / left[0]).exists()
    assert all((tmp_path / name).exists() for name in left[1:])
    with atomic_files.new_folder(tmp_path / "a"):
        pass
    assert {x.name for x in tmp_path.iterdir()} == {"a", "a.json", *left[2:]}


@pytest.mark.parametrize("number", REFUSALS)
@pytest.mark.parametrize("name", CALLS)
def test_what_a_mount_lacks_is_said_once(name, number, refuse, log, tmp_path):
    path = tmp_path / "a.json"
    atomic_files.write_json(path, 0)
    refuse(name, number)
    for value in (1, 2):
        atomic_files.write_json(path, value)
        assert atomic_files.read_json(path) == value
    with atomic_files.new_folder(tmp_path / "folder") as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "b").write_bytes(b"b")
    assert (tmp_path / "folder" / "sub" / "b").read_bytes() == b"b"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "folder"]
    (said,) = warnings(log)
    assert os.strerror(number) in said and "\n" not in said


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.EDQUOT])
@pytest.mark.parametrize("name", CALLS)
def test_what_is_broken_ends_in_an_error(name, number, refuse, tmp_path):
    path = tmp_path / "a.json"
    atomic_files.write_json(path, "old")
    refuse(name, number)
    with pytest.raises(OSError, match=f"{os.strerror(number)}: '{path}'$"):
        atomic_files.write_json(path, "new")
    assert atomic_files.read_json(path) == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_folder_that_is_not_finished_leaves_nothing(tmp_path):
    with pytest.raises(OSError, match=f"No space left.*: '{tmp_path / 'out'}'"):
        with atomic_files.new_folder(tmp_path / "out") as folder:
            (folder / "half").write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
    assert not list(tmp_path.iterdir())


def test_full_disk_while_copying(refuse, tmp_path, monkeypatch):
    """Without renames, too, nothing half written is left."""
    path, synced = tmp_path / "a.json", []

    def sync(file):
        synced.append(file.name)
        if len(synced) == 2:  # the first is the temporary file
            raise OSError(errno.ENOSPC, "No space left on device")

    refuse("replace", errno.ENOSYS)
    monkeypatch.setattr(atomic_files, "sync", sync)
    with pytest.raises(OSError, match="No space"):
        atomic_files.write_json(path, "new")
    assert len(synced) == 2 and not list(tmp_path.iterdir())


def test_refused_copy_keeps_the_file(refuse, tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    atomic_files.write_json(path, "old")
    refuse("replace", errno.EPERM)
    real = open

    def no_write(file, mode="r", *args, **options):
        if file == path and "w" in mode:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        return real(file, mode, *args, **options)

    monkeypatch.setattr("builtins.open", no_write)
    with pytest.raises(OSError, match="not permitted"):
        atomic_files.write_json(path, "new")
    monkeypatch.undo()
    assert atomic_files.read_json(path) == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("number", [*REFUSALS, errno.ENOLCK])
def test_mount_without_locks(number, refuse, log, tmp_path):
    refuse("flock", number, fcntl)
    for _ in range(2):
        with exclusive_lock(open_workdir(tmp_path)):
            pass
    (said,) = warnings(log)
    assert said.startswith("two commands may write into one workdir")


def test_lock_is_exclusive_and_given_back(tmp_path):
    program = (
        "import sys; from pathlib import Path\n"
        "from imae_jax.storage.workdir import exclusive_lock\n"
        "with exclusive_lock(Path(sys.argv[1])): print('locked')"
    )
    arguments = [sys.executable, "-c", program, str(tmp_path)]
    with exclusive_lock(tmp_path):
        done = subprocess.run(arguments, capture_output=True, text=True)
        assert "is being written by another process" in done.stderr
        with pytest.raises(UserError, match="another process"), exclusive_lock(tmp_path):
            pass
    with exclusive_lock(tmp_path):
        pass


@pytest.mark.parametrize(
    "name",
    ["../x", "/tmp/x", "a/b", "a\\b", "..", ".", "", "a\n", "x\0", "n" * 101, "cells"],
)
def test_studies_stay_in_the_workdir(name):
    config = studies.get_config("mask,digits")
    config.name = name
    with pytest.raises(UserError, match="invalid name=") as error:
        make_grid(config)
    assert "\n" not in str(error.value)


def test_arms_name_no_files(tmp_path):
    config = studies.get_config("mask,digits")
    arms = config.arms.to_dict()
    with config.unlocked():
        config.arms = {f"/{name}/x": arm for name, arm in arms.items()}
    for cell in make_grid(config).values():
        assert cell.folder(tmp_path).parent == tmp_path / "cells"
