"""What can go wrong with a disk and with processes, and that nothing is lost by it."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from imae_jax.commands.failures import DEFECT
from imae_jax.distributed import sharding
from imae_jax.errors import Terminated, UserError
from imae_jax.evaluation import evaluate
from imae_jax.models.factory import build_model
from imae_jax.objectives.select import OBJECTIVES
from imae_jax.storage import atomic_files, checkpoint, metrics_log, pytrees
from imae_jax.storage.checkpoint import Checkpoints
from imae_jax.storage.workdir import exclusive_lock, open_workdir
from imae_jax.training import trained_run
from imae_jax.training.loop import train
from imae_jax.training.state import init_state

ROOT = Path(__file__).parents[2]
STEPS = 40


@pytest.fixture
def config(mae_config):
    config = mae_config()
    config.train.total_steps = STEPS
    config.checkpoint.every_steps, config.checkpoint.every_minutes = 10, 0.0
    config.log.every_steps = 5
    return config


@pytest.fixture(scope="module")
def undisturbed(mae_config, tmp_path_factory):
    """A run of STEPS steps that nothing happened to; to be read, not written."""
    config = mae_config()
    config.train.total_steps = STEPS
    config.checkpoint.every_steps, config.checkpoint.every_minutes = 10, 0.0
    config.log.every_steps = 5
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    train(config, workdir)
    return workdir


@pytest.fixture
def damaged(undisturbed, tmp_path):
    """A copy of it, whose newest checkpoint is to be damaged."""
    shutil.copytree(undisturbed, tmp_path / "run")
    return tmp_path / "run"


def arrays_of(workdir, config, step=STEPS):
    """A checkpoint's parameters and optimizer's state."""
    with Checkpoints(workdir) as checkpoints:
        mesh = sharding.make_mesh()
        network = build_model(config, (8, 8, 1))
        kind = OBJECTIVES[config.model.name]
        optimizer = kind.optimizer(config, network, lambda step: 0.0)
        state = init_state(network, optimizer, 0, mesh)
        return jax.device_get(checkpoints.restore(step, **state.arrays))


def assert_undisturbed(workdir, undisturbed, config):
    """Bit for bit what a run is that nothing happened to, and its log too."""
    pair = arrays_of(workdir, config), arrays_of(undisturbed, config)
    jax.tree.map(np.testing.assert_array_equal, *pair)
    timed = ("seconds", "images_per_second", "data_wait")

    def said(folder):
        return [
            {k: v for k, v in line.items() if not k.startswith(timed)}
            for line in metrics_log.read_metrics(folder)
        ]

    assert said(workdir) == said(undisturbed)


def arguments(config, workdir):
    return [
        *(sys.executable, str(ROOT / "main.py"), "train"),
        "--config=configs/mae.py:digits,runlocal",
        f"--config.data.dir={config.data.dir}",
        "--config.compute.dtype=float32",
        f"--config.train.total_steps={config.train.total_steps}",
        f"--config.checkpoint.every_steps={config.checkpoint.every_steps}",
        "--config.checkpoint.every_minutes=0.0",
        f"--config.log.every_steps={config.log.every_steps}",
        f"--workdir={workdir}",
    ]


def start(config, workdir):
    # Eight devices, as the undisturbed run had.
    return subprocess.Popen(
        arguments(config, workdir),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def wait_for(process, path):
    while not path.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["while it is written", "when it is there"])
def test_killed_around_a_save(moment, config, undisturbed, tmp_path):
    workdir = tmp_path / "run"
    process = start(config, workdir)
    if moment == "when it is there":
        wait_for(process, workdir / "checkpoints" / "20")
    else:
        folder = workdir / "checkpoints"
        while not list(folder.glob("20*")):
            assert process.poll() is None, process.communicate()
            time.sleep(0.0005)
    process.kill()
    process.communicate()
    with Checkpoints(workdir) as checkpoints:
        assert checkpoints.steps()[0] in (10, 20, 30)
    train(config, workdir)
    assert_undisturbed(workdir, undisturbed, config)
    assert not list((workdir / "checkpoints").glob("*tmp*"))  # nothing half written stays


@pytest.mark.slow
def test_terminated_it_saves_what_it_has_and_goes_on(config, undisturbed, tmp_path):
    workdir = tmp_path / "run"
    config.checkpoint.every_steps = 1000
    config.train.total_steps = 10**6
    process = start(config, workdir)
    wait_for(process, workdir / "metrics.jsonl")
    while not metrics_log.read_metrics(workdir):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM
    with Checkpoints(workdir) as checkpoints:
        (step,) = checkpoints.steps()
    last = errors.splitlines()[-1]
    assert f"terminated; {workdir} is saved at step {step}; rerun the same" in last
    assert step >= 5 and "Traceback" not in errors and DEFECT not in errors


@pytest.mark.slow
def test_terminated_at_any_step_it_ends_the_same(
    config, undisturbed, tmp_path, monkeypatch
):
    """A signal to this process, while it trains."""
    config.checkpoint.every_steps = 1000
    workdir, made = tmp_path / "run", []
    progress = metrics_log.Progress.update

    def update(self, step):
        progress(self, step)
        made.append(step)
        if step in (7, 23):
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(metrics_log.Progress, "update", update)
    for step in (7, 23):
        with pytest.raises(Terminated, match=f"is saved at step {step}$"):
            train(config, workdir)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    train(config, workdir)
    assert made == list(range(1, STEPS + 1))
    config.checkpoint.every_steps = 10
    pair = arrays_of(workdir, config), arrays_of(undisturbed, config)
    jax.tree.map(np.testing.assert_array_equal, *pair)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def invert(path):
    """Changes every byte: a single bit may lie where nothing is stored."""
    path.write_bytes(bytes(255 - x for x in path.read_bytes()))


def files_of(folder):
    return sorted(x for x in folder.rglob("*") if x.is_file() and x.stat().st_size)


@pytest.mark.slow
def test_every_file_with_a_flipped_bit_or_without(undisturbed, config, tmp_path, capsys):
    """Each is noticed, or changes nothing."""
    shutil.copytree(undisturbed / "checkpoints", tmp_path / "checkpoints")
    newest, spare = tmp_path / "checkpoints" / str(STEPS), tmp_path / "spare"
    shutil.copytree(newest, spare)
    wanted = {
        step: {"params": arrays_of(undisturbed, config, step)["params"]}
        for step in (STEPS - 10, STEPS)
    }
    noticed = 0
    for path in files_of(spare):
        if "opt_state" in path.parts:  # as `params`
            continue
        for harm in ("missing", "flipped"):
            shutil.rmtree(newest)
            shutil.copytree(spare, newest)
            victim = newest / path.relative_to(spare)
            victim.unlink() if harm == "missing" else flip(victim)
            with Checkpoints(tmp_path) as checkpoints:

                def read(step, checkpoints=checkpoints):
                    return checkpoints.restore(step, **wanted[step])

                step, found = checkpoints.newest(read)
            jax.tree.map(np.testing.assert_array_equal, found, wanted[step])
            if step < STEPS:
                noticed += 1
                said = capsys.readouterr().err
                assert str(newest) in said and "the one before is taken" in said
    assert noticed >= 10


def largest(folder):
    return max(files_of(folder), key=lambda path: path.stat().st_size)


@pytest.mark.slow
def test_a_damaged_checkpoint_is_set_aside_and_the_run_goes_on(
    damaged, undisturbed, config, capsys
):
    invert(largest(damaged / "checkpoints" / "40" / "params"))
    before = {x.name for x in (damaged / "checkpoints").iterdir()}
    train(config, damaged)
    said = capsys.readouterr().err
    assert "checkpoints/40 " in said and "the one before is taken" in said
    assert_undisturbed(damaged, undisturbed, config)
    after = {x.name for x in (damaged / "checkpoints").iterdir()}
    assert after - before == {"damaged-40"}


def test_all_damaged_is_an_error_and_nothing_is_touched(damaged, config):
    for step in (30, 40):
        invert(largest(damaged / "checkpoints" / str(step) / "params"))
    before = {path: path.read_bytes() for path in files_of(damaged / "checkpoints")}
    with pytest.raises(UserError, match=r"\{40,30\}: all checkpoints are damaged"):
        train(config, damaged)
    with pytest.raises(UserError, match="all checkpoints are damaged"):
        trained_run.load_run(damaged, "teacher.init", sharding.make_mesh())
    assert {x: x.read_bytes() for x in files_of(damaged / "checkpoints")} == before


def edit_heads(workdir):
    """Changes the number of heads in a run's config: another function of equal shapes."""
    stored = atomic_files.read_json(workdir / "config.json")
    assert stored["model"]["encoder"]["heads"] is None  # that of the variant
    stored["model"]["encoder"]["heads"] = 1
    atomic_files.write_json(workdir / "config.json", stored)


