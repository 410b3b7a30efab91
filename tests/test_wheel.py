"""What `pip install` of this folder puts on a machine, and what it leaves in the clone."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import imae_jax

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
# pip calls the same hook. In the tests' own environment, so that no registry is needed.
BUILD = "import setuptools.build_meta as hook, sys; hook.build_wheel(sys.argv[1])"
LOAD_ALL = """
import importlib, os, pkgutil, sys
import imae_jax
assert not {"jax", "numpy"} & set(sys.modules)
assert imae_jax.__file__.startswith(os.getcwd()), imae_jax.__file__
names = [module.name for module in pkgutil.walk_packages(imae_jax.__path__, "imae_jax.")]
names.remove("imae_jax.__main__")
for name in names:
    importlib.import_module(name)
assert "configs" not in sys.modules
print(len(names))
"""


def library():
    """Every file of it, by its path in the repository."""
    files = (path for path in (ROOT / "imae_jax").rglob("*") if path.is_file())
    return {
        str(path.relative_to(ROOT)) for path in files if "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy: setuptools leaves folders behind, and takes up old ones."""
    source = tmp_path_factory.mktemp("source")
    shutil.copytree(
        ROOT / "imae_jax",
        source / "imae_jax",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    for name in ("pyproject.toml", "README.md", "LICENSE", "requirements.txt"):
        shutil.copy(ROOT / name, source)
    # Never part of it, whatever else lies there.
    for name in ("configs", "tests", "data"):
        (source / name).mkdir()
        (source / name / "__init__.py").touch()
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(source)],
        cwd=source,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (path,) = source.glob("*.whl")
    return path


def test_the_wheel_holds_the_whole_library_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    files = {name for name in names if not name.partition("/")[0].endswith(".dist-info")}
    assert files == library()
    for name in ("py.typed", "interop/__init__.py", "report/templates/report.html"):
        assert f"imae_jax/{name}" in files


def test_what_the_wheel_says_of_itself(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        lines = archive.read(name).decode().split("\n\n")[0].splitlines()
    assert f"Version: {imae_jax.__version__}" in lines
    assert "Requires-Python: <3.15,>=3.11" in lines
    listed = (ROOT / "requirements.txt").read_text().splitlines()
    listed = [line.partition("#")[0] for line in listed]
    required = [line.partition(": ")[2] for line in lines if line[:14] == "Requires-Dist:"]
    assert set(map(Requirement, required)) == {Requirement(line) for line in listed if line}


def test_every_module_is_imported_outside_the_clone(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)

    def python(*arguments):
        environment = os.environ | {"PYTHONPATH": str(tmp_path)}
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )

    done = python("-c", LOAD_ALL)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 80
    done = python("-m", "imae_jax", "train", "--config=configs/mae.py")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"error: .*main.py.*in a clone.*imae_jax.load\n", done.stderr)
