"""Whatever happens to the files of the cache, its arrays are right, or made again."""

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from mutations import mutated

from imae_jax import runtime
from imae_jax.data import disk_cache
from imae_jax.data.load import load
from imae_jax.storage import atomic_files

ROOT = Path(__file__).parents[2]
ARRAYS = {
    "train.image": np.arange(96, dtype=np.uint8).reshape(4, 4, 6, 1),
    "train.label": np.arange(4),
    "mean": np.array([77.5], np.float32),
    "skipped": np.array(0),
}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    disk_cache.cached(["key"], lambda: ARRAYS)
    return runtime.folder()


def entry_of(cache):
    (entry,) = cache.iterdir()
    return entry


def assert_made_again(capsys, *words):
    """Calls the cache: one line says that it was damaged, and then it is whole again."""
    found = disk_cache.cached(["key"], lambda: ARRAYS)
    assert_same(found)
    (line,) = capsys.readouterr().err.splitlines()
    assert "is damaged" in line and line.endswith("made again")
    assert all(word in line for word in words), line
    assert_same(disk_cache.cached(["key"], lambda: pytest.fail("made again")))
    assert not capsys.readouterr().err


def assert_same(found, expected=ARRAYS):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array, strict=True)


def test_what_killed_processes_left_is_removed_after_a_day(cache):
    names = {f"{atomic_files.UNFINISHED}{age}": age for age in (25, 1)}  # hours
    for name, age in names.items():
        (cache / name).mkdir()
        (cache / name / "train.image.npy").write_bytes(b"half")
        then = time.time() - 3600 * age
        os.utime(cache / name, (then, then))
    assert_same(disk_cache.cached(["key"], lambda: pytest.fail("made again")))
    disk_cache.cached(["another key"], lambda: ARRAYS)
    left = {path.name for path in cache.iterdir() if path.name in names}
    assert left == {f"{atomic_files.UNFINISHED}1"}


@pytest.mark.parametrize(
    "name,change",
    [
        ("train.label", lambda x: x[::-1]),
        ("train.label", lambda x: x.astype(np.int32)),
        ("train.label", lambda x: x[:, None]),
        ("train.image", np.zeros_like),
        ("train.image", lambda x: x.transpose(0, 2, 1, 3)),
        ("mean", lambda x: x * np.float32("nan")),
        ("skipped", lambda x: x + 1),
    ],
)
def test_odd_arrays_are_made_again(name, change, cache, capsys):
    np.save(entry_of(cache) / f"{name}.npy", change(ARRAYS[name]))
    assert_made_again(capsys, str(entry_of(cache)), f"{name}.npy is not what was written")


@pytest.mark.parametrize("name", [*(f"{name}.npy" for name in ARRAYS), "index.json"])
@pytest.mark.parametrize("harm", ["missing", "empty", "folder", "dangling"])
def test_files_that_are_none_are_made_again(harm, name, cache, capsys):
    path = entry_of(cache) / name
    path.unlink()
    if harm == "empty":
        path.touch()
    elif harm == "folder":
        path.mkdir()
    elif harm == "dangling":
        path.symlink_to("nowhere")
    assert_made_again(capsys, name)


@pytest.mark.parametrize("text", ["[]", "null", "{}", "[" * 10**5, '{"../x": 1}', "\0"])
def test_an_odd_index_is_made_again(text, cache, capsys):
    (entry_of(cache) / "index.json").write_text(text)
    assert_made_again(capsys, "index.json is not what was written")


def test_an_entry_that_is_a_file_or_of_another_key_is_made_again(cache, capsys):
    place = entry_of(cache)
    shutil.rmtree(place)
    place.write_text("a file")
    assert_made_again(capsys)
    disk_cache.cached(["other key"], lambda: {"x": np.arange(3)})
    (other,) = set(cache.iterdir()) - {place}
    shutil.rmtree(place)
    shutil.copytree(other, place)
    assert_made_again(capsys, "it belongs elsewhere")


def test_two_hundred_mutations_change_nothing(cache, capsys):
    generator = np.random.default_rng(0)
    place, noticed = entry_of(cache), 0
    whole = {path: path.read_bytes() for path in place.iterdir()}
    for _ in range(200):
        path = sorted(whole)[generator.integers(len(whole))]
        path.write_bytes(mutated(path.read_bytes(), generator))
        is_changed = path.read_bytes() != whole[path]
        assert_same(disk_cache.cached(["key"], lambda: ARRAYS))
        assert len(capsys.readouterr().err.splitlines()) == is_changed
        assert [x.name for x in cache.iterdir()] == [place.name]
        noticed += is_changed
    assert noticed > 150


def test_the_decoded_images_of_a_data_set(data_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    expected = load("digits", data_dir).splits["train"]
    (path,) = runtime.folder().glob("*/train.label.npy")
    reversed_labels = np.load(path)[::-1]
    path.unlink()  # what is mapped stays as it is
    np.save(path, reversed_labels)
    found = load("digits", data_dir).splits["train"]
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_array_equal(found.images, expected.images)
    said = capsys.readouterr().err
    assert "train.label.npy is not what was written): made again" in said


@pytest.mark.parametrize("is_damaged", [False, True])
def test_several_at_once_get_the_same(is_damaged, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    barrier, found = threading.Barrier(3), []

    def start():
        barrier.wait()
        found.append(disk_cache.cached(["key"], lambda: ARRAYS))

    for _ in range(10):
        if is_damaged and found:
            path = entry_of(runtime.folder()) / "mean.npy"
            path.unlink()  # what is mapped stays as it is
            path.touch()
        elif found:
            shutil.rmtree(runtime.folder())
        threads = [threading.Thread(target=start) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(found) == 30
    for arrays in found:
        assert_same(arrays)
    assert_same(disk_cache.cached(["key"], lambda: pytest.fail("not kept")))
    assert len(list(runtime.folder().iterdir())) == 1


def test_it_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    done = []
    fsync, rename = disk_cache.os.fsync, Path.rename
    monkeypatch.setattr(
        disk_cache.os, "fsync", lambda file: (done.append("fsync"), fsync(file))
    )
    monkeypatch.setattr(
        Path, "rename", lambda *args: (done.append("rename"), rename(*args))[1]
    )
    disk_cache.cached(["key"], lambda: ARRAYS)
    assert done == ["fsync"] * (len(ARRAYS) + 1) + ["rename"]


@pytest.mark.slow
def test_three_first_starts_at_once(data_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    code = (
        "import sys; from imae_jax.data.load import load; "
        "split = load('digits', sys.argv[1]).splits['train']; "
        "print(int(split.labels @ range(len(split.labels))), split.images.sum())"
    )
    command = [sys.executable, "-c", code, data_dir]
    streams = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    starts = [subprocess.Popen(command, **streams) for _ in range(3)]
    lines = set()
    for start in starts:
        out, err = start.communicate()
        assert start.returncode == 0 and "damaged" not in err, err
        lines.add(out.splitlines()[-1])
    assert len(lines) == 1
    assert len(list(runtime.folder().iterdir())) == 1