def test_the_checkpoints_own_config_decides(damaged, undisturbed, config, capsys):
    edit_heads(damaged)
    mesh = sharding.make_mesh()
    run = trained_run.load_run(damaged, "workdir", mesh)
    difference = "model.encoder.heads is None in the checkpoint, which counts, 1 here"
    (said,) = capsys.readouterr().err.splitlines()
    assert said == f"{damaged / 'config.json'} is not as trained: {difference}"
    assert run.config.model.encoder.heads is None and run.model.encoder_size.heads > 1
    assert run.model == trained_run.load_run(undisturbed, "workdir", mesh).model
    config.model.encoder.heads = 1
    with pytest.raises(UserError, match="another config: .*heads is None there, 1 here"):
        train(config, damaged)
    with pytest.raises(UserError, match="another config: .*heads is None there, 1 here"):
        evaluate(config, damaged)
    config.model.encoder.heads = None
    with pytest.raises(UserError, match="another config: .*heads is 1 there, None here"):
        train(config, damaged)


def test_keys_that_compute_nothing_are_read_from_the_file(damaged, capsys):
    stored = atomic_files.read_json(damaged / "config.json")
    stored["compute"]["remat"] = "blocks"
    atomic_files.write_json(damaged / "config.json", stored)
    run = trained_run.load_run(damaged, "workdir", sharding.make_mesh())
    assert run.config.compute.remat == "blocks"
    assert not capsys.readouterr().err


