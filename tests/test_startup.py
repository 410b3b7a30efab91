"""What is set before JAX starts; in processes of their own."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

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
from imae_jax import startup
print(startup.keep_memory())
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
from imae_jax import startup
startup.keep_compiled()
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
