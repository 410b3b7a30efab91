"""The code that README and docs show, run as it stands there."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_inputs import Flowers

import imae_jax
import main
from configs import mae
from imae_jax.commands import command_line, config_overrides
from imae_jax.interop import export_weights, import_weights
from imae_jax.pretrained import Pretrained

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
WEIGHTS = ROOT / "weights" / "README.md"
API = ROOT / "docs" / "api.md"


def blocks_of(page):
    """The Python code that a page shows."""
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


BLOCKS = [(page, block) for page in PAGES if page != API for block in blocks_of(page)]
MEASURING = [(page, block) for page, block in BLOCKS if "print(" in block]
LOADING = [(page, block) for page, block in BLOCKS if "imae_jax.load" in block]


def commands_of(page):
    """The commands of a page that are about a folder of photographs, as lists of words."""
    for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if "photos" in line or "tfds:" in line:
                yield shlex.split(line)


def shrunk(words):
    """The same command, on a run that takes seconds."""
    python, main_file, *rest = words
    assert (python, main_file) == ("python", "main.py")
    return [f"{word},runlocal" if word.startswith("--config=") else word for word in rest]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """A folder to run commands in: `photos`, and `data` with a data set of TFDS's."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / "configs").symlink_to(ROOT / "configs")
    random = np.random.default_rng(0)
    for name in [f"{label}/{i}" for label in ("ant", "bee", "cow") for i in range(36)]:
        path = folder / "photos" / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        colour = random.integers(0, 256, (4, 5, 3), np.uint8)
        Image.fromarray(colour).resize((100, 80)).save(path)
    named = type("OxfordFlowers102", (Flowers,), {}, skip_registration=True)
    options = dict(data_dir=folder / "data", file_format="array_record")
    named(config="large", **options).download_and_prepare()
    return folder


def test_readme_and_docs_have_commands_for_photographs():
    assert any(commands_of(ROOT / "README.md"))
    first = next(commands_of(ROOT / "docs" / "data.md"))
    assert any(word.endswith(":folder_small") for word in first)


@pytest.mark.slow
def test_commands_for_photographs_run(photographs):
    shown = [tuple(words) for page in PAGES for words in commands_of(page)]
    for words in dict.fromkeys(shown):  # each once, in the pages' order
        if "--workdir=runs/fb_mae" in words:  # the first one's MAE stands in
            runs = photographs / "runs"
            export_weights.export(runs / "photos" / "teacher", "hf", photographs / "hf")
            presets = {"mae": mae.get_config("imagenet")}
            import_weights.import_file(photographs / "hf", runs / "fb_mae", presets)
        done = subprocess.run(
            [sys.executable, ROOT / "main.py", *shrunk(words)],
            capture_output=True,
            text=True,
            cwd=photographs,
            env={name: value for name, value in os.environ.items() if name != "XLA_FLAGS"},
        )
        assert done.returncode == 0, (words, done.stderr)


def test_every_block_is_run():
    assert len(MEASURING) + len(LOADING) == len(BLOCKS)


@pytest.mark.slow
@pytest.mark.parametrize("page,block", MEASURING, ids=lambda x: getattr(x, "name", ""))
def test_python_blocks_run(page, block, capsys, parity):
    if "import torch" in block:
        parity("torch")
    exec(compile(block, page.name, "exec"), {"__name__": "__main__"})
    numbers = [float(word) for word in capsys.readouterr().out.split()]
    assert numbers and all(-1 < number < 2 for number in numbers)


@pytest.mark.slow
@pytest.mark.parametrize("page,block", LOADING, ids=lambda x: getattr(x, "name", ""))
def test_blocks_that_load_a_model_run(page, block, student, tmp_path, monkeypatch):
    (tmp_path / "runs" / "c10").mkdir(parents=True)
    (tmp_path / "runs" / "c10" / "imae").symlink_to(student)
    export_weights.export(student, "safetensors", tmp_path / "imae.safetensors")
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1), dtype=np.uint8)
    ids = np.tile(np.arange(16), (2, 1))
    given = dict(images=images, image_a=images[0], image_b=images[1])
    given |= dict(mixture=images / 255.0, ids_keep=ids[:, :4], ids_restore=ids)
    exec(compile(block, page.name, "exec"), given)
    assert given["tokens"].shape == (2, 17, 32)
    assert given["apart"].dominant.shape == (8, 8, 1)


def test_every_public_name_has_an_example():
    named = re.findall(r"auto(?:function|class):: \S*?(\w+)\n", API.read_text())
    methods = [name for name in vars(Pretrained) if not name.startswith("_")]
    methods = [name for name in methods if callable(getattr(Pretrained, name))]
    assert {"encode", "separate"} <= set(methods)
    words = set(re.findall(r"\w+", "".join(blocks_of(API))))
    public = set(imae_jax.__all__) - {"__version__"}
    assert public <= set(named)
    assert {*named, *methods} <= words


