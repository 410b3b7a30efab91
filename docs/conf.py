"""Settings of the site, `make docs`. The source folder is the whole repository.

So links between pages, to the README and to code are the same here and on GitHub.
"""

import re
from pathlib import Path

import imae_jax

ROOT = Path(__file__).parent.parent

project = "imae_jax"
author = "The imae_jax authors"
copyright = author
version = release = imae_jax.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
include_patterns = [
    "docs/*.md",
    "notebooks/*.ipynb",
    "weights/README.md",
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
]
root_doc = "docs/index"

myst_heading_anchors = 3
myst_enable_extensions = ["html_image"]
nb_execution_mode = "off"  # the tests execute the notebooks
# Cells with shell commands are no Python; they are highlighted all the same.
suppress_warnings = ["misc.highlighting_failure"]

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
default_role = "code"  # what docstrings mean by `single backticks`
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True

html_theme = "pydata_sphinx_theme"
html_title = "imae_jax"
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "navigation_with_keys": False,
    "navbar_center": [],  # the whole menu is in the sidebar
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
html_sidebars = {"**": ["menu.html"]}
templates_path = ["_templates"]
html_static_path = ["_static"]
html_css_files = ["site.css"]


def _without_folder_links(app, docname: str, source: list[str]) -> None:
    """Replaces links to folders, which a site does not have, by their text."""
    folder = (ROOT / docname).parent

    def replace(match: re.Match) -> str:
        text, target = match.groups()
        return text if (folder / target).is_dir() else match.group()

    if (ROOT / f"{docname}.md").exists():
        source[0] = re.sub(r"\[([^\]]*)\]\(([^)#:]+)\)", replace, source[0])


def _add_front_page(app, exception: Exception | None) -> None:
    """Leads from the site's root to its first page."""
    page = '<!doctype html><title>imae_jax</title><meta http-equiv="refresh" '
    page += 'content="0; url=docs/index.html"><a href="docs/index.html">imae_jax</a>\n'
    if exception is None:
        (Path(app.outdir) / "index.html").write_text(page)


def setup(app) -> None:
    """Registers what happens when a page is read, and at the end."""
    app.connect("source-read", _without_folder_links)
    app.connect("build-finished", _add_front_page)
