"""Files for those who cite and contribute: they hold, and their examples run."""

import ast
import re
import shlex
import shutil
import subprocess
import sys

import pytest
import yaml
from running import ROOT, environment

import imae_jax

PAGE = (ROOT / "CONTRIBUTING.md").read_text()
SECTIONS = dict(re.findall(r"^## (Add .*?)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S))


def read_yaml(name):
    return yaml.safe_load((ROOT / name).read_text())


def test_the_citation_names_this_version_and_the_paper():
    citation = read_yaml("CITATION.cff")
    assert citation["version"] == imae_jax.__version__
    assert citation["authors"] == [{"name": "The imae_jax authors"}]
    (paper,) = citation["references"]
    names = [author["family-names"] for author in paper["authors"]]
    assert names == ["Zhang", "Shen"] and paper["url"].endswith("2210.11470")


def test_the_changelog_begins_with_this_version():
    headings = re.findall(r"^## (.*)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert headings[0] == "Versioning"
    assert headings[1].split()[0] == imae_jax.__version__


def test_the_versioning_policy_has_three_sentences():
    text = (ROOT / "CHANGELOG.md").read_text().split("## ")[1].partition("\n")[2]
    assert len(re.findall(r"\.(?=\s+[A-Z]|\s*$)", text)) == 3


def test_hooks_run_the_linter_of_ci():
    hooks = [
        hook
        for repo in read_yaml(".pre-commit-config.yaml")["repos"]
        for hook in repo["hooks"]
    ]
    in_ci = re.findall(r"^ +((?:ruff|mypy)\b.*)", (ROOT / ".ci" / "run").read_text(), re.M)
    assert in_ci and [hook["entry"] for hook in hooks] == in_ci


@pytest.mark.parametrize("name", ["bug", "feature", "question"])
def test_issue_templates_have_what_forms_need(name):
    form = read_yaml(f".github/ISSUE_TEMPLATE/{name}.yml")
    assert form["name"] and form["description"]
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert fields and all(field["attributes"]["label"] for field in fields)
    assert len({field["id"] for field in fields}) == len(fields)


def blocks(section, language):
    return re.findall(rf"```{language}\n(.*?)```", SECTIONS[section], re.S)


def test_examples_are_complete_and_short():
    assert list(SECTIONS) == ["Add a data set", "Add an evaluator", "Add a study"]
    for section in SECTIONS:
        for code in blocks(section, "python"):
            assert len(ast.unparse(ast.parse(code)).splitlines()) <= 30
            assert re.match(r"# (imae_jax|configs)/\S+\.py\n", code)


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A copy of the project, with the examples' files and additions."""
    folder = tmp_path_factory.mktemp("contributed")
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("imae_jax", "configs"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    shutil.copy(ROOT / "main.py", folder)
    for section in SECTIONS:
        for code in blocks(section, "python"):
            file = folder / code.splitlines()[0].removeprefix("# ")
            with open(file, "a") as opened:
                opened.write(code.partition("\n")[2])
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "section,file",
    [
        ("Add a data set", "runs/data/stripes/data.json"),
        ("Add an evaluator", "runs/brightness/eval.json"),
        ("Add a study", "configs/studies.py"),
    ],
)
def test_examples_run(section, file, clone):
    lines = [line for block in blocks(section, "bash") for line in block.splitlines()]
    assert lines
    for line in lines:
        words = shlex.split(line)
        assert words[:2] == ["python", "main.py"]
        if words[2] == "study":  # takes minutes; `config` reads the same file
            continue
        done = subprocess.run(
            [sys.executable, *words[1:]],
            capture_output=True,
            text=True,
            cwd=clone,
            env=environment(),
        )
        assert done.returncode == 0, (line, done.stderr)
    assert (clone / file).exists()
