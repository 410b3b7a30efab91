import importlib
import re
from pathlib import Path

import pytest

from configs import datasets, demo, imae, mae, transfer

PRESETS = [
    f"{dataset}{option}" for dataset in datasets.PRESETS for option in ("", ",runlocal")
]


@pytest.mark.parametrize("name", ["mae", "imae", "demo"])
@pytest.mark.parametrize("arg", PRESETS)
def test_every_preset_loads_and_survives_json(name, arg):
    config = importlib.import_module(f"configs.{name}").get_config(arg)
    assert config.to_json()


def test_default_is_digits():
    assert mae.get_config().data.name == "digits"


@pytest.mark.parametrize(
    "arg,message",
    [("digitz", "presets: digits"), ("digits,runlocl", "'runlocl'; options: runlocal")],
)
def test_unknown_data_set_or_option(arg, message):
    for module in (mae, imae, demo):
        with pytest.raises(ValueError, match=message):
            module.get_config(arg)


def test_runs_of_the_demo_differ_only_where_they_should():
    config = demo.get_config("digits")
    plain, distilled = (
        config.imae_without_distillation.to_dict(),
        config.imae.to_dict(),
    )
    assert plain.pop("loss")["distill_weight"] == 0
    assert distilled.pop("loss")["distill_weight"] == 1
    # The i-MAE run's tables have a row for the other.
    distilled.pop("explorer")
    distilled["evals"] = {"reconstruction": distilled["evals"]["reconstruction"]}
    assert plain == distilled


def test_the_library_reads_no_default_from_a_config():
    """`config.get(key, default)` would hide a value from configs/."""
    for path in (Path(__file__).parent.parent / "imae_jax").rglob("*.py"):
        for call in re.findall(r"config[\w.]*\.get\([^)]*,[^)]*\)", path.read_text()):
            raise AssertionError(f"{path}: {call}")


@pytest.mark.parametrize("mode", transfer.MODES)
@pytest.mark.parametrize("arg", datasets.PRESETS)
def test_every_preset_has_each_way_to_train_a_classifier(arg, mode):
    config = transfer.get_config(f"{arg},{mode}")
    assert config.to_json() and transfer.get_config(f"{arg},{mode},runlocal").to_json()
    pretraining = mae.get_config(arg)
    for key in ("variant", "encoder"):
        assert config.model[key] == pretraining.model[key]
    assert config.data.name == pretraining.data.name
    assert not {"mask", "loss", "teacher", "mix"} & set(config)
    assert set(config.evals) == {"classification"}
    assert ("mixup" in config) == ("betas" in config.optim) == (mode != "linear")
    cropped = bool(pretraining.augment.crop_scale)
    assert config.augment.crop_scale == ((0.08, 1.0) if cropped else ())
    assert config.augment.pad == pretraining.augment.pad
    if mode == "scratch":
        tuned = transfer.get_config(f"{arg},finetune").to_dict()
        tuned["model"]["mode"], tuned["optim"]["layer_decay"] = "scratch", 1.0
        assert config.to_dict() == tuned


@pytest.mark.parametrize(
    "arg,message",
    [
        ("digits", "must name one of linear, finetune, scratch, such as 'digits,linear'"),
        ("digits,linear,scratch", "must name one of"),
        ("digits,probe", "unknown option 'probe'"),
        ("digitz,linear", "presets: digits"),
    ],
)
def test_a_classifier_has_a_data_set_and_one_mode(arg, message):
    with pytest.raises(ValueError, match=message):
        transfer.get_config(arg)


def test_protocols_of_mae_on_imagenet():
    probe = transfer.get_config("imagenet,linear")
    assert (probe.train.batch_size, probe.optim.blr) == (16_384, 0.1)
    assert (probe.train.total_epochs, probe.optim.warmup_epochs) == (90, 10)
    tuned = transfer.get_config("imagenet,finetune")
    assert (tuned.train.batch_size, tuned.optim.blr) == (1024, 5e-4)
    assert (tuned.train.total_epochs, tuned.optim.warmup_epochs) == (100, 5)
    assert (tuned.optim.layer_decay, tuned.model.drop_path) == (0.65, 0.1)
