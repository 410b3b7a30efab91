"""Numbers sent to TensorBoard and to services, whose packages are stood in for."""

import errno
import subprocess
import sys
from types import SimpleNamespace

import pytest
from PIL import Image
from running import events

from imae_jax import evaluation
from imae_jax.errors import UserError
from imae_jax.storage import trackers
from imae_jax.training.loop import train

SERVICES = ("wandb", "trackio")


@pytest.fixture
def calls(monkeypatch):
    """The calls of both services' functions: (service, function, arguments, options)."""
    made = []

    def record(service, name):
        return lambda *args, **options: made.append((service, name, args, options))

    for service in SERVICES:
        functions = {name: record(service, name) for name in ("init", "log", "finish")}

        def image(picture, service=service):
            return service, picture.size

        package = SimpleNamespace(__spec__=object(), Image=image, **functions)
        monkeypatch.setitem(sys.modules, service, package)
    return made


def scalars(workdir):
    return {
        (event.step, value.tag): value.simple_value
        for event in events(workdir)
        for value in event.summary.value
        if value.HasField("simple_value")
    }


def test_services_get_config_and_metrics_and_go_on_after_an_interruption(calls, tmp_path):
    workdir = tmp_path / "run"
    workdir.mkdir()
    config = {"seed": 0, "optim": {"blr": 0.1}}
    with pytest.raises(KeyboardInterrupt):
        with trackers.tracking(SERVICES, workdir, 0, config) as track:
            track.write(1, {"loss/total": 2.0})
            raise KeyboardInterrupt
    with trackers.tracking(SERVICES, workdir, 1, config) as track:
        track.write(2, {"loss/total": 1.0})
        track.draw(2, "validation", Image.new("RGB", (3, 2)))
    of = {s: [call[1:] for call in calls if call[0] == s] for s in SERVICES}
    run_id = (workdir / trackers.ID_FILE).read_text()
    name = dict(
        wandb=dict(id=run_id, name="run", dir=str(workdir)),
        trackio=dict(name=f"run-{run_id}"),
    )
    assert len(run_id) == 8
    for service in SERVICES:
        begun = dict(project="imae_jax", resume="allow", config=config) | name[service]
        assert of[service] == [
            ("init", (), begun),
            ("log", ({"loss/total": 2.0},), {"step": 1}),
            ("finish", (), {}),
            ("init", (), begun),
            ("log", ({"loss/total": 1.0},), {"step": 2}),
            ("log", ({"validation": (service, (3, 2))},), {"step": 2}),
            ("finish", (), {}),
        ]


def test_other_processes_send_nothing(calls, tmp_path, monkeypatch):
    monkeypatch.setattr(trackers.processes, "is_first", lambda: False)
    with trackers.tracking((*SERVICES, "tensorboard"), tmp_path, 0, {}) as track:
        track.write(1, {"loss/total": 2.0})
        track.draw(1, "validation", Image.new("RGB", (3, 2)))
    assert not calls and not list(tmp_path.iterdir())


def test_a_missing_package_is_named_before_anything_is_made(
    mae_config, tmp_path, monkeypatch
):
    trackers.check_installed(["tensorboard"])
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    config = mae_config()
    config.log.to = ("tensorboard", "trackio")
    with pytest.raises(UserError, match=r"log.to=.*'trackio'\): pip install trackio"):
        train(config, tmp_path / "run")
    assert not list(tmp_path.glob("run/*"))


def test_tensorboard_needs_no_pytorch(parity):
    """Which takes seconds to load; it can be loaded afterwards."""
    parity("torch")
    code = (
        "import sys; from imae_jax.storage import trackers; trackers._summary_writer()\n"
        "assert 'torch' not in sys.modules; import torch"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_full_disk_names_the_events(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    folder = tmp_path / "tensorboard"
    with pytest.raises(OSError, match=f"No space left on device: '{folder}'"):
        with trackers.tracking(["tensorboard"], tmp_path, 0, {}) as track:
            with monkeypatch.context() as patched:
                patched.setattr(track.trackers[0]._events, "add_scalar", full)
                track.write(1, {"a": 1.0})


def test_tensorboard_hides_what_an_interrupted_run_wrote(tmp_path):
    with trackers.tracking(["tensorboard"], tmp_path, 0, {}) as track:
        track.write(1, {"a": 1.0})
        track.write(2, {"a": 2.0})
    with trackers.tracking(["tensorboard"], tmp_path, 1, {}) as track:
        track.write(2, {"a": 3.0})
    assert scalars(tmp_path)[2, "a"] == 3.0
    # TensorBoard drops what is from this step on.
    begun = [event.step for event in events(tmp_path) if event.session_log.status == 1]
    assert begun[-1] == 2


@pytest.mark.slow
def test_a_run_sends_its_metrics_and_then_its_results(calls, mae_config, tmp_path):
    config = mae_config()
    config.log.to = ("tensorboard", "wandb")
    config.evals = {"reconstruction": config.evals.reconstruction}
    train(config, tmp_path)
    results = evaluation.evaluate(config, tmp_path)
    logged = {step["step"]: args[0] for _, name, args, step in calls if name == "log"}
    sent = {f"eval/{name}": value for name, value in results.items()}
    assert logged.keys() == {1, 2, 3, 4} and logged[4] == sent
    assert {"loss/total", "lr", "epoch"} <= logged[1].keys()
    shown = scalars(tmp_path)
    assert shown[1, "loss/total"] == pytest.approx(logged[1]["loss/total"])
    for name, value in sent.items():
        assert shown[4, name] == pytest.approx(value)
    (config_sent,) = {str(o["config"]["optim"]) for _, n, _, o in calls if n == "init"}
    assert "'blr'" in config_sent
