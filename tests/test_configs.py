import importlib
import re
from pathlib import Path

import pytest

from configs import datasets, demo, imae, mae

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
