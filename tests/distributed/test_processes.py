"""Several processes that work as one, on the command line."""

import functools
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

from imae_jax import evaluation
from imae_jax.commands import failures
from imae_jax.distributed import processes, sharding
from imae_jax.errors import UserError
from imae_jax.storage import atomic_files, metrics_log, workdir
from imae_jax.storage.checkpoint import Checkpoints
from imae_jax.training import trained_run
from imae_jax.training.loop import train

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
NUM_STEPS = 32


@pytest.fixture
def start_two(unused_port):
    """Starts a command in two processes with four devices each."""
    started = []

    def start(*arguments):
        flags = dict(coordinator=f"localhost:{unused_port}", num_processes=2)
        flags["wait_seconds"] = 15  # in which a lost process is noticed
        words = [f"--{name}={value}" for name, value in flags.items()]
        device_flag = "--xla_force_host_platform_device_count=4"
        environment = os.environ | {"XLA_FLAGS": device_flag}
        pair = [
            subprocess.Popen(
                [
                    *(sys.executable, str(ROOT / "main.py")),
                    *map(str, arguments),
                    *words,
                    f"--process_id={number}",
                ],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=ROOT,
                env=environment,
            )
            for number in range(2)
        ]
        started.extend(pair)
        return pair

    yield start
    for process in started:
        process.kill()


def says(errors, line):
    """Whether it ends with `line`, or as older JAX ends a process: at once, by itself."""
    ends = errors.splitlines()[-1].startswith(line)
    is_old = jax.__version_info__ < (0, 10)
    return ends or (is_old and "Terminating process because the JAX" in errors)


def end(pair):
    """Waits for both; returns what they printed."""
    outputs = [process.communicate() for process in pair]
    assert [process.returncode for process in pair] == [0, 0], outputs
    return [out for out, _ in outputs]


def test_two_processes_train_as_one_and_go_on_after_one_was_killed(
    imae_config, start_two, tmp_path
):
    config = imae_config()
    changes = {
        "data.dir": config.data.dir,
        "teacher.init": config.teacher.init,
        "compute.dtype": "float32",
        "train.total_steps": NUM_STEPS,
        "checkpoint.every_steps": 16,
        "checkpoint.every_minutes": 0.0,
    }
    config.update_from_flattened_dict(changes)
    train(config, tmp_path / "one")

    workdir = tmp_path / "two"
    command = ["train", "--config=configs/imae.py:digits,runlocal"]
    command += [f"--config.{key}={value}" for key, value in changes.items()]
    command.append(f"--workdir={workdir}")
    pair = start_two(*command)
    while not (workdir / "checkpoints" / "16").exists():
        assert pair[0].poll() is None, pair[0].communicate()
        time.sleep(0.05)
    pair[1].send_signal(signal.SIGKILL)
    _, errors = pair[0].communicate(timeout=200)
    assert pair[0].returncode == 1
    assert says(errors, f"error: {processes.LOST}"), errors
    assert not (workdir / "checkpoints" / str(NUM_STEPS)).exists()

    first, second = end(start_two(*command))
    assert f"two: step {NUM_STEPS}/{NUM_STEPS}" in first
    assert "two:" not in second  # the first speaks for all
    found, alone = (metrics_log.read_metrics(tmp_path / name) for name in ("two", "one"))
    assert [line["step"] for line in found] == list(range(1, NUM_STEPS + 1))
    for ours, theirs in zip(found, alone, strict=True):
        for name in theirs.keys() - {"seconds", "images_per_second", "data_wait"}:
            assert ours[name] == pytest.approx(theirs[name], rel=2e-3), (ours, name)
    # What two saved, one restores, bit for bit: it looks at the checksums.
    mesh = sharding.make_mesh()
    pair = [
        trained_run.load_run(tmp_path / name, "workdir", mesh) for name in ("two", "one")
    ]
    assert pair[0].step == pair[1].step == NUM_STEPS
    for ours, theirs in zip(*(jax.tree.leaves(run.params) for run in pair), strict=True):
        assert np.abs(ours - theirs).mean() < 1e-3


def test_one_of_two_is_terminated_and_both_save_and_end(mae_config, start_two, tmp_path):
    workdir = tmp_path / "run"
    pair = start_two(
        *("train", "--config=configs/mae.py:digits,runlocal", f"--workdir={workdir}"),
        f"--config.data.dir={mae_config().data.dir}",
        "--config.train.total_steps=1000000",
        "--config.checkpoint.every_minutes=0.0",  # however slow the machine is
    )
    while not metrics_log.read_metrics(workdir):
        assert pair[0].poll() is None, pair[0].communicate()
        time.sleep(0.05)
    pair[1].send_signal(signal.SIGTERM)
    outputs = [process.communicate(timeout=200) for process in pair]
    assert [p.returncode for p in pair] == [128 + signal.SIGTERM] * 2, outputs
    with Checkpoints(workdir) as checkpoints:
        (step,) = checkpoints.steps()
    for _, errors in outputs:
        assert f"is saved at step {step};" in errors


