"""The site: built without a warning, and searched as a reader would."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site."""
    pytest.importorskip("sphinx", reason="sphinx is not installed (requirements-docs.txt)")
    folder = tmp_path_factory.mktemp("site")
    (line,) = re.findall(r"python (-m sphinx .*)", (ROOT / "Makefile").read_text())
    words = line.replace("build/docs", f"-d {folder}/trees {folder}/html").split()
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return folder / "html"


def test_keys_and_functions_have_their_places(site):
    assert 'id="loss-distill-weight"' in (site / "docs/config-reference.html").read_text()
    assert "mixture_separability" in (site / "docs/api.html").read_text()


@pytest.mark.parametrize(
    "words,page",
    [
        ("own images", "data"),
        ("loss.distill_weight", "config-reference"),
        ("why are pictures grey", "troubleshooting"),
        ("measure a timm model", "any-encoder"),
        ("where is the teacher applied", "architecture"),
        ("NaN", "troubleshooting"),
        ("out of memory", "troubleshooting"),
    ],
)
def test_the_first_hit_of_a_search_has_the_answer(words, page, site, browser):
    tab = browser.new_page()
    tab.goto(f"{(site / 'search.html').as_uri()}?q={words.replace(' ', '+')}")
    hit = tab.wait_for_selector("#search-results li a").get_attribute("href")
    tab.close()
    assert hit.split("?")[0].split("#")[0] == f"docs/{page}.html"
