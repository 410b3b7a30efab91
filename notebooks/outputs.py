"""Executes notebooks and stores their outputs in them; `--check` compares instead.

    python notebooks/outputs.py [--check] [NAME ...]

Without names, all but `imae_cifar10_tpu`, which takes a TPU. They run in a folder of links,
so nothing is written into the clone but the notebooks. CI checks `imae_your_images` anew;
the others' outputs have to be of the cells as they are (`digest`).
"""

import argparse
import contextlib
import hashlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("imae_quickstart", "imae_your_images")
LINKED = ("imae_jax", "configs", "weights", "requirements.txt")
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?")
# Numbers may differ by this, relative to the larger one, or by this much.
TOLERANCE = 0.05


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """Returns the cells of code."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def digest(notebook: NotebookNode) -> str:
    """Returns the SHA-256 of the code that the outputs are of."""
    source = "\0".join(cell.source for cell in code_cells(notebook))
    return hashlib.sha256(source.encode()).hexdigest()


@contextlib.contextmanager
def checkout() -> Iterator[Path]:
    """Context with a folder of links to what notebooks use, as if it were the clone."""
    with tempfile.TemporaryDirectory() as folder:
        for name in LINKED:
            (Path(folder) / name).symlink_to(ROOT / name)
        (Path(folder) / "notebooks").mkdir()
        yield Path(folder)


def environment(folder: Path) -> dict[str, str]:
    """Returns the environment of a kernel that runs in `folder`.

    One device, as on Colab, and none of the user's own start-up files.
    """
    found = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    found |= {"IPYTHONDIR": str(folder / ".ipython"), "PYTHONPATH": ""}
    return found | {"JAX_PLATFORMS": "cpu"}  # as others can make the outputs again


def executed(path: Path, timeout: float = 3600.0) -> NotebookNode:
    """Returns a notebook with the outputs that it has now."""
    notebook = nbformat.read(path, as_version=4)
    with checkout() as folder:
        place = folder / "notebooks"
        resources = {"metadata": {"path": str(place)}}
        client = NotebookClient(
            notebook,
            timeout=timeout,
            resources=resources,
            record_timing=False,
            coalesce_streams=True,
        )
        client.execute(env=environment(place))
        for cell in code_cells(notebook):
            for output in cell.outputs:
                if "text" in output:
                    output["text"] = output["text"].replace(str(folder), ".")
    notebook.metadata["imae_jax"] = {"outputs_of": digest(notebook)}
    return notebook


def differences(stored: NotebookNode, found: NotebookNode) -> list[str]:
    """Returns where the outputs of two executions differ, a line each."""
    lines = []
    for number, cells in enumerate(zip(code_cells(stored), code_cells(found), strict=True)):
        shown = [[_shown(output) for output in cell.outputs] for cell in cells]
        texts = ["".join(text for text, _ in outputs) for outputs in shown]
        kinds = [[kind for _, kind in outputs] for outputs in shown]
        if kinds[0] != kinds[1]:
            lines.append(f"cell {number}: {kinds[0]} became {kinds[1]}")
        elif not _is_close(*texts):
            lines.append(f"cell {number}: {texts[0]!r} became {texts[1]!r}")
    return lines


def _shown(output: NotebookNode) -> tuple[str, str]:
    """Returns an output's text and kind."""
    data = output.get("data", {})
    if "image/png" in data:
        return "", "image/png"
    return output.get("text") or data.get("text/plain", ""), output.output_type


def _is_close(one: str, other: str) -> bool:
    if NUMBER.sub("", one) != NUMBER.sub("", other):
        return False
    pairs = zip(NUMBER.findall(one), NUMBER.findall(other), strict=True)
    return all(
        abs(float(a) - float(b)) <= TOLERANCE * max(1.0, abs(float(a)), abs(float(b)))
        for a, b in pairs
    )


def main() -> int:
    """Runs the command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    parser.add_argument("names", nargs="*", default=NAMES, metavar="NAME")
    given = parser.parse_args()
    is_same = True
    for name in given.names:
        path = ROOT / "notebooks" / f"{name}.ipynb"
        found = executed(path)
        if not given.check:
            nbformat.write(found, path)
            print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")
            continue
        lines = differences(nbformat.read(path, as_version=4), found)
        is_same &= not lines
        print(f"{path}: {len(lines)} differences", *lines, sep="\n")
    return 0 if is_same else 1


if __name__ == "__main__":
    sys.exit(main())
