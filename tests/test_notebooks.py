"""The notebooks, executed by a real kernel: with its event loop, as for a user."""

import ast
import contextlib
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from PIL import Image

from imae_jax.storage.metrics_log import read_metrics
from notebooks import outputs
from notebooks.outputs import code_cells

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
QUICKSTART = ROOT / "notebooks" / "imae_quickstart.ipynb"
# The runs that each trains, and the pictures that it shows.
TRAINING = {
    "imae_quickstart": ({"teacher": 4, "imae": 4}, 3),
    "imae_cifar10_tpu": ({"teacher": 4, "imae": 4, "probe": 4}, 3),
}
IMAGES = ROOT / "notebooks" / "imae_your_images.ipynb"


def has_tag(cell, tag):
    return tag in cell.metadata.get("tags", [])


@contextlib.contextmanager
def kernel(cells, cwd):
    """Starts a kernel in `cwd`; gives a function that runs one of the code cells."""
    notebook = nbformat.v4.new_notebook(cells=cells)
    resources = {"metadata": {"path": str(cwd)}}
    client = NotebookClient(notebook, timeout=300, resources=resources)
    with client.setup_kernel(env=outputs.environment(cwd)):
        yield lambda cell: client.execute_cell(cell, notebook.cells.index(cell))


def on_disk(workdir):
    """What every run there has saved and logged."""
    return {
        run.name: (
            sorted(path.name for path in (run / "checkpoints").iterdir()),
            (run / "metrics.jsonl").read_text(),
        )
        for run in workdir.iterdir()
        if (run / "checkpoints").is_dir()
    }


def test_there_are_notebooks():
    assert {path.stem for path in NOTEBOOKS} == {*TRAINING, IMAGES.stem}


@pytest.fixture
def checkout():
    """As a notebook sees it, so that nothing is written into the real one."""
    with outputs.checkout() as folder:
        yield folder


def outputs_of(cells):
    """What they showed; nothing of it an error or a warning."""
    shown = [output for cell in cells for output in cell.outputs]
    assert not [output for output in shown if output.get("name") == "stderr"]
    assert not [output for output in shown if output.output_type == "error"]
    return shown


def count_pictures(shown):
    return len([output for output in shown if "image/png" in output.get("data", {})])


@pytest.mark.parametrize("name", TRAINING)
def test_notebook_runs_and_resumes(name, data_dir, checkout):
    path = ROOT / "notebooks" / f"{name}.ipynb"
    (checkout / "data").symlink_to(data_dir)
    workdir = checkout / "work"
    cells = code_cells(nbformat.read(path, as_version=4))
    (parameters,) = (cell for cell in cells if has_tag(cell, "parameters"))
    parameters.source = f'PRESET = "digits,runlocal"\nWORKDIR = {str(workdir)!r}'
    with kernel(cells, checkout / "notebooks") as run:
        for cell in cells:
            run(cell)
            if has_tag(cell, "train"):
                before = on_disk(workdir)
                run(cell)
                assert on_disk(workdir) == before
    expected_steps, num_pictures = TRAINING[name]
    steps = {run: read_metrics(workdir / run)[-1]["step"] for run in before}
    assert steps == expected_steps
    assert (workdir / "report.html").exists()
    assert count_pictures(outputs_of(cells)) == num_pictures


def test_images_of_ones_own_are_pulled_apart(checkout):
    Image.new("RGB", (40, 60), "orange").save(checkout / "a.png")
    cells = code_cells(nbformat.read(IMAGES, as_version=4))
    (parameters,) = (cell for cell in cells if has_tag(cell, "parameters"))
    own = parameters.source.replace('IMAGE_A = ""', 'IMAGE_A = "a.png"')
    examples = parameters.source
    with kernel(cells, checkout / "notebooks") as run:
        for parameters.source in (own, examples):
            for cell in cells:
                run(cell)
    shown = outputs_of(cells)
    assert count_pictures(shown) == 2
    assert "(2, 65, 96)" in shown[-1]["text"]


def test_sliders_move_the_pictures(monkeypatch):
    """Outside a kernel: clients that execute notebooks show no widgets."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: None)
    _, *cells = code_cells(nbformat.read(IMAGES, as_version=4))
    (sliders,) = (cell for cell in cells if has_tag(cell, "skip-execution"))
    given = {"display": lambda panel: None}
    for cell in cells[: cells.index(sliders) + 1]:
        exec(compile(cell.source, IMAGES.name, "exec"), given)
    alpha, mask_ratio, _ = given["panel"].children
    alpha.value, mask_ratio.value = 0.45, 0.75
    expected = given["show"](0.45, 0.75)
    assert given["panel"].result == expected != given["errors"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_committed_whole(path):
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.metadata.kernelspec.name) == (4, "python3")
    assert all(cell.get("id") for cell in notebook.cells)
    if path.stem in outputs.NAMES:
        found = notebook.metadata["imae_jax"]["outputs_of"]
        assert found == outputs.digest(notebook), "run: python notebooks/outputs.py"
        assert count_pictures(outputs_of(code_cells(notebook))) >= 2
        assert path.stat().st_size < 1e6
    else:
        for cell in code_cells(notebook):
            assert cell.outputs == [] and cell.execution_count is None
    for cell in notebook.cells:
        assert "tensorflow" not in cell.source.lower()
        assert "import torch" not in cell.source and "from torch" not in cell.source


def test_committed_outputs_are_those_of_the_code():
    found = outputs.executed(IMAGES)
    stored = nbformat.read(IMAGES, as_version=4)
    assert outputs.differences(stored, found) == []
    for cell in code_cells(found):
        for output in cell.outputs:
            if "dominant 0." in output.get("text", ""):
                output["text"] = output["text"].replace("dominant 0.", "dominant 7.")
    (line,) = outputs.differences(stored, found)
    assert "dominant 7." in line
    found.cells[-1].outputs = []
    assert len(outputs.differences(stored, found)) == 2


def set_up_of(path):
    return code_cells(nbformat.read(path, as_version=4))[0]


def test_every_notebook_is_set_up_by_the_same_cell():
    texts = set()
    for path in NOTEBOOKS:
        cells = nbformat.read(path, as_version=4).cells
        first = [cell.cell_type for cell in cells].index("code")
        texts.add((cells[first - 1].source, cells[first].source))
    assert len(texts) == 1


# Stands in for a machine that has PRESENT alone; records what pip would be asked for.
MACHINE = """
import importlib.metadata