def test_a_config_of_other_sections(damaged, config):
    sections = atomic_files.read_json(damaged / "config.json")
    atomic_files.write_json(damaged / "config.json", {name: "x" for name in sections})
    with pytest.raises(UserError, match="another config: .*augment is 'x' there"):
        train(config, damaged)


def test_a_config_without_end(damaged):
    (damaged / "config.json").write_text('{"a":' * 5000)
    with pytest.raises(UserError, match="config.json cannot be read: maximum recursion"):
        trained_run.load_run(damaged, "workdir", sharding.make_mesh())


@pytest.mark.parametrize("text", ["[]", "null", "3", '"text"', "[[]]"])
def test_a_config_that_is_none(text, damaged):
    (damaged / "config.json").write_text(text)
    with pytest.raises(UserError, match="config.json cannot be read: it holds no config"):
        trained_run.load_run(damaged, "workdir", sharding.make_mesh())


def resave(workdir, step, change):
    """Saves a checkpoint again with its meta changed."""
    with Checkpoints(workdir) as checkpoints:
        meta = change(checkpoints.meta(step))
    if "checksums" in meta:
        meta["sha256"] = checkpoint._sha256(meta)
    (path,) = (workdir / "checkpoints" / str(step) / "meta").glob("metadata")
    path.write_text(json.dumps(meta))


def earlier(meta):
    """A checkpoint's meta as earlier versions wrote it."""
    lacking = ("config", "random_settings", "checksums", "sha256")
    return {name: value for name, value in meta.items() if name not in lacking}


def test_checkpoints_of_earlier_versions_lack_config_and_settings(damaged, config):
    resave(damaged, STEPS, earlier)
    run = trained_run.load_run(damaged, "workdir", sharding.make_mesh())
    assert run.step == STEPS
    assert int(train(config, damaged).step) == STEPS


