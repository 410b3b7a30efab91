"""The site: built without a warning, and searched as a reader would."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
REMOVE_ALL_BUT_TEN = """
    [...document.querySelectorAll("section section")].slice(10).forEach((x) => x.remove())
"""


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


@pytest.mark.parametrize("width,scheme", [(390, "dark"), (1440, "light")])
def test_pages_can_be_read_by_everybody(width, scheme, site, browser):
    """Nothing that axe finds, and nothing wider than the window."""
    tab = browser.new_page(viewport=dict(width=width, height=900), color_scheme=scheme)
    for path in sorted(site.glob("docs/*.html")):
        tab.goto(path.as_uri())
        across = tab.evaluate("document.documentElement.scrollWidth")
        assert across <= width, path.name
        if path.stem == "config-reference":  # one form 140 times, which takes a minute
            tab.evaluate(REMOVE_ALL_BUT_TEN)
        found = Axe().run(tab).response["violations"]
        assert not found, (path.name, [(x["id"], x["nodes"][0]["html"]) for x in found])
    tab.close()
