"""Folders of runs, some of them broken, linked elsewhere, or very many."""

import json
import os
import shutil
import time

import pytest

from imae_jax.errors import UserError
from imae_jax.report import page
from imae_jax.report.saved_runs import read_runs
from imae_jax.storage import workdir
from imae_jax.storage.checkpoint import Checkpoints, newest_meta


@pytest.fixture
def make_run(mae_config):
    """Writes the files of a run that has been trained and evaluated."""
    config = workdir.as_json(mae_config())

    def make(folder, mse=0.25):
        folder.mkdir(parents=True)
        lines = [{"step": s, "epoch": s / 2, "loss/total": 1.0} for s in (1, 2)]
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
        (folder / "eval.json").write_text(json.dumps({"reconstruction/mse": mse}))
        return folder

    return make


@pytest.mark.parametrize(
    "file,text",
    [
        ("eval.json", "{"),
        ("eval.json", "[1]"),
        ("eval.json", '{"reconstruction/mse": "x"}'),
        ("eval.json", b"\xff\xfe"),
        ("eval_settings.json", "3"),
        ("eval_settings.json", '{"reconstruction/mse": 3}'),
        ("eval_settings.json", '{"left_out": {"probes": 3}}'),
        ("eval_settings.json", '{"left_out": 3}'),
        ("config.json", ""),
        ("config.json", "{}"),
        ("config.json", '{"data": 3}'),
        ("config.json", '{"a":' * 5000),
        ("metrics.jsonl", "3"),
        ("metrics.jsonl", "{}"),
        ("metrics.jsonl", '{"step": 1, "epoch": 1, "seconds": "x"}'),
    ],
)
def test_broken_run_is_named_and_the_others_shown(file, text, make_run, tmp_path, capsys):
    make_run(tmp_path / "good")
    broken = make_run(tmp_path / "broken") / file
    broken.write_bytes(text if isinstance(text, bytes) else text.encode())
    found, reasons = read_runs(tmp_path)
    assert list(found) == ["good"] and list(reasons) == ["broken"]
    assert f"broken is left out: {reasons['broken']}" in capsys.readouterr().err
    assert file in reasons["broken"] or "Error" in reasons["broken"]
    html = page.write_report(tmp_path).read_text("utf-8")
    assert "broken is left out: " in html and "good: digits" in html
    assert "good" in page.read_as_text(tmp_path) or "0.250" in page.read_as_text(tmp_path)


def test_broken_study_is_named(make_run, tmp_path):
    make_run(tmp_path / "good")
    (tmp_path / "mask").mkdir()
    (tmp_path / "mask" / "study.json").write_text('{"name": "mask"}')
    html = page.write_report(tmp_path).read_text("utf-8")
    assert "mask is left out: study.json has no columns, data" in html


def test_only_broken_runs(make_run, tmp_path):
    (make_run(tmp_path / "broken") / "config.json").write_text("")
    with pytest.raises(UserError, match="holds no run to report on; broken: "):
        page.write_report(tmp_path)


def test_damaged_checkpoint_is_left_out(make_run, tmp_path):
    run = make_run(tmp_path / "run")
    for step, text in (("2", '{"device": "one"}'), ("10", "{"), ("x", "{}")):
        (run / "checkpoints" / step / "meta").mkdir(parents=True)
        (run / "checkpoints" / step / "meta" / "metadata").write_text(text)
    assert newest_meta(run) == (2, {"device": "one"})
    assert "2 steps" in page.write_report(tmp_path).read_text("utf-8")


def test_numbers_of_an_earlier_checkpoint_are_said_to_be(make_run, tmp_path):
    run = make_run(tmp_path / "run")
    (run / "checkpoints" / "10" / "meta").mkdir(parents=True)
    (run / "checkpoints" / "10" / "meta" / "metadata").write_text('{"device": "one"}')
    how = {"split": "test", "count": 3, "alpha": None, "mask_ratio": 0.5}
    note = "run: measured after 2 steps, while the run has 10: run eval again"
    for checkpoint in (2, 10):
        settings = {"reconstruction/mse": how | {"checkpoint": checkpoint}}
        (run / "eval_settings.json").write_text(json.dumps(settings))
        is_old = checkpoint == 2
        assert (note in page.write_report(tmp_path).read_text("utf-8")) == is_old
        assert (note in page.read_as_text(tmp_path)) == is_old


def test_metadata_with_another_checksum_is_left_out(tmp_path):
    for step, sha256 in ((8, None), (16, "of something else")):
        path = tmp_path / "checkpoints" / str(step) / "meta" / "metadata"
        path.parent.mkdir(parents=True)
        path.write_text(
            json.dumps({"device": "x"} | ({"sha256": sha256} if sha256 else {}))
        )
    assert newest_meta(tmp_path) == (8, {"device": "x"})


def test_metadata_is_what_orbax_reads(teacher):
    with Checkpoints(teacher) as checkpoints:
        assert newest_meta(teacher) == checkpoints.newest(checkpoints.meta)


@pytest.mark.parametrize(
    "link", ["", "config.json", "eval.json", "metrics.jsonl", "figures", "figures/a.png"]
)
def test_links_out_of_the_folder(link, make_run, tmp_path):
    elsewhere = make_run(tmp_path / "elsewhere" / "secret", mse=0.777)
    (elsewhere / "figures").mkdir()
    (elsewhere / "figures" / "reconstructions.png").write_bytes(b"secret")
    folder = tmp_path / "folder"
    make_run(folder / "good")
    run = folder / "linked"
    if link:
        make_run(run)
        (run / link).unlink(missing_ok=True)
        (run / link).parent.mkdir(exist_ok=True)
    target = elsewhere / link if link != "figures/a.png" else elsewhere / "eval.json"
    os.symlink(target, run / link if link else run)
    found, reasons = read_runs(folder)
    assert list(found) == ["good"]
    assert "is a link that leads out of" in reasons["linked"]
    html = page.write_report(folder).read_text("utf-8")
    assert "0.777" not in html and "linked is left out" in html


def test_a_checkpoint_that_leads_out_of_the_folder_is_not_read(teacher, tmp_path):
    folder = tmp_path / "folder"
    shutil.copytree(teacher, folder / "run")
    assert read_runs(folder)[0]["run"].step == 4
    shutil.move(folder / "run/checkpoints", tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", folder / "run/checkpoints")
    found, reasons = read_runs(folder)
    assert found["run"].step is None and found["run"].meta == {} and not reasons


def test_links_within_the_folder(make_run, tmp_path):
    make_run(tmp_path / "good")
    os.symlink(tmp_path / "good", tmp_path / "again")
    assert list(read_runs(tmp_path)[0]) == ["again", "good"]


def test_hundreds_of_runs(make_run, tmp_path):
    """Seconds, not minutes; no checkpoint is opened with Orbax."""
    for number in range(300):
        meta = make_run(tmp_path / f"run{number:03}") / "checkpoints" / "2" / "meta"
        meta.mkdir(parents=True)
        (meta / "metadata").write_text("{}")
    start = time.process_time()
    html = page.write_report(tmp_path).read_text("utf-8")
    assert time.process_time() - start < 30
    assert html.count("digits, 2 steps") == 300
    assert "those of the first 12 of 300 runs" in html


def test_no_runs(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        page.write_report(tmp_path / "nowhere")
