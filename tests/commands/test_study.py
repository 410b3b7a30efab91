"""Studies end to end: grids of tiny runs, killed, failing, shared."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from configs import studies
from imae_jax.commands import study, study_grid
from imae_jax.errors import UserError
from imae_jax.report import study_tables
from imae_jax.report.page import write_report

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.fixture
def make(data_dir):
    """Makes a small study: two arms, the reconstruction error as its one column."""

    def make(name="branches", seeds=(0, 1)):
        config = studies.get_config(f"{name},digits,runlocal")
        config.seeds, config.data_dir = seeds, data_dir
        for run in config.runs.values():
            run.compute.dtype = "float32"
            run.data.evaluate_on.update(dict(train=64, validation=64, test=64))
            studies.keep_evals(run, "reconstruction")
        config.primary = "error_subordinate"
        for column in list(config.columns):
            if column != "error_subordinate":
                del config.columns[column]
        return config

    return make


def values(folder, arm):
    found = json.loads((folder / "study.json").read_text())
    return found["rows"][arm]["values"]["error_subordinate"]


def test_a_study_is_one_table(make, tmp_path, capsys):
    config = make()
    folder = study.study(config, tmp_path)
    assert folder == tmp_path / "branches"
    found = json.loads((folder / "study.json").read_text())
    assert found["seeds"] == [0, 1] and found["failed"] == {}
    assert found["training"] == "teacher 4 steps, imae 4 steps"
    for arm in ("both", "subordinate"):
        numbers = values(folder, arm)
        for seed in (0, 1):
            cell = study_grid.make_cell(config, arm, "imae", seed)
            own = json.loads((cell.folder(tmp_path) / "eval.json").read_text())
            assert numbers[str(seed)] == own["reconstruction/subordinate/ratio"]
        assert numbers["0"] != numbers["1"]
    assert len(list((tmp_path / "cells").iterdir())) == 2 * 3
    assert "cell 6 of 6" in capsys.readouterr().out
    mean = study_tables.cell(list(values(folder, "both").values()), 2)
    assert f"| both | {mean} |" in (folder / "table.md").read_text()
    assert (folder / "table.csv").read_text().count("\n") == 1 + 2 * 2
    assert (
        "Primary number, named before the study ran: error, sub."
        in (folder / "table.md").read_text()
    )
    page = write_report(tmp_path).read_text()
    assert "Study: branches" in page and mean in page


def test_studies_share_cells_and_done_ones_are_kept(make, tmp_path, monkeypatch):
    trained, original = [], study.train

    def counted(config, workdir, **options):
        trained.append(Path(workdir).name)
        return original(config, workdir, **options)

    monkeypatch.setattr(study, "train", counted)
    study.study(make("branches", seeds=(0,)), tmp_path)
    assert len(trained) == 3
    study.study(make("teacher_input", seeds=(0,)), tmp_path)
    # The teacher, and the arm that changes nothing, were there already.
    assert len(trained) == 4
    study.study(make("branches", seeds=(0,)), tmp_path)
    assert len(trained) == 4


def test_a_failing_cell_does_not_stop_the_others(make, tmp_path, monkeypatch, capsys):
    original = study.train

    def failing(config, workdir, **options):
        if config.model.name == "imae" and config.loss.branches == "both":
            raise RuntimeError("out of\nmemory")
        return original(config, workdir, **options)

    monkeypatch.setattr(study, "train", failing)
    with pytest.raises(UserError) as error:
        study.study(make(seeds=(0,)), tmp_path)
    reason = "both: imae, seed 0 (RuntimeError: out of memory)"
    assert str(error.value) == f"1 of 3 cells failed: {reason}"
    folder = tmp_path / "branches"
    assert values(folder, "both") == {} and set(values(folder, "subordinate")) == {"0"}
    assert "| both | – |" in (folder / "table.md").read_text()
    assert "Failed: both: imae, seed 0: RuntimeError" in (folder / "table.md").read_text()
    # Once it works, only that one is made.
    monkeypatch.setattr(study, "train", original)
    capsys.readouterr()
    study.study(make(seeds=(0,)), tmp_path)
    assert capsys.readouterr().out.count("study: cell") == 1
    assert set(values(folder, "both")) == {"0"}


def test_what_needs_a_failed_cell_is_left_out(make, tmp_path, monkeypatch):
    def failing(config, workdir, **options):
        raise UserError("no disk")

    monkeypatch.setattr(study, "train", failing)
    with pytest.raises(UserError) as error:
        study.study(make(seeds=(0,)), tmp_path)
    assert str(error.value) == (
        "3 of 3 cells failed: both: teacher, seed 0 (no disk); "
        "both: imae, seed 0 (left out: it needs both: teacher, seed 0, which failed); "
        "subordinate only: imae, seed 0 (left out: it needs both: teacher, seed 0, which "
        "failed)"
    )


def test_bad_configs_are_found_before_the_first_run(make, tmp_path):
    config = make()
    config.arms.subordinate.runs.imae.change.mix = dict(alpha=0.9)
    with pytest.raises(
        UserError, match="subordinate only: imae, seed 0: invalid mix.alpha=0.9"
    ):
        study.study(config, tmp_path)
    config = make()
    config.runs.teacher.init = str(tmp_path / "nothing")
    with pytest.raises(UserError, match="both: teacher, seed 0: init=.*no such folder"):
        study.study(config, tmp_path)
    assert not (tmp_path / "cells").exists()


def test_no_data_is_prepared_for_a_config_with_a_bad_key(make, tmp_path, monkeypatch):
    monkeypatch.setattr(study.setup, "check", lambda *_: pytest.fail("too late"))
    config = make()
    config.arms.subordinate.runs.imae.change.mix = dict(alpha=0.9)
    with pytest.raises(UserError, match=r"imae.*: invalid mix.alpha=0.9"):
        study.study(config, tmp_path)


def test_starts_that_do_not_fit_are_found_before_the_first_run(make, teacher, tmp_path):
    config = make()
    config.runs.teacher.init = str(teacher)
    config.runs.teacher.model.decoder.width = 24
    with pytest.raises(UserError, match="seed 0: init=.* does not fit the model"):
        study.study(config, tmp_path)
    assert not (tmp_path / "cells").exists()


def test_time_left_counts_each_kind_by_its_own():
    class Fake:
        def __init__(self, name):
            self.config = type("", (), {"model": type("", (), {"name": name})})

    todo = [Fake("mae"), Fake("imae"), Fake("classifier")]
    assert study.seconds_left(todo, {}) is None
    assert study.seconds_left(todo, {"mae": [1.0, 3.0], "imae": [8.0]}) == 2 + 8 + 4


def test_a_killed_study_goes_on_to_the_same_table(data_dir, tmp_path):
    arguments = [
        sys.executable,
        str(ROOT / "main.py"),
        "study",
        "--config=configs/studies.py:branches,digits,runlocal",
        "--config.seeds=(0,)",
        f"--config.data_dir={data_dir}",
        *(f"--config.runs.{run}.checkpoint.every_steps=1" for run in ("teacher", "imae")),
        "--config.runs.imae.train.total_steps=12",
    ]
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}

    def start(workdir):
        return subprocess.Popen(
            [*arguments, f"--workdir={workdir}"],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    killed = start(tmp_path / "killed")
    deadline = time.monotonic() + 120
    # In the middle of the first student.
    while time.monotonic() < deadline and killed.poll() is None:
        if list(tmp_path.glob("killed/cells/imae-*/checkpoints/[1-9]*")):
            break
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "branches" / "study.json").exists()
    runs = [start(tmp_path / name) for name in ("killed", "whole")]
    printed = [run.communicate()[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], printed
    assert "cell 2 of 3" in printed[0] and "cell 1 of 3" not in printed[0]
    tables_of = [
        (tmp_path / name / "branches" / "table.csv").read_text()
        for name in ("killed", "whole")
    ]
    assert tables_of[0] == tables_of[1]
    assert tables_of[0].splitlines()[0] == "arm,label,column,seed,value"
    assert "Study: branches" in printed[0]