def version(name):
    try:
        return PRESENT[name]
    except KeyError:
        raise importlib.metadata.PackageNotFoundError(name) from None

importlib.metadata.version = version
asked = []
get_ipython().register_magic_function(asked.append, magic_name="pip")
"""


def set_up(cell, present, cwd, site="jupyter", times=1):
    """Runs the cell on such a machine; gives what pip was asked and what was printed."""
    machine = nbformat.v4.new_code_cell(f"PRESENT = {present!r}\n{MACHINE}")
    result = nbformat.v4.new_code_cell("print(asked)")
    with pytest.MonkeyPatch.context() as patch:
        if site == "kaggle":
            patch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
        with kernel([machine, cell, result], cwd) as run:
            run(machine)
            said = []
            for _ in range(times):
                run(cell)
                said.append("".join(output.text for output in cell.outputs))
            run(result)
    return ast.literal_eval(result.outputs[0].text), said


@pytest.mark.parametrize("site", ["jupyter", "kaggle"])
@pytest.mark.parametrize("source", ["repository", "uploaded", "here", "data set"])
def test_set_up_gets_the_code_and_what_is_missing(source, site, tmp_path):
    content = tmp_path / "content"
    folders = {
        "repository": tmp_path / "repository",
        "uploaded": content / "imae_jax",
        "here": content,
        "data set": tmp_path / "input" / "datasets" / "somebody" / "code",
    }
    repository = folders[source]
    (repository / "imae_jax").mkdir(parents=True)
    (repository / "imae_jax" / "__init__.py").touch()
    (repository / "requirements.txt").write_text("# all\nb>=2  # why\nc>=1.5,<2\njax>=1\n")
    content.mkdir(exist_ok=True)
    cell = set_up_of(QUICKSTART)
    assert "/kaggle/input" in cell.source and 'REPOSITORY = ""' in cell.source
    cell.source = cell.source.replace("/kaggle/input", str(tmp_path / "input"))
    if source == "repository":
        git = ["git", "-C", str(repository), "-c", "user.name=x", "-c", "user.email=x"]
        for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "x"]):
            subprocess.run([*git, *arguments], check=True)
        address = f"REPOSITORY = {repository.as_uri()!r}"
        cell.source = cell.source.replace('REPOSITORY = ""', address)
    present = {"b": "1.9", "c": "1.9", "jax": "1.2", "jaxlib": "1.1", "libtpu": "0.1"}
    if source == "data set" and site == "jupyter":
        with pytest.raises(CellExecutionError, match="put the folder imae_jax here"):
            set_up(cell, present, content, site)
        return
    asked, said = set_up(cell, present, content, site, times=2)  # twice, as users do
    command = "install -q -r requirements.txt jax==1.2 jaxlib==1.1"
    assert asked == [command] * 2
    assert said == [f"missing: b>=2\n%pip {command}\n"] * 2


@pytest.mark.parametrize("present", [{"b": "1"}, {"b": "2.1rc1", "jax": "1"}])
def test_set_up_installs_nothing_where_nothing_is_missing(present, tmp_path):
    (tmp_path / "imae_jax").mkdir()
    (tmp_path / "imae_jax" / "__init__.py").touch()
    (tmp_path / "requirements.txt").write_text("b>=1\n")
    assert set_up(set_up_of(QUICKSTART), present, tmp_path) == ([], [""])


def test_set_up_resolves_against_colabs_versions(checkout):
    """By pip itself, in a Python as Colab's where there is one."""
    found = subprocess.run(
        [ROOT / ".ci" / "find_python", "3.13"], capture_output=True, text=True
    )
    python = found.stdout.strip() or sys.executable
    dry_run = [python, "-m", "pip", "install", "--dry-run", "--ignore-installed"]
    probe = [*dry_run, "--no-deps", "--retries=0", "--timeout=10", "absl-py"]
    done = subprocess.run(probe, capture_output=True, text=True)
    if done.returncode != 0 and not os.environ.get("IMAE_REQUIRE_REGISTRY"):
        pytest.skip("no package registry, or no pip")
    constraints = ROOT / "constraints" / "colab.txt"
    lines = [line for line in constraints.read_text().splitlines() if line[0] != "#"]
    pins = dict(line.split("==") for line in lines)
    (asked,), _ = set_up(set_up_of(QUICKSTART), pins, checkout)
    command, arguments = asked.split(" -q ")
    assert arguments.split()[2:] == [f"{name}=={pins[name]}" for name in ("jax", "jaxlib")]
    done = subprocess.run(
        [*dry_run, "-c", constraints, *arguments.split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert command == "install" and done.returncode == 0, done.stderr
    would = done.stdout[done.stdout.index("Would install") :].replace("_", "-").split()
    # Nothing asks for it: what is there stays.
    del pins["libtpu"]
    assert not [name for name in would if name.startswith(("libtpu", "jax-cuda"))]
    assert {f"{name.replace('_', '-')}-{pin}" for name, pin in pins.items()} <= set(would)