@pytest.mark.parametrize(
    "name,other",
    [
        ("jax_default_prng_impl", "rbg"),
        ("jax_enable_x64", True),
        ("jax_random_seed_offset", 7),
        ("jax_threefry_partitionable", False),
    ],
)
def test_settings_that_change_random_numbers_are_refused(name, other, damaged, config):
    value = getattr(jax.config, name)
    message = f"{name} was {other!r} when the run began and is {value!r}, which gives"

    def change(meta):
        return meta | {"random_settings": meta["random_settings"] | {name: other}}

    resave(damaged, STEPS, change)
    with pytest.raises(UserError, match=message):
        train(config, damaged)


def test_settings_of_the_process_are_compared(undisturbed, config):
    with jax.default_prng_impl("rbg"), pytest.raises(UserError, match="and is 'rbg'"):
        train(config, undisturbed)


def test_a_checkpoint_of_a_shallower_model_is_refused(damaged, config):
    """Orbax alone would restore 12 layers into 16 without a word."""
    resave(damaged, STEPS, earlier)
    stored = atomic_files.read_json(damaged / "config.json")
    stored["model"]["encoder"]["depth"] = 2
    atomic_files.write_json(damaged / "config.json", stored)
    config.model.encoder.depth = 2
    for begin in (
        lambda: train(config, damaged),
        lambda: trained_run.load_run(damaged, "init", sharding.make_mesh()),
    ):
        with pytest.raises(UserError, match="missing encoder/transformer/block_01"):
            begin()


def test_a_second_process_on_the_same_workdir_is_refused(config, tmp_path):
    workdir = open_workdir(tmp_path / "run")
    with exclusive_lock(workdir):
        ended = subprocess.run(
            arguments(config, workdir), capture_output=True, text=True, cwd=ROOT
        )
        assert ended.returncode == 1
        line = ended.stderr.splitlines()[-1]
        assert "is being written by another process" in line
        assert not (workdir / "checkpoints").exists()
    with exclusive_lock(workdir):  # free again
        pass