@pytest.mark.slow
@pytest.mark.parametrize("block", blocks_of(API), ids=lambda block: block.split("\n")[-2])
def test_examples_of_the_api_print_what_they_say(
    block, student, data_dir, tmp_path, monkeypatch, capsys
):
    (tmp_path / "runs" / "digits").mkdir(parents=True)
    (tmp_path / "runs" / "digits" / "imae").symlink_to(student)
    (tmp_path / "data").symlink_to(data_dir)
    Image.fromarray(np.full((30, 20), 200, np.uint8)).save(tmp_path / "digit.png")
    monkeypatch.chdir(tmp_path)
    exec(compile(block, API.name, "exec"), {"__name__": "__main__"})
    said = re.findall(r"^print\(.*\)  # (.*)$", block, re.MULTILINE)
    lines = capsys.readouterr().out.splitlines()
    assert said and [line for line in lines if line in said] == said


@pytest.mark.slow
def test_the_theory_prints_what_it_says(capsys):
    """Each line of output against the numbers in the comment of its `print`."""
    page = ROOT / "docs" / "theory.md"
    blocks = [block for found, block in MEASURING if found == page]
    assert len(blocks) == 4
    for block in blocks:
        exec(compile(block, page.name, "exec"), {})
        printed = capsys.readouterr().out.split()
        comments = re.findall(r"print\(.*#(.*)", block)
        said = [number for text in comments for number in re.findall(r"\d\.\d+", text)]
        assert len(printed) == len(said)
        for number, text in zip(printed, said, strict=True):
            digits = len(text.split(".")[1])
            assert float(number) == pytest.approx(float(text), abs=0.6 * 10**-digits)


@pytest.mark.slow
def test_the_readme_measures_any_encoder_in_ten_lines(capsys):
    (block,) = (block for page, block in MEASURING if page.name == "README.md")
    assert len([line for line in block.splitlines() if line.strip()]) <= 10
    exec(block, {})
    gain, subordinate, null = map(float, capsys.readouterr().out.split())
    assert (
        -0.2 < gain < 0.2 and subordinate < 0.3 and null == pytest.approx(0.155, abs=1e-3)
    )


LINKING = [*PAGES, WEIGHTS, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]


def anchors_of(page):
    """The anchors of a page's headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.*)", page.read_text(), re.MULTILINE)
    words = [re.sub(r"[^\w\- ]", "", heading.strip().lower()) for heading in headings]
    return {text.replace(" ", "-") for text in words}


@pytest.mark.parametrize("page", LINKING, ids=lambda page: page.name)
def test_links_between_files_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for link, anchor in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", text):
        if link.startswith("https://"):
            continue
        target = page.parent / link if link else page
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target), f"{link}#{anchor}"


def test_every_page_of_docs_is_in_the_menu():
    index = (ROOT / "docs" / "index.md").read_text()
    trees = "\n".join(re.findall(r"```{toctree}\n(.*?)```", index, re.DOTALL))
    lines = [line for line in trees.splitlines() if line and line[0] != ":"]
    names = [re.sub(r".*<(.*)>", r"\1", line) for line in lines]
    own = {page.stem for page in (ROOT / "docs").glob("*.md")} - {"index"}
    outside = {name for name in names if name.startswith("../")}
    assert set(names) - outside == own
    for name in outside:
        found = [ROOT / "docs" / f"{name}{end}" for end in (".md", ".ipynb")]
        assert any(path.exists() for path in found), name


def shown_commands(page):
    """The words after `main.py` of all its commands that a page shows."""
    for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if match := re.search(r"python main\.py (.*)", line):
                # A command that another one, such as ssh, is given ends with its quote.
                is_inside = match[1].count('"') % 2
                text = match[1].rstrip('"') if is_inside else match[1]
                yield shlex.split(text.split("&&")[0], comments=True)


SHOWING = [page for page in LINKING if any(shown_commands(page))]


@pytest.mark.parametrize("page", SHOWING, ids=lambda page: page.name)
def test_commands_on_pages_have_the_flags_and_keys_that_they_name(page):
    for name, *words in shown_commands(page):
        command = command_line.find_command(name, main.COMMANDS)
        if any("..." in word for word in words):
            continue
        given, rest = command_line.parse(command, words, main.COMMANDS)
        config = getattr(given, "config", None)
        if config and not made_in_contributing(config):
            config_overrides.override(config_overrides.load(config), rest)


def made_in_contributing(config):
    """True for the files and presets that CONTRIBUTING.md makes; another test runs them."""
    return re.search(r"stripes|brightness|clipping", config)
