"""The code that README and docs show, run as it stands there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = [
    (page, block)
    for page in PAGES
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
]


@pytest.mark.parametrize(
    "page,block", BLOCKS, ids=[f"{page.name}-{n}" for n, (page, _) in enumerate(BLOCKS)]
)
def test_python_blocks_run(page, block, capsys):
    exec(compile(block, page.name, "exec"), {})
    numbers = [float(word) for word in capsys.readouterr().out.split()]
    assert numbers and all(-1 < number < 2 for number in numbers)


def test_the_readme_measures_any_encoder_in_ten_lines(capsys):
    (block,) = (block for page, block in BLOCKS if page.name == "README.md")
    assert len([line for line in block.splitlines() if line.strip()]) <= 10
    exec(block, {})
    subordinate, dominant, assignment = map(float, capsys.readouterr().out.split())
    assert subordinate < dominant < 1 and assignment > 0.5


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_files_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#]+)", page.read_text()):
        assert link.startswith("https://") or (page.parent / link).exists(), link
