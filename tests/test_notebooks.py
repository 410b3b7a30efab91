"""The notebooks, executed by a real kernel: with its event loop, as for a user."""

import contextlib
import os
import subprocess
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from imae_jax.logs import read_metrics

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
QUICKSTART = ROOT / "notebooks" / "imae_quickstart.ipynb"


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
    }


def test_there_are_notebooks():
    assert QUICKSTART in NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_and_resumes(path, data_dir, tmp_path):
    # The checkout as the notebook sees it, so that nothing is written into the real one.
    for name in ("imae_jax", "configs", "requirements.txt"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "data").symlink_to(data_dir)
    (tmp_path / "notebooks").mkdir()
    workdir = tmp_path / "work"
    cells = code_cells(nbformat.read(path, as_version=4))
    (parameters,) = (cell for cell in cells if has_tag(cell, "parameters"))
    parameters.source = f'PRESET = "digits,runlocal"\nWORKDIR = {str(workdir)!r}'
    with kernel(cells, tmp_path / "notebooks") as run:
        for cell in cells:
            run(cell)
            if has_tag(cell, "train"):
                before = on_disk(workdir)
                run(cell)
                assert on_disk(workdir) == before
    steps = {name: read_metrics(workdir / name)[-1]["step"] for name in before}
    assert steps == {"teacher": 4, "imae": 4}
    assert (workdir / "report.html").exists()
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 3  # losses, reconstructions, separability


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
