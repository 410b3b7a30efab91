"""The notebooks, executed by a real kernel: with its event loop, as for a user."""

import contextlib
import os
import subprocess
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from PIL import Image

from imae_jax.logs import read_metrics

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
QUICKSTART = ROOT / "notebooks" / "imae_quickstart.ipynb"
# The runs that each trains, and the pictures that it shows.
TRAINING = {
    "imae_quickstart": ({"teacher": 4, "imae": 4}, 3),
    "imae_cifar10_tpu": ({"teacher": 4, "imae": 4, "probe": 4}, 3),
}
IMAGES = ROOT / "notebooks" / "imae_your_images.ipynb"


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def has_tag(cell, tag):
    return tag in cell.metadata.get("tags", [])


@contextlib.contextmanager
def kernel(cells, cwd):
    """Starts a kernel in `cwd`; gives a function that runs one of the code cells."""
    notebook = nbformat.v4.new_notebook(cells=cells)
    resources = {"metadata": {"path": str(cwd)}}
    client = NotebookClient(notebook, timeout=120, resources=resources)
    # One device, as on Colab, and none of the user's own start-up files.
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment |= {"IPYTHONDIR": str(cwd / ".ipython"), "PYTHONPATH": ""}
    with client.setup_kernel(env=environment):
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
def checkout(tmp_path):
    """As a notebook sees it, so that nothing is written into the real one."""
    for name in ("imae_jax", "configs", "weights", "requirements.txt"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "notebooks").mkdir()
    return tmp_path


def outputs_of(cells):
    """What they showed; nothing of it an error or a warning."""
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    return outputs


def count_pictures(outputs):
    return len([output for output in outputs if "image/png" in output.get("data", {})])


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
    outputs = outputs_of(cells)
    assert count_pictures(outputs) == 2
    assert "(2, 65, 96)" in outputs[-1]["text"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_committed_clean(path):
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.metadata.kernelspec.name) == (4, "python3")
    assert all(cell.get("id") for cell in notebook.cells)
    for cell in code_cells(notebook):
        assert cell.outputs == [] and cell.execution_count is None
    for cell in notebook.cells:
        assert "tensorflow" not in cell.source.lower()
        assert "import torch" not in cell.source and "from torch" not in cell.source


# Stands in for Colab and records what pip would have been asked for.
COLAB = """
import sys

sys.modules["google.colab"] = object()
asked = []
get_ipython().register_magic_function(asked.append, magic_name="pip")
"""
RESULT = """
from importlib.metadata import version
from pathlib import Path

assert asked == [f'install -q -r requirements.txt "jax=={version("jax")}"'], asked
assert Path("requirements.txt").read_text() == "of the repository"
"""


@pytest.mark.parametrize("is_uploaded", [False, True])
def test_set_up_on_colab(is_uploaded, tmp_path):
    repository = tmp_path / ("content/imae_jax" if is_uploaded else "repository")
    repository.mkdir(parents=True)
    (repository / "requirements.txt").write_text("of the repository")
    (tmp_path / "content").mkdir(exist_ok=True)
    set_up = code_cells(nbformat.read(QUICKSTART, as_version=4))[0]
    if not is_uploaded:
        git = ["git", "-C", str(repository), "-c", "user.name=x", "-c", "user.email=x"]
        for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "x"]):
            subprocess.run([*git, *arguments], check=True)
        address = f"REPOSITORY = {repository.as_uri()!r}"
        set_up.source = set_up.source.replace('REPOSITORY = ""', address)
    colab, result = (nbformat.v4.new_code_cell(source) for source in (COLAB, RESULT))
    with kernel([colab, set_up, result], tmp_path / "content") as run:
        for cell in (colab, set_up, result, set_up):  # twice, as users do
            run(cell)
