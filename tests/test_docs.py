"""The code that README and docs show, run as it stands there."""

import re
from pathlib import Path

import numpy as np
import pytest

from imae_jax.interop import exporting

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
WEIGHTS = ROOT / "weights" / "README.md"
BLOCKS = [
    (page, block)
    for page in PAGES
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
]


MEASURING = [(page, block) for page, block in BLOCKS if "print(" in block]
LOADING = [(page, block) for page, block in BLOCKS if "imae_jax.load" in block]


def test_every_block_is_run():
    assert len(MEASURING) + len(LOADING) == len(BLOCKS)


@pytest.mark.parametrize("page,block", MEASURING, ids=lambda x: getattr(x, "name", ""))
def test_python_blocks_run(page, block, capsys, parity):
    if "import torch" in block:
        parity("torch")
    exec(compile(block, page.name, "exec"), {})
    numbers = [float(word) for word in capsys.readouterr().out.split()]
    assert numbers and all(-1 < number < 2 for number in numbers)


@pytest.mark.parametrize("page,block", LOADING, ids=lambda x: getattr(x, "name", ""))
def test_blocks_that_load_a_model_run(page, block, evaluated, tmp_path, monkeypatch):
    (tmp_path / "runs" / "c10").mkdir(parents=True)
    (tmp_path / "runs" / "c10" / "imae").symlink_to(evaluated)
    exporting.export(evaluated, "safetensors", tmp_path / "imae.safetensors")
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1), dtype=np.uint8)
    ids = np.tile(np.arange(16), (2, 1))
    given = dict(images=images, image_a=images[0], image_b=images[1])
    given |= dict(mixture=images / 255.0, ids_keep=ids[:, :4], ids_restore=ids)
    exec(compile(block, page.name, "exec"), given)
    assert given["tokens"].shape == (2, 17, 32)
    assert given["apart"].dominant.shape == (8, 8, 1)


def test_the_readme_measures_any_encoder_in_ten_lines(capsys):
    (block,) = (block for page, block in MEASURING if page.name == "README.md")
    assert len([line for line in block.splitlines() if line.strip()]) <= 10
    exec(block, {})
    subordinate, dominant, assignment = map(float, capsys.readouterr().out.split())
    assert subordinate < dominant < 1 and assignment > 0.5


@pytest.mark.parametrize("page", [*PAGES, WEIGHTS], ids=lambda page: page.name)
def test_links_between_files_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#]+)", page.read_text()):
        assert link.startswith("https://") or (page.parent / link).exists(), link
