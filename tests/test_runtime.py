"""What is set before JAX starts; in processes of their own."""

import importlib.util
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from imae_jax import runtime

ROOT = Path(__file__).parent.parent
UNSET = ("MALLOC_ARENA_MAX", "GLIBC_TUNABLES", "JAX_COMPILATION_CACHE_DIR")


def run(*arguments, **environment):
    """The standard output of a Python process in the project's root."""
    inherited = {k: v for k, v in os.environ.items() if k not in UNSET}
    result = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=inherited | environment,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


MEMORY = """
from imae_jax import runtime
print(runtime.tune_malloc())
import jax.numpy as jnp
print(float(jnp.ones((1000, 1000)).sum()))
maps = open('/proc/self/smaps').read()
print(any('VmFlags' in line and ' hg' in line for line in maps.splitlines()))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")
def test_memory_is_kept_in_huge_pages_unless_the_user_has_said_otherwise():
    assert run("-c", MEMORY).split() == ["True", "1000000.0", "True"]
    assert run("-c", MEMORY, MALLOC_ARENA_MAX="2").split() == [
        "False",
        "1000000.0",
        "False",
    ]
    assert run("-c", MEMORY, GLIBC_TUNABLES="glibc.malloc.hugetlb=0").startswith("False")


COMPILE = """
import jax
from imae_jax import runtime
runtime.enable_compilation_cache()
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))
jax.jit(lambda x: x * 2 + 1)(1.0)
print(sum(name.endswith('cache_hits') for name in hits))
print(jax.config.jax_compilation_cache_dir)
"""


def test_what_was_compiled_is_not_compiled_again(tmp_path):
    settings = dict(XDG_CACHE_HOME=str(tmp_path))
    folder = tmp_path / "imae_jax" / "compiled"
    assert run("-c", COMPILE, **settings).split() == ["0", str(folder)]
    assert any(folder.iterdir())
    assert run("-c", COMPILE, **settings).split() == ["1", str(folder)]
    other = str(tmp_path / "other")
    settings["JAX_COMPILATION_CACHE_DIR"] = other
    assert run("-c", COMPILE, **settings).split() == ["0", other]


@pytest.mark.parametrize("harm", ["flipped", "cut", "empty"])
def test_a_damaged_program_is_compiled_again(harm, tmp_path):
    settings = dict(JAX_COMPILATION_CACHE_DIR=str(tmp_path))
    assert run("-c", COMPILE, **settings).split()[0] == "0"
    for path in tmp_path.iterdir():
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        kept = {"flipped": len(data), "cut": len(data) // 2, "empty": 0}[harm]
        path.write_bytes(data[:kept])
    assert run("-c", COMPILE, **settings).split()[0] == "0"


@pytest.mark.slow
def test_a_second_training_run_compiles_nothing_new(data_dir, tmp_path):
    def train(name):
        run(
            "main.py",
            "train",
            "--config=configs/mae.py:digits,runlocal",
            f"--config.data.dir={data_dir}",
            f"--workdir={tmp_path / name}",
            XDG_CACHE_HOME=str(tmp_path),
        )
        folder = tmp_path / "imae_jax" / "compiled"
        return {path.name for path in folder.iterdir() if path.name.endswith("-cache")}

    first = train("first")
    assert any("step" in name for name in first)
    assert train("second") == first


@pytest.mark.slow
def test_the_tpus_compiler_is_silent_where_there_is_no_tpu(data_dir, tmp_path):
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed (requirements-parity.txt)")
    if any(next(Path("/dev").glob(name), None) for name in runtime.TPU_DEVICES):
        pytest.skip("there is a TPU here")
    told = {"JAX_PLATFORMS", *runtime.TPU_VARIABLES, *runtime.ALONE}
    # Another process may use the compiler meanwhile; it then ends before it complains.
    environment = {k: v for k, v in os.environ.items() if k not in told}
    environment["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"

    def errors(*arguments):
        command = [sys.executable, *arguments]
        result = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, env=environment
        )
        assert result.returncode == 0, result.stderr
        return result.stderr

    assert errors("-c", "import jax; jax.devices()") != ""  # what users are spared
    train = ("main.py", "train", "--config=configs/mae.py:digits,runlocal")
    folders = f"--config.data.dir={data_dir}", f"--workdir={tmp_path}"
    found = errors(*train, *folders)
    assert "TPU" not in found and "InitGoogle" not in found, found


@pytest.mark.parametrize("device", ["accel0", "vfio/0"])
def test_nothing_is_changed_for_a_tpu_that_is_there(device, tmp_path, monkeypatch):
    for name in (*runtime.TPU_VARIABLES, *runtime.ALONE):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / device).parent.mkdir(exist_ok=True)
    (tmp_path / device).touch()
    before = dict(os.environ)
    assert not runtime.quiet_tpu_compiler(tmp_path)
    assert dict(os.environ) == before


def test_nothing_is_changed_for_a_tpu_that_is_meant(tmp_path, monkeypatch):
    for name in (*runtime.TPU_VARIABLES, *runtime.ALONE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TPU_NAME", "mine")
    before = dict(os.environ)
    assert not runtime.quiet_tpu_compiler(tmp_path)
    assert dict(os.environ) == before
    monkeypatch.delenv("TPU_NAME")
    for name in runtime.ALONE:  # so that monkeypatch undoes it
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    (tmp_path / "vfio").mkdir()
    (tmp_path / "vfio" / "vfio").touch()  # there on many machines
    assert runtime.quiet_tpu_compiler(tmp_path)
    assert os.environ.items() >= runtime.ALONE.items()
