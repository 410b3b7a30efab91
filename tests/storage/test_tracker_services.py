"""Real runs of Weights & Biases, offline, and of Trackio, in its own database."""

import json
import os
import sqlite3
import subprocess
import sys

import pytest
from running import ROOT, importer

# In a process of its own: Trackio reads its folder's place when it is imported.
TWO_STARTS = """
import sys
from pathlib import Path
from PIL import Image
from imae_jax.storage.trackers import tracking

service, workdir = sys.argv[1], Path(sys.argv[2])
for first_step, loss in ((0, 2.0), (1, 1.0)):
    with tracking([service], workdir, first_step, {"optim": {"blr": 0.25}}) as track:
        track.write(first_step + 1, {"loss/total": loss})
        track.draw(first_step + 1, "validation", Image.new("RGB", (3, 2)))
"""


@pytest.fixture(params=["wandb", "trackio"])
def service(request):
    importer("IMAE_REQUIRE_OPTIONAL", ".ci/run optional")(request.param)
    return request.param


def test_a_resumed_run_goes_on_in_the_same_run_of_the_service(service, tmp_path):
    workdir = tmp_path / "run"
    workdir.mkdir()
    places = {"WANDB_MODE": "offline", "TRACKIO_DIR": str(tmp_path / "trackio")}
    subprocess.run(
        [sys.executable, "-c", TWO_STARTS, service, str(workdir)],
        check=True,
        cwd=ROOT,
        env=os.environ | places,
        timeout=300,
    )
    run_id = (workdir / ".run_id").read_text()
    if service == "wandb":
        files = sorted(workdir.glob(f"wandb/offline-run-*-{run_id}*/run-{run_id}.wandb"))
        assert len(files) == 2  # one a start, under the same ID
        for path in files:
            data = path.read_bytes()
            assert b"loss/total" in data and b"validation" in data and b"0.25" in data
            assert list(path.parent.glob("files/media/images/validation_*.png"))
        return
    with sqlite3.connect(tmp_path / "trackio" / "imae_jax.db") as database:
        rows = database.execute("select run_name, step, metrics from metrics").fetchall()
        configs = database.execute("select run_name, config from configs").fetchall()
    assert {name for name, *_ in rows + configs} == {f"run-{run_id}"}
    found = [(step, json.loads(metrics).get("loss/total")) for _, step, metrics in rows]
    assert [x for x in found if x[1] is not None] == [(1, 2.0), (2, 1.0)]
    assert all(json.loads(config)["optim"] == {"blr": 0.25} for _, config in configs)
    assert len(list(tmp_path.glob("trackio/media/imae_jax/*/*/*.png"))) == 2