def test_two_processes_measure_as_one(teacher, start_two, tmp_path):
    expected = evaluation.evaluate(workdir.read_config(teacher), teacher)
    shutil.copytree(teacher, tmp_path / "copy")
    end(start_two("eval", f"--workdir={tmp_path / 'copy'}"))
    found = atomic_files.read_json(tmp_path / "copy" / "eval.json")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        tolerance = 0.01 if "accuracy" in name else 1e-4
        assert found[name] == pytest.approx(value, rel=1e-3, abs=tolerance), name


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("localhost", 2, 1), "--coordinator='localhost': .* HOST:PORT"),
        (("localhost:http", 2, 1), "--coordinator='localhost:http': .* HOST:PORT"),
        (("localhost:1234", None, 1), "--num_processes=None"),
        (("localhost:1234", 2, None), "--process_id=None: .* 0 to 1"),
        (("localhost:1234", 2, 2), "--process_id=2: .* 0 to 1"),
        ((None, 2, None), "need --coordinator"),
        ((None, None, 1), "need --coordinator"),
        (("a..b:1234", 2, 1), "'a..b' is no host"),
        (("nowhere.invalid:1234", 2, 1), "nowhere.invalid:1234: nobody answers .* 0 s"),
    ],
)
def test_what_cannot_be_gets_one_line(given, message):
    with pytest.raises(UserError, match=message) as error:
        processes.join(*given, wait_seconds=0)
    assert "\n" not in str(error.value)


def test_a_coordinator_that_does_not_answer_gets_one_line(unused_port):
    started = time.monotonic()
    with pytest.raises(UserError, match=f"localhost:{unused_port}: nobody answers"):
        processes.join(f"localhost:{unused_port}", 2, 1, wait_seconds=1)
    assert time.monotonic() - started < 10


SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "localhost",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
}


@pytest.mark.parametrize("launched", [{}, SLURM], ids=["by hand", "Slurm"])
def test_processes_that_do_not_come_get_a_line(launched, unused_port):
    given = "None, None, None" if launched else f"'localhost:{unused_port}', 2, 0"
    code = (
        "from imae_jax.distributed import processes\n"
        f"processes.join({given}, wait_seconds=1)"
    )
    environment = os.environ | launched | {"JAX_COORDINATOR_PORT": str(unused_port)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 1
    number = "" if launched else "2 "
    expected = f"error: not all {number}processes were there after --wait_seconds=1"
    assert says(done.stderr, expected), done.stderr


def test_alone_a_crash_says_nothing_of_others():
    code = (
        "import os; from imae_jax.distributed import processes\n"
        "processes.join(None, None, None, wait_seconds=1); os.abort()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -signal.SIGABRT and "processes" not in done.stderr


def test_alone_nothing_is_waited_for():
    processes.join(None, 1, None, wait_seconds=1)
    assert processes.is_first()
    processes.wait("nothing")
    assert processes.broadcast_from_first(True) and not processes.broadcast_from_first(
        False
    )
    with pytest.raises(ValueError), processes.abort_all_on_error(str):
        raise ValueError


def test_with_others_an_error_is_explained_in_one_line_and_ends_all(monkeypatch, caplog):
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(os, "_exit", sys.exit)  # which would end the tests
    explain = functools.partial(failures.explain, arguments=["main.py", "eval"])
    for error, said in [
        (UserError("invalid x=1: must be 2"), "error: invalid x=1: must be 2"),
        (LookupError("axis"), f"error: {failures.DEFECT}: LookupError: axis; please"),
    ]:
        caplog.clear()
        with pytest.raises(SystemExit) as end, processes.abort_all_on_error(explain):
            raise error
        assert end.value.code == 1
        (record,) = caplog.records
        assert record.getMessage().startswith(said) and "\n" not in record.getMessage()


def test_processes_with_different_data_are_named(in_two_processes):
    code = (
        "from imae_jax.distributed import processes\n"
        "from imae_jax.errors import UserError\n"
        "rank = jax.process_index()\n"
        "processes.require_same('the data set', 'the same')\n"
        "try:\n"
        "    processes.require_same('the data set', f'of {rank}')\n"
        "except UserError as error:\n"
        "    print(error)\n"
    )
    said = "the data set of process 1 is not that of process 0"
    assert in_two_processes(code) == [said, said]


def test_alone_a_process_has_the_data_that_it_has():
    processes.require_same("the data set", "anything")
