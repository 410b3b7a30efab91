import gzip
import json
import sys

import pytest
from running import call

from imae_jax.commands.command_flags import parse_steps
from imae_jax.errors import UserError
from imae_jax.training.cadence import Cadence
from imae_jax.training.loop import train
from imae_jax.training.trace import Trace


def steps_in_trace(folder):
    """The steps marked in the trace that Perfetto opens."""
    (path,) = folder.rglob("perfetto_trace.json.gz")
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    assert list(folder.rglob("*.xplane.pb"))  # what XProf opens
    found = [event["args"] for event in events if event.get("name") == "train"]
    return sorted(int(args["step_num"]) for args in found)


@pytest.mark.slow
def test_the_steps_asked_for_are_traced(data_dir, tmp_path):
    done = call(
        "train",
        "--config=configs/mae.py:digits,runlocal",
        f"--config.data.dir={data_dir}",
        "--config.train.steps_per_dispatch=1",
        f"--workdir={tmp_path / 'run'}",
        "--profile=2:3",
    )
    assert done.returncode == 0, done.stderr
    assert steps_in_trace(tmp_path / "run" / "profile") == [2, 3]


def test_a_dispatch_ends_where_the_trace_begins_and_ends(mae_config, tmp_path):
    config = mae_config()
    config.log.every_steps = config.train.steps_per_dispatch = 50
    config.checkpoint.every_steps = 0
    cadence = Cadence(config, 200, stops=Trace((12, 20), tmp_path).stops)
    stops = [0]
    while stops[-1] < 100:
        stops.append(cadence.next_stop(stops[-1]))
    assert stops == [0, 11, 20, 50, 100]


def test_steps_that_the_run_does_not_make_are_refused(mae_config, tmp_path):
    for steps in ((3, 5), (0, 1)):
        with pytest.raises(UserError, match="invalid profile='.*': .* makes, 1 to 4"):
            train(mae_config(), tmp_path, profile=steps)
    assert not (tmp_path / "profile").exists()


def test_a_compiler_that_crashes_the_profiler_is_refused(mae_config, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "libtpu", None)
    with pytest.raises(UserError, match="cannot trace steps 1:2: .* set JAX_PLATFORMS=cpu"):
        train(mae_config(), tmp_path, profile=(1, 2))
    assert not (tmp_path / "profile").exists()


@pytest.mark.parametrize("value", ["", "3", "3:", "5:4", "0:4", "a:b", "1:2:3", "-1:2"])
def test_no_pair_of_steps(value):
    with pytest.raises(UserError, match="invalid --profile=.* FIRST:LAST"):
        parse_steps(value, "--profile")
    assert parse_steps("3:4", "--profile") == (3, 4)
