import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import imae_jax
import main
from configs import demo as demo_config
from configs import studies
from imae_jax import evaluation
from imae_jax.commands import demo, describe_data, study
from imae_jax.config import checks
from imae_jax.data.load import load
from imae_jax.errors import UserError
from imae_jax.interop import export_weights, import_weights
from imae_jax.report import page
from imae_jax.storage.local_paths import check_paths, local_path
from imae_jax.training import trained_run
from imae_jax.training.loop import train

ADDRESSES = ["gs://bucket/run", "s3://bucket/run", "http://host/a.pth", "file:///tmp/x"]


@pytest.mark.parametrize("address", [*ADDRESSES, Path("gs://bucket/run"), "odd+1://x"])
def test_an_address_is_refused_and_the_remedy_named(address):
    with pytest.raises(UserError, match="workdir='.* be a path of this machine; mount"):
        local_path(address, "workdir")


@given(st.text(alphabet="abc.:/ _-", max_size=20))
def test_paths_without_a_scheme_are_taken_as_they_are(text):
    if "://" in text:
        with pytest.raises(UserError):
            local_path(text, "workdir")
    else:
        assert local_path(text, "workdir") == Path(text)


def test_home_folders(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert local_path("~/runs", "workdir") == Path("/home/me/runs")
    with pytest.raises(UserError, match="invalid workdir='~nobody_here/x'"):
        local_path("~nobody_here/x", "workdir")


CONFIG = "--config=configs/imae.py:digits,runlocal"


@pytest.mark.parametrize(
    "arguments,key",
    [
        (["train", CONFIG, "--workdir=gs://b/r"], "--workdir"),
        (["train", CONFIG, "--workdir", "gs://b/r"], "--workdir"),
        (["eval", "--workdir=s3://b/r"], "--workdir"),
        (["demo", "--workdir=gs://b/r"], "--workdir"),
        (["data", CONFIG, "--config.data.dir=gs://b/d"], "--config.data.dir"),
        (["train", "--config=https://host/mae.py:digits", "--workdir=x"], "--config"),
        (["train", CONFIG, "--workdir=x", "--config.teacher.init=gs://b"], "--config.teac"),
        (["train", CONFIG, "--workdir=x", "--config.init=gs://b"], "--config.init"),
        (["eval", "--workdir=x", "--config.evals.separability.teacher=gs://b"], "--config"),
        (["export", "--workdir=x", "--out=gs://b/w.safetensors"], "--out"),
        (["import", "--workdir=x", "--checkpoint=https://host/a.pth"], "--checkpoint"),
        (["compile", CONFIG, "--topology=v5e:2x4", "--json=gs://b/x.json"], "--json"),
        (["report", "--workdir=gs://b"], "--workdir"),
    ],
)
def test_every_flag_refuses_addresses_before_anything_is_made(
    arguments, key, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["main.py", *arguments])
    assert main.main() == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: invalid {key}") and "mount the bucket" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "call",
    [
        lambda config, address: train(config, address),
        lambda config, address: evaluation.evaluate(config, address),
        lambda config, address: describe_data.describe(config, address),
        lambda config, address: demo.demo(demo_config.get_config("digits"), address),
        lambda config, address: study.study(studies.get_config("mask,digits"), address),
        lambda config, address: imae_jax.load(address),
        lambda config, address: trained_run.load_run(address, "teacher.init", None),
        lambda config, address: load("digits", address),
        lambda config, address: export_weights.export(
            address, "safetensors", "x.safetensors"
        ),
        lambda config, address: import_weights.import_file(address, "x", {}),
        lambda config, address: page.write_report(address),
    ],
)
def test_every_function_refuses_addresses(call, mae_config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for address in ADDRESSES[0], Path(ADDRESSES[0]):
        with pytest.raises(UserError, match="mount the bucket"):
            call(mae_config(), address)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("key", ["data.dir", "init", "teacher.init"])
def test_every_text_of_a_config_is_looked_at(key, imae_config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = imae_config()
    config.update_from_flattened_dict({key: "gs://bucket/x"})
    for check in check_paths, checks.check_keys:
        with pytest.raises(UserError, match=f"^invalid {key}='gs://bucket/x'"):
            check(config)
    with pytest.raises(UserError, match=f"^invalid {key}="):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()
