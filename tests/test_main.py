"""The command line, as a user types it."""

import json
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from running import call, command, environment, fails

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    "arguments,message",
    [
        (
            ["trian", "--workdir=x"],
            "did you mean 'train'? it comes first: train, demo, data",
        ),
        (["--workdir=x", "train"], "is not a command; it comes first"),
        (["train", "--workdir", "demo"], "train needs --config"),
        (
            ["train", "--config=configs/demo.py", "--workdir=x"],
            "--config describes no run: it has no section 'data'",
        ),
        (
            ["demo", "--config=configs/imae.py", "--workdir=x"],
            "--config describes no demo: it has no section 'imae'",
        ),
        (
            ["demo", "--workdir=x", "--config.imae.mix.alpha=0.9"],
            "imae: invalid mix.alpha=0.9",
        ),
        (
            ["demo", "--workdir=x", "--config.imae.teacher.init=there"],
            "imae: teacher.init='there': the demo trains its own teacher",
        ),
        (["train", "--config=configs/mae.py:digits"], "train needs --workdir"),
        (["train", "--workdir=x"], "train needs --config"),
        (["train", "again", "--config=configs/mae.py", "--workdir=x"], "argument 'again'"),
        (["train", "--wrkdir=x"], "--wrkdir=x is not a flag; flags: --workdir=DIR, "),
        (["compile", "--config=configs/mae.py:digits"], "compile needs --topology"),
        (["compile", "--topology=cuda"], "compile needs --config"),
        (
            ["compile", "--config=configs/mae.py:digits", "--topology=v9:2x2"],
            "--topology='v9:2x2' is not known: give cuda, or one of v4, v5e",
        ),
        (
            [
                *("compile", "--config=configs/mae.py:digits", "--topology=cuda"),
                "--json=nowhere/found.json",
            ],
            "--json=nowhere/found.json: give a file in a folder that exists",
        ),
        (
            ["train", "--config=configs/mae.py", "--workdir=x", "--topology=cuda"],
            "--topology is for compile",
        ),
        (
            ["train", "--config=configs/mae.py", "--workdir=x", "--num_processes=2"],
            "--num_processes and --process_id need --coordinator",
        ),
        (
            ["train", "--config=configs/mae.py", "--workdir=x", "--config.optim.blrr=1"],
            "--config.optim.blrr=1: optim has no key 'blrr'; did you mean 'blr'?",
        ),
        (
            ["train", "--config=configs/mae.py", "--workdir=x", "--config.optm.blr=1"],
            "--config.optm.blr=1: the config has no key 'optm'; did you mean 'optim'?",
        ),
        (
            ["train", "--config=configs/mae.py", "--workdir=x", "--config.optim.blr=fast"],
            "--config.optim.blr=fast",
        ),
        (
            ["train", "--config=configs/mae.py:digitz", "--workdir=x"],
            "no preset for data set 'digitz'; presets: digits",
        ),
        (["train", "--config=configs/nope.py", "--workdir=x"], "configs/nope.py"),
        (["eval", "--workdir=nowhere"], "nowhere/config.json does not exist"),
        (["report", "--workdir=nowhere"], "holds no run"),
        (
            ["train", "--config=configs/imae.py:digits,runlocal", "--workdir=x"],
            "teacher.init is empty",
        ),
    ],
)
def test_bad_input_gets_one_line(arguments, message, tmp_path, data_dir):
    arguments = [a.replace("--workdir=x", f"--workdir={tmp_path}/x") for a in arguments]
    if any(a.startswith("--config=configs/imae.py") for a in arguments):
        arguments.append(f"--config.data.dir={data_dir}")
    assert message in fails(*arguments)
    assert not (tmp_path / "x" / "config.json").exists()


def test_help():
    done = call("--help")
    assert done.returncode == 0 and "--config.a.b=VALUE" in done.stdout
    assert call().returncode == 1


