import json
import os
import re

import pytest

from imae_jax.storage import metrics_log
from imae_jax.storage.metrics_log import (
    METRICS_FILE,
    MetricWriter,
    Progress,
    Throughput,
    read_metrics,
)


def test_metrics_are_lines_of_json_and_survive_a_cut_line(tmp_path):
    with MetricWriter(tmp_path, 0) as writer:
        writer.write({"step": 1, "loss/total": 2.0})
        writer.write({"step": 2, "loss/total": 1.0})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 3, "lo')
    assert [line["loss/total"] for line in read_metrics(tmp_path)] == [2.0, 1.0]
    # Going on from step 1: what stands behind it is written anew.
    with MetricWriter(tmp_path, 1) as writer:
        writer.write({"step": 2, "loss/total": 1.0})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]


def test_damaged_lines_are_removed_when_the_run_goes_on(tmp_path):
    good = [{"step": 1, "seconds": 2.0}, {"step": 2, "seconds": 3.0}]
    odd = [[1], 3, None, {}, {"step": "x"}, {"step": 1, "seconds": "x"}]
    lines = [json.dumps(line).encode() for line in (good[0], *odd, good[1])]
    deep = b'{"step": ' + b"[" * 10**5
    (tmp_path / METRICS_FILE).write_bytes(b"\n".join([b"\xff\xfe\0", deep, *lines]))
    with MetricWriter(tmp_path, 2) as writer:
        assert writer.seconds == 3.0
    assert read_metrics(tmp_path) == good


def test_no_metrics_yet(tmp_path):
    assert read_metrics(tmp_path) == []


def test_throughput_counts_images_after_the_first_reading(monkeypatch):
    now = iter([9.0, 10.0, 12.0])
    monkeypatch.setattr("imae_jax.storage.metrics_log.time.perf_counter", lambda: next(now))
    throughput = Throughput(seconds=100.0)  # before it was interrupted
    assert throughput.read(1, 32, seconds_waited=3.0) == {"seconds": 101.0}
    assert throughput.read(11, 32, seconds_waited=3.5) == {
        "seconds": 103.0,
        "images_per_second": 160.0,
        "data_wait": 0.25,
    }


def test_progress_prints_lines_where_no_one_watches(capsys):
    with Progress("imae", 0, 3) as progress:
        for step in (1, 2, 3):
            progress.update(step)
            progress.show(step, {"loss/total": 0.5, "images_per_second": 99.6})
    lines = capsys.readouterr().out.splitlines()
    # The first and the last; between them at most one every 15 seconds.
    assert lines == [f"imae: step {step}/3  total 0.500  images/s 100" for step in (1, 3)]


def test_the_time_left_is_that_of_the_steps_after_the_first(capsys, monkeypatch):
    # The first step was compiled; what that took does not count.
    now = iter([1000.0, 1020.0, 1120.0])
    monkeypatch.setattr("imae_jax.storage.metrics_log.time.monotonic", lambda: next(now))
    with Progress("imae", 0, 60) as progress:
        for step in (1, 11, 51):
            progress.show(step, {})
    lines = capsys.readouterr().out.splitlines()
    # 10 steps in 20 s, then 50 in 120 s.
    assert [line.split("  ")[1:] for line in lines] == [[""], ["left 98 s"], ["left 22 s"]]


def test_a_full_disk_is_named(tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full, on which no write succeeds")
    (tmp_path / METRICS_FILE).symlink_to("/dev/full")
    said = f"No space left on device: '{tmp_path / METRICS_FILE}'"
    with (
        pytest.MonkeyPatch.context() as patched,
        pytest.raises(OSError, match=re.escape(said)),
    ):
        patched.setattr(metrics_log, "read_metrics", lambda workdir: [])
        patched.setattr(metrics_log.atomic_files, "write_text", lambda path, text: None)
        with MetricWriter(tmp_path, 0) as writer:
            writer.write({"step": 1})
