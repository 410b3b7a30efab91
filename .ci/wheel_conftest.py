"""The fixtures of tests/test_smoke.py outside the clone: from stored configs alone."""

import importlib.metadata
import importlib.util
import os
from pathlib import Path

# Before JAX is imported. Compiling costs far more than running.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"

import pytest

import imae_jax
from imae_jax.storage import workdir
from imae_jax.training.loop import train

HERE = Path(__file__).parent


def pytest_configure(config):
    """Makes sure that it is the installed package, alone, which is tested."""
    config.addinivalue_line("markers", "smoke: end to end on 4 steps")
    assert "site-packages" in imae_jax.__file__, imae_jax.__file__
    assert importlib.util.find_spec("configs") is None
    assert importlib.metadata.version("imae_jax") == imae_jax.__version__


@pytest.fixture(scope="session")
def imae_config(tmp_path_factory):
    """Makes the config of an i-MAE whose teacher is trained here."""
    folder = tmp_path_factory.mktemp("runs")

    def stored(name):
        config = workdir.read_config(HERE / name)
        config.data.dir = str(folder / "data")
        return config

    train(stored("mae"), folder / "teacher")

    def make():
        config = stored("imae")
        config.teacher.init = str(folder / "teacher")
        return config

    return make