@pytest.fixture(scope="module")
def demo(data_dir, tmp_path_factory):
    """The demo, shrunk, run by the command line; its arguments and folder."""
    workdir = tmp_path_factory.mktemp("demo") / "demo"
    sections = ("teacher", "imae_without_distillation", "imae")
    arguments = [
        "demo",
        "--config=configs/demo.py:digits,runlocal",
        *(f"--config.{section}.data.dir={data_dir}" for section in sections),
        *(f"--config.{section}.checkpoint.every_steps=1" for section in sections),
    ]
    done = call(*arguments, f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    return arguments, workdir, done.stdout


@pytest.mark.slow
def test_demo_writes_what_it_promises(demo):
    _, workdir, output = demo
    results = json.loads((workdir / "eval.json").read_text())
    for branch in ("subordinate", "dominant"):
        for row in (
            "",
            "baselines/without_distillation/",
            "baselines/mae_on_mixture/",
            "baselines/random/",
        ):
            assert results[f"separability/{row}{branch}/r2"] <= 1
        ratio = results[f"reconstruction/{branch}/ratio"]
        mse = results[f"reconstruction/{branch}/mse"]
        mean = results[f"reconstruction/{branch}/mse_train_mean"]
        assert ratio == pytest.approx(mse / mean)
        assert f"{ratio:.3f}" in output
    settings = json.loads((workdir / "eval_settings.json").read_text())
    assert settings.keys() == results.keys()
    assert settings["separability/dominant/r2"] == {
        "split": "test",
        "count": 300,
        "alpha": 0.3,
        "mask_ratio": 0.25,
        "checkpoint": 4,
    }
    assert f"are to be told apart: {workdir / 'mixtures.png'}\nteacher: a MAE" in output
    assert (workdir / "mixtures.png").read_bytes().startswith(b"\x89PNG")
    page = (workdir / "report.html").read_text()
    assert "Linear separability" in page and "<h1>The i-MAE&#39;s latents" in page
    # Two pictures of three runs; of one the panel, the sheet and five at the page's head.
    assert page.count("data:image/png") == 13
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    for name in ("teacher", "imae", "imae_without_distillation"):
        for picture in ("reconstructions.png", "latents.png"):
            assert (workdir / name / "figures" / picture).stat().st_size > 5000
    assert str(workdir / "report.html") in output


@pytest.mark.slow
def test_eval_and_report_again_give_the_same(demo):
    _, workdir, _ = demo
    before = (workdir / "imae" / "eval.json").read_text()
    done = call("eval", f"--workdir={workdir / 'imae'}")
    assert done.returncode == 0, done.stderr
    for row in ("i-MAE without distillation", "random weights", "position alone"):
        assert row in done.stdout
    assert "Measured on 300 mixtures of the test split, alpha 0.3" in done.stdout
    assert (workdir / "imae" / "eval.json").read_text() == before
    (workdir / "report.html").unlink()
    assert call("report", f"--workdir={workdir}").returncode == 0
    assert (workdir / "report.html").exists()


@pytest.mark.slow
def test_eval_takes_overrides_of_the_stored_config(demo, tmp_path):
    _, workdir, _ = demo
    run = shutil.copytree(workdir / "imae_without_distillation", tmp_path / "run")
    done = call("eval", f"--workdir={run}", "--config.evals.reconstruction.alpha=0.2")
    assert "alpha 0.2, mask ratio 0.25" in done.stdout, done.stderr
    settings = json.loads((run / "eval_settings.json").read_text())
    assert settings["reconstruction/dominant/mse"]["alpha"] == 0.2


@pytest.mark.slow
def test_killed_at_any_moment_the_demo_goes_on_and_ends_the_same(demo, tmp_path):
    arguments, undisturbed, _ = demo
    again = command(*arguments, f"--workdir={tmp_path}/demo")
    # Kill once the files of each stage begin to appear.
    for moment in ("imae_without_distillation/checkpoints", "imae/checkpoints/2"):
        process = subprocess.Popen(
            again, cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL
        )
        while process.poll() is None and not (tmp_path / "demo" / moment).exists():
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not (tmp_path / "demo" / "eval.json").exists()
    done = subprocess.run(again, cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL)
    assert done.returncode == 0
    for name in ("eval.json", "imae/eval.json", "teacher/eval.json"):
        assert (tmp_path / "demo" / name).read_text() == (undisturbed / name).read_text()
