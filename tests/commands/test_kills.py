"""Signals at any moment of a training and of a study: resumed, they end as if undisturbed.

IMAE_KILLS=30 tries so many moments of each, in place of a few.
"""

import collections
import contextlib
import functools
import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from running import ROOT, environment

from imae_jax.distributed import sharding
from imae_jax.models.factory import build_model
from imae_jax.objectives.select import OBJECTIVES
from imae_jax.storage import workdir
from imae_jax.storage.checkpoint import Checkpoints
from imae_jax.storage.metrics_log import read_metrics
from imae_jax.training.state import init_state

pytestmark = pytest.mark.slow

NUM_MOMENTS = int(os.environ.get("IMAE_KILLS", "3"))
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
# What each leaves on standard error, if it comes while the command runs.
SAID = {
    signal.SIGTERM: r"terminated; (\S+ is saved at step \d+; )?rerun the same command to",
    signal.SIGINT: "interrupted; rerun the same command to resume",
}
STATUS = {signal.SIGKILL: -9, signal.SIGTERM: 128 + 15, signal.SIGINT: 130}
# Numbers that are of the clock.
TIMES = {"seconds", "images_per_second", "data_wait"}

# Imports once what every command would import anew, and runs each in a fork.
SERVER = """
import json, os, runpy, signal, sys
import imae_jax.commands.study, imae_jax.evaluation, imae_jax.report.page
import imae_jax.training.loop, imae_jax.training.pictures, orbax.checkpoint
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized()
print("ready", flush=True)
for line in sys.stdin:
    *sys.argv, said = json.loads(line)
    child = os.fork()
    if not child:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for stream in (1, 2):
            os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
        try:
            runpy.run_path("main.py", run_name="__main__")
        except SystemExit as end:
            sys.stdout.flush()
            os._exit(end.code)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""

# Seconds are from the first config of a run on, before which nothing is written.
Ended = collections.namedtuple("Ended", "status, said, seconds")


@pytest.fixture(scope="module")
def call(tmp_path_factory):
    """A function that runs main.py in a folder, with a signal sent at a moment."""
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment() | {"PYTHONPATH": str(ROOT)},
    )
    assert server.stdout.readline() == "ready\n"
    output = tmp_path_factory.mktemp("said") / "output"

    def run(arguments, folder, moment=None, number=signal.SIGKILL):
        output.write_text("")
        words = ["main.py", *arguments, f"--workdir={folder}", str(output)]
        print(json.dumps(words), file=server.stdin, flush=True)
        child = int(server.stdout.readline())
        deadline = time.monotonic() + 300
        while not list(folder.glob("**/config.json")) and time.monotonic() < deadline:
            time.sleep(0.005)
        began = time.monotonic()
        if moment is not None:
            time.sleep(moment)
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, number)
        status = int(server.stdout.readline())
        return Ended(status, output.read_text(), time.monotonic() - began)

    yield run
    server.stdin.close()
    server.wait(timeout=60)


def moments(duration, seed):
    """(seconds, signal), spread over the duration; each signal is sent in each part."""
    draw = random.Random(seed)
    order = [SIGNALS[i % len(SIGNALS)] for i in range(NUM_MOMENTS)]
    draw.shuffle(order)
    for place, number in enumerate(order):
        yield duration * (place + draw.random()) / NUM_MOMENTS, number


def check_end(ended, number):
    """The status is the signal's and its line the last; True if it came too late."""
    if ended.status == 0:
        return True
    assert ended.status == STATUS[number], ended
    assert "Traceback" not in ended.said and "error" not in ended.said, ended.said
    if number != signal.SIGKILL:
        *_, last = ended.said.splitlines()
        assert re.match(SAID[number], last), ended.said
        assert len(re.findall(SAID[number], ended.said)) == 1
    return False


@functools.cache
def like(text):
    """The arrays of a run, by the text of its config."""
    config = workdir.config_of(json.loads(text))
    network = build_model(config, (8, 8, 1))
    kind = OBJECTIVES[config.model.name]
    optimizer = kind.optimizer(config, network, lambda step: 0.0)
    return init_state(network, optimizer, 0, sharding.make_mesh()).arrays


def arrays_of(folder):
    """Step, parameters and optimizer's state of a run's last checkpoint."""
    arrays = like((folder / "config.json").read_text().replace(str(folder.parent), ""))
    with Checkpoints(folder) as checkpoints:
        step, *_ = checkpoints.steps()
        return step, jax.device_get(checkpoints.restore(step, **arrays))


