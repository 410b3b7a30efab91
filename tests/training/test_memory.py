from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imae_jax.errors import UserError
from imae_jax.training import memory
from imae_jax.training.loop import train
from imae_jax.training.memory import Room

GIB = 2**30


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_machine_has_room():
    free, limited_by = memory.room(jax.devices("cpu")[0])
    assert 2**20 < free < 2**50 and limited_by.startswith("of ")


def test_an_accelerator_says_what_is_free():
    stats = dict(bytes_limit=10, bytes_in_use=3)
    device = SimpleNamespace(platform="gpu", device_kind="H9", memory_stats=lambda: stats)
    assert memory.room(device) == Room(7, "of H9")
    device.memory_stats = lambda: None
    assert memory.room(device) is None
    # A compiler that does not tell.
    assert memory.new_bytes(SimpleNamespace(memory_analysis=lambda: None)) == 0


def test_memory_of_the_machine(tmp_path):
    write(tmp_path / "meminfo", "MemTotal:  99 kB\nMemAvailable:     12 kB\n")
    assert memory._of_machine(tmp_path / "meminfo").free == 12 * 1024
    assert memory._of_machine(tmp_path / "absent") is None


@pytest.mark.parametrize("path", ["/jobs/one", "/a/path/of/the/host"])
def test_cgroups_of_version_2(path, tmp_path):
    root, own = tmp_path / "cgroup", tmp_path / "own"
    write(own, f"0::{path}\n")
    write(root / "memory.max", "1000\n")
    write(root / "memory.current", "600\n")
    write(root / "memory.stat", "anon 7\ninactive_file 50\n")
    write(root / "jobs" / "one" / "memory.max", "max\n")
    write(root / "jobs" / "memory.max", "400\n")
    write(root / "jobs" / "memory.current", "100\n")
    found = {room.free for room in memory._of_cgroups(root, own)}
    assert found == {450, 300} if path == "/jobs/one" else {450}


def test_cgroups_of_version_1(tmp_path):
    root, own = tmp_path / "cgroup", tmp_path / "own"
    write(own, "9:name=systemd:/\n4:memory:/job\n3:cpuset:/\n0::/\n")
    write(root / "memory" / "job" / "memory.limit_in_bytes", "1000\n")
    write(root / "memory" / "job" / "memory.usage_in_bytes", "600\n")
    write(root / "memory" / "job" / "memory.stat", "total_inactive_file 50\n")
    assert [room.free for room in memory._of_cgroups(root, own)] == [450]


def test_a_machine_that_says_nothing_has_no_known_room(monkeypatch):
    monkeypatch.setattr(memory, "_of_machine", lambda: None)
    monkeypatch.setattr(memory, "_of_cgroups", lambda: [])
    assert memory.room(jax.devices("cpu")[0]) is None


def test_the_least_counts(monkeypatch):
    monkeypatch.setattr(memory, "_of_machine", lambda: Room(9, "of this machine"))
    monkeypatch.setattr(memory, "_of_cgroups", lambda: [Room(5, "x"), Room(7, "y")])
    monkeypatch.setattr(memory, "_kept", lambda: 100)
    assert memory.room(jax.devices("cpu")[0]) == Room(105, "x")


@pytest.mark.parametrize("size", [10**5, 10**8])
def test_memory_in_use_does_not_count_as_freed(size):
    # Small blocks lie in the heap, large ones in mappings of their own.
    before = memory._kept()
    blocks = [b"x" * size for _ in range(2 * 10**8 // size)]
    assert memory._kept() < before + 10**8 and blocks


def test_bytes_of_a_compiled_step():
    x = jnp.ones((256, 256))

    def needed(**options):
        step = jax.jit(lambda x: (x @ x) @ (x.T @ x), **options)
        return memory.new_bytes(step.lower(x).compile())

    assert x.nbytes <= needed(donate_argnums=0) <= 8 * x.nbytes
    assert needed() >= needed(donate_argnums=0) + x.nbytes / 2


@pytest.fixture
def only(monkeypatch):
    """Leaves so many bytes."""

    def leave(free):
        monkeypatch.setattr(memory, "room", lambda _: Room(free, "of this machine"))

    return leave


def refused(config, workdir):
    with pytest.raises(UserError) as raised:
        train(config, workdir)
    assert not list((workdir / "checkpoints").glob("[0-9]*"))
    return str(raised.value)


@pytest.mark.slow
def test_a_step_that_fits_is_taken(mae_config, tmp_path, only):
    only(GIB)
    state = train(mae_config(), tmp_path / "run")
    assert int(state.step) == 4


def test_a_step_that_does_not_fit_is_refused_with_what_does(
    mae_config, tmp_path, only, monkeypatch
):
    needs = {1: 8 * GIB, 2: 5 * GIB, 4: 3 * GIB}
    # By the microbatch: 4 is the largest number of parts for 64 images on 8 devices.
    compiled = []

    class Step:
        def __init__(self, parts):
            self.parts = parts

        def lower(self, *_):
            return self

        def compile(self):
            compiled.append(self.parts)
            return self

    monkeypatch.setattr(memory, "new_bytes", lambda step: needs[step.parts] // 8)
    state = jax.device_put(np.zeros(3))
    devices = jax.devices()

    def message(free, **options):
        only(free)
        compiled.clear()
        defaults = dict(batch_size=64, group_size=2, accumulate=1, may_accumulate=True)
        options = defaults | options
        with pytest.raises(UserError) as raised:
            memory.Fitting(Step, devices, **options)(state)
        return str(raised.value)

    found = message(6 * GIB)
    assert found == (
        "train.batch_size=64: a step takes 8.0 GiB more memory, and 6.0 GiB of this "
        "machine are free; train.accumulate=2 fits, with 5.0 GiB, and makes the same "
        "update; or take train.batch_size=32"
    )
    assert compiled == [1, 2]
    found = message(4.5 * GIB)
    # Two parts would fit if temporaries were all; compiled, they do not.
    assert compiled == [1, 2, 4] and "train.accumulate=4 fits" in found
    assert "train.batch_size=16" in found
    assert "no smaller batch fits either: take a smaller model" in message(2 * GIB)
    found = message(6 * GIB, may_accumulate=False)
    assert "train.accumulate" not in found and "train.batch_size=32 fits" in found
    assert message(4.9 * GIB, accumulate=2).startswith("train.batch_size=64: a step takes")


@pytest.mark.slow
def test_training_refuses_and_what_it_names_trains(mae_config, tmp_path, only):
    config = mae_config()
    config.train.batch_size = 256
    only(1)
    message = refused(config, tmp_path / "none")
    assert "no smaller batch fits either" in message
    number, unit = message.partition("a step takes ")[2].split()[:2]
    need = float(number) * {"MiB": 2**20, "GiB": GIB}[unit]
    only(int(0.6 * need))
    message = refused(config, tmp_path / "run")
    parts = int(message.partition("train.accumulate=")[2].split()[0])
    config.train.accumulate = parts
    assert int(train(config, tmp_path / "run").step) == 4


def test_a_compiler_that_refuses_a_step():
    error = "RESOURCE_EXHAUSTED: Ran out of memory. Used 20.5G of 15.75G hbm. Exceeded"
    found = memory.over_limit(jax.errors.JaxRuntimeError(error))
    assert found == (int(20.5 * GIB), int(15.75 * GIB))
    assert memory.over_limit(jax.errors.JaxRuntimeError("INTERNAL: other")) is None