def test_a_killed_owner_leaves_nothing_locked(tmp_path):
    code = (
        "import sys, os; from pathlib import Path; from imae_jax.storage import workdir\n"
        "with workdir.exclusive_lock(Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT)
    assert (tmp_path / ".lock").exists()
    with exclusive_lock(tmp_path):
        pass


@pytest.fixture
def small_disk(tmp_path):
    """A function that mounts a disk of so many bytes."""
    with contextlib.ExitStack() as stack:

        def mount(size, *options):
            folder = tmp_path / "disk"
            folder.mkdir()
            words = ["mount", "-t", "tmpfs", "-o", ",".join([f"size={size}", *options])]
            ended = subprocess.run(
                [*words, "tmpfs", str(folder)], capture_output=True, text=True
            )
            if ended.returncode:
                pytest.skip(f"no disk can be mounted here: {ended.stderr.strip()}")
            stack.callback(subprocess.run, ["umount", "-l", str(folder)], check=True)
            return folder

        yield mount


@pytest.mark.slow
def test_a_full_disk_ends_the_run_and_a_larger_one_goes_on(
    config, undisturbed, small_disk, tmp_path
):
    size = sum(x.stat().st_size for x in files_of(undisturbed / "checkpoints" / "40"))
    disk = small_disk(int(1.6 * size) + 200_000)
    ended = subprocess.run(
        arguments(config, disk / "run"), capture_output=True, text=True, cwd=ROOT
    )
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()  # and none of the libraries' threads
    assert line.startswith("error: ") and "no space" in line.lower()
    assert str(disk / "run") in line
    with Checkpoints(disk / "run") as checkpoints:
        assert checkpoints.steps()
    subprocess.run(
        ["mount", "-o", "remount,size=100m", str(disk)], check=True, capture_output=True
    )
    train(config, disk / "run")
    assert_undisturbed(disk / "run", undisturbed, config)


def test_a_disk_that_cannot_be_written(config, small_disk):
    disk = small_disk(10**6)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(UserError, match=r"workdir .* cannot be written: .*Read-only"):
        train(config, disk / "run")


def test_saved_in_a_background_thread_a_failure_is_still_told(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="cannot be written: no space is left"):
        with Checkpoints(tmp_path, keep=1) as checkpoints:
            monkeypatch.setattr(checkpoints._manager, "close", fail)


@pytest.mark.slow
def test_saved_on_eight_devices_restored_on_one_and_back(config, tmp_path):
    code = (
        "import sys, jax, pathlib; from imae_jax import train\n"
        "from imae_jax.distributed.sharding import make_mesh\n"
        "from imae_jax.storage import pytrees, workdir\n"
        "from imae_jax.training.trained_run import load_run\n"
        "folder = pathlib.Path(sys.argv[1]); config = workdir.read_config(folder)\n"
        "print(load_run(folder, 'workdir', make_mesh()).digest)\n"
        "print(pytrees.digest(train(config, folder, stop_at=20).params))\n"
        "print(jax.device_count())"
    )
    workdir = tmp_path / "run"
    saved = pytrees.digest(train(config, workdir, stop_at=10).params)
    ended = subprocess.run(
        [sys.executable, "-c", code, str(workdir)],
        check=True,
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": ""},
        stdout=subprocess.PIPE,
        text=True,
    )
    restored, saved_on_one = [x for x in ended.stdout.split() if len(x) == len(saved)]
    assert restored == saved and ended.stdout.split()[-1] == "1"
    mesh = sharding.make_mesh()
    assert mesh.size == 8
    assert trained_run.load_run(workdir, "workdir", mesh).digest == saved_on_one
    assert int(train(config, workdir).step) == STEPS


def test_the_best_are_kept_beside_the_newest(tmp_path):
    # A step that was skipped has no loss.
    metas = [{}, dict(loss=0.5), dict(loss=0.1), dict(loss=0.4), {}, dict(loss=0.3)]
    with Checkpoints(tmp_path, keep=1, keep_best=1) as checkpoints:
        for step, meta in enumerate(metas):
            checkpoints.save(step, dict(params=dict(x=jax.numpy.ones(3))), meta)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [5, 2] and checkpoints.best_step() == 2


def test_a_resumed_run_keeps_the_best_of_before(tmp_path):
    arrays = dict(params=dict(x=jax.numpy.ones(3)))
    losses = [0.9, 0.1, 0.8, 0.7, 0.6]
    for step, loss in enumerate(losses):
        with Checkpoints(tmp_path, keep=1, keep_best=1) as checkpoints:
            checkpoints.save(step, arrays, dict(loss=loss))
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [4, 1] and checkpoints.best_step() == 1


@pytest.mark.parametrize(
    "error", [MemoryError(), PermissionError(13, "denied"), OSError(116, "stale handle")]
)
def test_what_is_no_damage_sets_nothing_aside(error, damaged, config, monkeypatch):
    def fail(*args, **kwargs):
        raise error

    before = {path: path.read_bytes() for path in files_of(damaged / "checkpoints")}
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint.ocp.CheckpointManager, "restore", fail)
        with pytest.raises(UserError, match="checkpoints/40 cannot be read: "):
            train(config, damaged)
    assert {x: x.read_bytes() for x in files_of(damaged / "checkpoints")} == before


def test_a_reader_follows_a_run_that_goes_on(tmp_path):
    """What it has listed is gone when it comes to read it."""
    arrays = dict(params=dict(x=jax.numpy.ones(3)))
    with Checkpoints(tmp_path, keep=1) as writer:
        writer.save(1, arrays, dict(note="old"))
    with Checkpoints(tmp_path) as reader:
        assert reader.steps() == [1]
        with Checkpoints(tmp_path, keep=1) as writer:
            writer.save(2, arrays, dict(note="new"))
        step, meta = reader.newest(reader.meta)
    assert (step, meta["note"]) == (2, "new")


@pytest.mark.slow
def test_terminated_at_the_last_step(config, tmp_path, monkeypatch):
    """A study must not go on to its next run."""
    config.train.total_steps = 3
    progress = metrics_log.Progress.update

    def update(self, step):
        progress(self, step)
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(metrics_log.Progress, "update", update)
    with pytest.raises(Terminated, match="is saved at step 3"):
        train(config, tmp_path / "run")
    with Checkpoints(tmp_path / "run") as checkpoints:
        assert checkpoints.steps() == [3]
