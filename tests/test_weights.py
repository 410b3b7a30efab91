"""The weights that come with the repository, and what their card says of them."""

import json
import re

import pytest
from mock_archives import REAL
from running import ROOT

from configs import imae, mae
from imae_jax import evaluation
from imae_jax.interop import import_weights, native_format, read_files
from imae_jax.storage.workdir import read_config

FOLDER = ROOT / "weights"
FILES = sorted(FOLDER.glob("*.safetensors"))
MOST_BYTES = 12e6


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_card_names_the_values_of_every_file(path):
    released = native_format.read(read_files.read(path), path)
    named = re.findall(r"`([0-9a-f]{8})…([0-9a-f]{4})`", (FOLDER / "README.md").read_text())
    assert (released.digest[:8], released.digest[-4:]) in named
    assert path.stat().st_size < MOST_BYTES


@pytest.mark.slow
def test_eval_of_the_files_gives_the_numbers_that_are_published(tmp_path):
    if not (REAL / "tfds" / "cifar10").is_dir():
        pytest.skip(f"no prepared CIFAR-10 in {REAL}")
    kinds = {"teacher": mae, "imae": imae}
    for name, kind in kinds.items():
        presets = {kind.get_config("cifar10").model.name: kind.get_config("cifar10")}
        path = FOLDER / f"cifar10_small_{name}.safetensors"
        import_weights.import_file(path, tmp_path / name, presets)
    config = read_config(tmp_path / "imae")
    config.data.dir = str(REAL / "tfds")
    config.teacher.init = str(tmp_path / "teacher")
    for name in set(config.evals) - {"reconstruction", "separability"}:
        del config.evals[name]
    config.evals.separability.alphas = (config.evals.separability.alpha,)
    found = evaluation.evaluate(config, tmp_path / "imae")
    published = ROOT / "docs" / "results" / "cifar10_small_imae_eval.json"
    # Types of matrix products differ between machines.
    expected = json.loads(published.read_text())
    shown = r"separability/(gain|\w+/r2|\w+/excess)|reconstruction/\w+/ratio"
    names = [name for name in found if re.fullmatch(shown, name)]
    wanted = {name: pytest.approx(expected[name], abs=0.01) for name in names}
    assert len(wanted) == 7
    assert {name: found[name] for name in wanted} == wanted