def logged(folder):
    return [
        {key: value for key, value in line.items() if key not in TIMES}
        for line in read_metrics(folder)
    ]


def half_written(folder):
    """Temporary files and folders of Orbax and of ours, and lines that break off."""
    names = [path for path in folder.rglob("*") if re.search("tmp|writing", path.name)]
    lines = [
        path
        for path in folder.rglob("*.jsonl")
        if not path.read_text("utf-8").endswith("\n")
    ]
    return names + lines


def assert_equal_runs(folder, undisturbed):
    (step, arrays), (last, expected) = arrays_of(folder), arrays_of(undisturbed)
    assert step == last
    jax.tree.map(np.testing.assert_array_equal, arrays, expected)
    assert logged(folder) == logged(undisturbed)
    texts = [
        (run / "config.json").read_text().replace(str(run.parent), "")
        for run in (folder, undisturbed)
    ]
    assert texts[0] == texts[1]


def disturb(call, arguments, whole, folder, seed):
    """Yields every resumed run's folder, and says what came of the signals."""
    outcomes = collections.Counter()
    for place, (moment, number) in enumerate(moments(whole.seconds, seed)):
        disturbed = folder / str(place)
        is_late = check_end(call(arguments, disturbed, moment, number), number)
        outcomes[number.name, "too late" if is_late else "in time"] += 1
        for path in half_written(disturbed):
            os.utime(path, (0, 0))  # some days later
        resumed = call(arguments, disturbed)
        assert resumed.status == 0, (moment, number, resumed.said)
        assert not half_written(disturbed)
        yield disturbed
        print(f"{number.name} at {moment:.1f} of {whole.seconds:.1f} s: as if undisturbed")
    print("signals:", dict(outcomes))
    assert sum(outcomes.values()) == NUM_MOMENTS


def test_a_training_ends_as_if_undisturbed(call, data_dir, tmp_path):
    arguments = [
        *("train", "--config=configs/mae.py:digits,runlocal"),
        *(f"--config.data.dir={data_dir}", "--config.compute.dtype=float32"),
        *("--config.train.total_steps=40", "--config.log.every_steps=5"),
        *("--config.checkpoint.every_steps=8", "--config.checkpoint.every_minutes=0.0"),
    ]
    assert call(arguments, tmp_path / "first").status == 0  # compiles
    undisturbed = tmp_path / "undisturbed"
    whole = call(arguments, undisturbed)
    assert whole.status == 0, whole.said
    assert_equal_runs(tmp_path / "first", undisturbed)
    for run in disturb(call, arguments, whole, tmp_path, seed=0):
        assert_equal_runs(run, undisturbed)


STUDY = """
from configs import studies

def get_config():
    config = studies.get_config("branches,digits,runlocal")
    config.seeds = (0,)
    for run in config.runs.values():
        run.compute.dtype = "float32"
        run.checkpoint.every_steps = 2
        run.data.evaluate_on.update(dict(train=64, validation=64, test=64))
        studies.keep_evals(run, "reconstruction")
    for column in set(config.columns) - {"error_subordinate"}:
        del config.columns[column]
    config.primary = "error_subordinate"
    return config
"""


def test_a_study_ends_as_if_undisturbed(call, data_dir, tmp_path):
    file = tmp_path / "study.py"
    file.write_text(STUDY)
    arguments = ["study", f"--config={file}", f"--config.data_dir={data_dir}"]
    assert call(arguments, tmp_path / "first").status == 0  # compiles
    whole = call(arguments, tmp_path / "undisturbed")
    assert whole.status == 0, whole.said
    undisturbed = tmp_path / "undisturbed" / "branches"
    table = (undisturbed / "table.csv").read_bytes()
    assert table == (tmp_path / "first" / "branches" / "table.csv").read_bytes()
    for folder in disturb(call, arguments, whole, tmp_path, seed=1):
        assert (folder / "branches" / "table.csv").read_bytes() == table
        cells = sorted(path.name for path in (folder / "cells").iterdir())
        assert cells == sorted(
            path.name for path in (undisturbed.parent / "cells").iterdir()
        )
        for cell in cells:
            run, other = folder / "cells" / cell, undisturbed.parent / "cells" / cell
            assert_equal_runs(run, other)
            for path in other.glob("eval*.json"):
                assert (run / path.name).read_bytes() == path.read_bytes()
