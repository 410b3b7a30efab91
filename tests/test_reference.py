"""Generated pages: up to date, and every key has a meaning, a rule and a source."""

import ast
import re

import pytest
from running import ROOT

import main
from docs import reference
from imae_jax.config.rules import RULES


@pytest.fixture(scope="module")
def entries():
    return reference.entries()


@pytest.mark.parametrize("name", reference.PAGES)
def test_pages_are_up_to_date(name):
    written = (ROOT / "docs" / name).read_text()
    assert written == reference.PAGES[name](), "run: make reference"


def test_every_key_has_a_meaning_a_rule_and_a_source(entries):
    assert entries.keys() >= RULES.keys()
    for key, of_preset in entries.items():
        assert reference.rule_of(key), f"{key} has no rule"
        for preset, entry in of_preset.items():
            assert len(entry.meaning.split()) > 1, (key, preset)
            assert entry.source, (key, preset)


def words_in(module):
    """The names and texts of a module's code, without its comments."""
    tree = ast.parse((ROOT / "imae_jax" / module).read_text())
    for node in ast.walk(tree):
        yield from (
            getattr(node, field)
            for field in ("id", "attr", "arg", "name", "value")
            if isinstance(getattr(node, field, None), str)
        )


def test_every_key_acts_in_a_module_that_knows_it(entries):
    for key in entries:
        module = reference.module_of(key)
        assert module, f"{key}: add it to ACTS_IN in docs/reference.py"
        # Its name, that with its section, or its section, which is handed on whole.
        *_, section, name = ("", *key.split("."))
        assert {name, f"{section}_{name}", section} & set(words_in(module)), (key, module)
    assert reference.module_of("nothing.here") == ""


def test_every_key_of_studies_has_a_meaning_and_a_source():
    entries = reference.study_entries()
    assert entries.keys() >= reference.STUDY_RULES.keys()
    for key, entry in entries.items():
        assert len(entry.meaning.split()) > 1 and entry.source, key


def test_the_page_has_each_key_and_the_values_of_all_its_presets(entries):
    text = (ROOT / "docs" / "config-reference.md").read_text()
    blocks = dict(re.findall(r"^### `(.*?)`\n(.*?)(?=^##|\Z)", text, re.M | re.S))
    assert blocks.keys() == entries.keys()
    row = "| `0.25` | `mae`: digits; `imae`: digits |"
    assert row in blocks["mask.ratio"]
    for key, of_preset in entries.items():
        for entry in of_preset.values():
            assert f"| `{entry.value!r}` |".replace("||", "|") in blocks[key], key


def test_a_key_without_a_rule_is_noticed():
    assert reference.rule_of("evals.separability.alphas")
    assert reference.rule_of("loss.distill_weights") == ""


def test_every_command_and_flag_is_on_its_page():
    text = (ROOT / "docs" / "command-line.md").read_text()
    headings = re.findall(r"^## (\w+)", text, re.M)
    assert headings == [command.name for command in main.COMMANDS]
    for command in main.COMMANDS:
        part = text.split(f"\n## {command.name}\n")[1].split("\n## ")[0]
        assert all(f"  {flag.usage()}\n" in part for flag in command.flags)
    assert str(ROOT) not in text
