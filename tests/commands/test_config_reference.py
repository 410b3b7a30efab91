"""`main.py config`: every key of every preset, with its value, meaning and source."""

import importlib
import re
import sys
from pathlib import Path

import pytest

import main
from configs import datasets, mae, studies, transfer
from imae_jax.commands.config_reference import describe, explain
from imae_jax.storage import pytrees

ROOT = Path(__file__).parents[2]
DATASETS = [*datasets.PRESETS, "tfds:flowers"]
# A study's grid is the same on all data sets, whose presets are those of mae and imae.
ARGS = {
    "mae": DATASETS,
    "imae": DATASETS,
    "demo": ["digits", "imagenet"],
    "transfer": [f"{name},{mode}" for name in DATASETS for mode in transfer.MODES],
    "studies": [f"{name},shapes" for name in studies.STUDIES] + ["mask,cifar10"],
}
PRESETS = [
    (file, arg + option)
    for file, args in ARGS.items()
    for arg in args
    for option in ("", ",runlocal")
]


@pytest.fixture(autouse=True)
def in_the_clone(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("file,arg", PRESETS)
def test_every_key_of_every_preset_has_a_meaning_and_a_source(file, arg):
    config = importlib.import_module(f"configs.{file}").get_config(arg)
    entries = list(explain(f"configs/{file}.py", arg))
    text = describe(config, f"configs/{file}.py:{arg}")
    shown = re.findall(r"^(\S+) = (.*)\n    \S.*\n", text, re.MULTILINE)
    assert shown == [(entry.key, repr(entry.value)) for entry in entries]
    assert {entry.key for entry in entries} >= pytrees.flatten(config.to_dict()).keys()
    assert "no source is named" not in text
    for entry in entries:
        assert len(entry.meaning.split()) >= 2, entry
        known = "Ours|MAE|Paper|Released code|Author|DINO|SimCLR"
        assert re.match(known, entry.source), entry
        assert re.fullmatch(r"configs/\w+\.py:\d+", entry.place), entry


def entry_of(key, file, arg):
    (entry,) = [e for e in explain(f"configs/{file}.py", arg) if e.key == key]
    return entry


def line_of(place):
    file, line = place.split(":")
    return Path(file).read_text().splitlines()[int(line) - 1]


def test_a_source_is_that_of_the_line_that_set_the_value():
    entry = entry_of("train.batch_size", "mae", "imagenet")
    assert (entry.value, entry.source) == (4096, "MAE")
    assert "config.train.batch_size = 4096" in line_of(entry.place)
    assert entry_of("train.batch_size", "imae", "imagenet").source == "Released code"
    entry = entry_of("train.batch_size", "imae", "imagenet,runlocal")
    assert (entry.value, entry.source) == (32, "Ours")
    assert "config.train.batch_size = 32" in line_of(entry.place)


def test_the_meaning_is_that_of_the_first_line_and_the_reason_that_of_the_last():
    entry = entry_of("mask.ratio", "mae", "digits")
    assert entry.meaning.startswith("Fraction of masked patches")
    assert entry.reason == "A digit has only 16 patches."
    assert entry_of("mask.ratio", "mae", "cifar10").reason == ""


def test_a_value_that_was_passed_on_has_the_source_of_the_call():
    entry = entry_of("model.decoder.width", "imae", "imagenet")
    assert (entry.value, entry.source) == (512, "Released code")
    assert "decoder(512, 8, 16)" in line_of(entry.place)


def test_a_copy_keeps_the_source():
    key = "runs.{}.loss.distill_weight"
    entries = {e.key: e for e in explain("configs/studies.py", "distillation,shapes")}
    student, copy = entries[key.format("imae")], entries[key.format("imae_by_other")]
    assert (copy.source, copy.place) == (student.source, student.place)
    assert copy.source == "Released code"


def test_runs_of_the_demo_have_sources_of_their_own():
    entries = {e.key: e for e in explain("configs/demo.py", "imagenet")}
    assert entries["teacher.train.batch_size"].source == "MAE"
    assert entries["imae.train.batch_size"].source == "Released code"


def test_comments_of_a_file_of_ones_own(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(
        "from configs import mae\n\n"
        "def get_config():\n"
        "    config = mae.get_config('digits')\n"
        "    # Found by a search (ours, 2024).\n"
        "    config.optim.blr = 0.5\n"
        "    config.seed = 7\n"
        "    config.note = 'x'\n"
        "    return config\n"
    )
    entries = {e.key: e for e in explain(str(file))}
    entry = entries["optim.blr"]
    assert entry.meaning.startswith("Base learning rate")
    assert (entry.reason, entry.source) == ("Found by a search.", "Ours, 2024")
    assert entries["seed"].source == "" and entries["seed"].place.endswith("own.py:7")
    assert entries["note"].meaning == ""


def test_the_command_prints_overrides_as_such(monkeypatch, capsys):
    arguments = ["config", "--config=configs/mae.py:digits", "--config.optim.blr=0.5"]
    monkeypatch.setattr(sys, "argv", ["main.py", *arguments])
    assert main.main() == 0
    text = capsys.readouterr().out
    assert (
        "\noptim.blr = 0.5\n"
        "    Base learning rate: lr = blr * batch_size / 256.\n"
        "    Source: the command line; the preset has 0.024\n"
    ) in text
    assert text.startswith("augment.crop_scale = ()\n    Fraction of the area")


def test_a_key_that_the_preset_lacks_is_of_the_command_line():
    config = mae.get_config("digits")
    config.teacher = {"init": "there"}
    text = describe(config, "configs/mae.py:digits")
    assert "\nteacher.init = 'there'\n    Source: the command line\n" in text


def test_the_recorder_is_gone_afterwards():
    from ml_collections import ConfigDict

    before = ConfigDict.__setitem__
    list(explain("configs/mae.py", "digits"))
    with pytest.raises(ValueError):
        list(explain("configs/mae.py", "digitz"))
    assert ConfigDict.__setitem__ is before
