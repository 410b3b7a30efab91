"""Shared set-up: eight virtual CPU devices, and small runs on the embedded data set."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile

# Before JAX is imported. Child processes inherit the platform, not the device count.
os.environ["JAX_PLATFORMS"] = "cpu"
DEVICE_FLAG = "--xla_force_host_platform_device_count=8"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {DEVICE_FLAG}"

# Small arrays in many shapes: compiling costs far more than running.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
# Many tests compile the same step: it is compiled once a session, children included.
IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ
if not IS_WORKER:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="imae_jax_")
    os.environ["XDG_CACHE_HOME"] = os.environ["JAX_COMPILATION_CACHE_DIR"]
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import jax
import pytest
import running
from hypothesis import settings

from configs import imae, mae, transfer
from imae_jax import evaluation, runtime
from imae_jax.data.load import load
from imae_jax.training.loop import train

BROWSER_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

# No deadlines: the first example of a shape compiles.
settings.register_profile("default", deadline=None, max_examples=15, derandomize=True)
settings.load_profile("default")


def pytest_configure():
    assert jax.device_count() == 8, "JAX was imported before conftest could set it up"
    runtime.show_log()


def pytest_unconfigure():
    if not IS_WORKER:
        shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


@pytest.fixture(autouse=True, scope="module")
def forgotten_programs():
    """Drops a file's compiled programs, which would fill memory; they stay on disk."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """A folder with the embedded data set, prepared once."""
    folder = str(tmp_path_factory.mktemp("data"))
    load("digits", folder)
    return folder


@pytest.fixture(scope="session")
def mae_config(data_dir):
    """Makes a fresh MAE config, shrunk to seconds."""

    def make():
        config = mae.get_config("digits,runlocal")
        config.compute.dtype = "float32"  # for close comparisons
        config.data.dir = data_dir
        return config

    return make


@pytest.fixture(scope="session")
def teacher(mae_config, tmp_path_factory):
    """The workdir of a MAE run of four steps."""
    workdir = tmp_path_factory.mktemp("runs") / "teacher"
    train(mae_config(), workdir)
    return workdir


@pytest.fixture(scope="session")
def imae_config(data_dir, teacher):
    """Makes a fresh i-MAE config, shrunk to seconds, taught by `teacher`."""

    def make():
        config = imae.get_config("digits,runlocal")
        config.compute.dtype = "float32"
        config.data.dir = data_dir
        config.teacher.init = str(teacher)
        return config

    return make


@pytest.fixture(scope="session")
def transfer_config(data_dir, teacher):
    """Makes a fresh classifier's config, shrunk to seconds, that starts from `teacher`."""

    def make(mode):
        config = transfer.get_config(f"digits,{mode},runlocal")
        config.compute.dtype = "float32"
        config.data.dir = data_dir
        config.init = "" if mode == "scratch" else str(teacher)
        return config

    return make


@pytest.fixture(scope="session")
def student(imae_config, tmp_path_factory):
    """The workdir of an i-MAE run of four steps; to be read, not written."""
    workdir = tmp_path_factory.mktemp("runs") / "imae"
    train(imae_config(), workdir)
    return workdir


@pytest.fixture(scope="session")
def evaluated(student, imae_config):
    """The workdir of `student`, evaluated."""
    config = imae_config()
    config.data.evaluate_on.update(dict(train=150, validation=150, test=150))
    evaluation.evaluate(config, student)
    return student


@pytest.fixture(scope="session")
def parity():
    """Imports what only comparisons need; in CI its absence is a failure."""

    return running.importer("IMAE_REQUIRE_PARITY", "requirements-parity.txt")


@pytest.fixture
def unused_port():
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


@pytest.fixture
def in_two_processes(unused_port):
    """Runs code in two processes with a device each; returns the last line of either."""

    def run(code):
        script = (
            "import jax, sys\n"
            f"jax.distributed.initialize('localhost:{unused_port}', 2, int(sys.argv[1]))\n"
            f"sys.path[:0] = ['tests']\n{code}"
        )
        environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
        environment["JAX_CPU_COLLECTIVES_IMPLEMENTATION"] = "gloo"
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", script, str(rank)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=environment,
            )
            for rank in range(2)
        ]
        outputs = [process.communicate() for process in processes]
        assert all(p.returncode == 0 for p in processes), outputs[0][1] + outputs[1][1]
        return [out.splitlines()[-1] for out, _ in outputs]

    return run


# Not longer than the module: it leaves an event loop running, which disturbs others.
@pytest.fixture(scope="module")
def browser():
    """A Chromium of the system; in CI its absence is a failure."""
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        reason = f"no browser: install Chromium, so that one of {', '.join(names)} is found"
        if os.environ.get("IMAE_REQUIRE_BROWSER"):
            pytest.fail(reason)
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright  # which only these tests need

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=BROWSER_FLAGS)
        yield browser
        browser.close()
