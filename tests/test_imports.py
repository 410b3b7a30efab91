"""Imports go one way: a module imports only from the layers below its own."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import imae_jax
from imae_jax import evaluation, pretrained
from imae_jax.evaluators import separability
from imae_jax.training import loop

ROOT = Path(__file__).parent.parent
LAYERS = [
    {"errors"},
    {"runtime"},
    {"distributed", "models", "optim"},
    {"probing", "storage"},
    {"data"},
    {"objectives"},
    {"config"},
    {"evaluators"},
    {"report"},
    {"training"},
    {"aot", "evaluation", "interop"},
    {"pretrained"},
    {"encoders"},
    {"commands"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def imported(path):
    """Every module a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer_of(module):
    """The name after `imae_jax` that stands in LAYERS, or None."""
    package, _, rest = module.partition(".")
    return rest.split(".")[0] if package == "imae_jax" and rest else None


def files(folder):
    return sorted((ROOT / folder).rglob("*.py"))


def test_every_module_stands_in_a_layer():
    found = {path.relative_to(ROOT / "imae_jax").parts[0] for path in files("imae_jax")}
    found = {name.removesuffix(".py") for name in found}
    assert found == LEVEL.keys() | {"__init__", "__main__"}


def test_imports_go_down():
    for path in files("imae_jax"):
        own = path.relative_to(ROOT / "imae_jax").parts[0].removesuffix(".py")
        for module in imported(path):
            other = layer_of(module)
            # The package itself offers the top of it.
            if own != "__init__" and other in LEVEL and other != own:
                assert LEVEL[other] < LEVEL[own], f"{own} imports {other}"


def test_library_and_configs_do_not_import_each_other():
    for path in files("imae_jax"):
        assert not any(module.split(".")[0] == "configs" for module in imported(path))
    for path in files("configs"):
        roots = {module.split(".")[0] for module in imported(path)}
        assert roots - sys.stdlib_module_names <= {"configs", "ml_collections"}


def test_no_tensorflow_and_no_utils():
    for path in files("imae_jax"):
        roots = {module.split(".")[0] for module in imported(path)}
        # Files of PyTorch's are read and written with PyTorch, where it is installed.
        allowed = {"torch"} if path.name == "read_files.py" else set()
        assert not roots & ({"tensorflow", "torch"} - allowed)
        assert path.name != "utils.py"


def test_only_checkpoint_imports_orbax():
    users = {
        path.name
        for path in files("imae_jax")
        if any(module.split(".")[0] == "orbax" for module in imported(path))
    }
    assert users == {"checkpoint.py"}


def loaded(code):
    """The top-level packages that are loaded after some code, and how many of ours."""
    code += "\nimport sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    names = done.stdout.split()
    own = sum(name.startswith("imae_jax.") for name in names)
    return {name.partition(".")[0] for name in names}, own


def test_the_package_itself_loads_nothing():
    packages, own = loaded("import imae_jax")
    assert not {"jax", "numpy", "ml_collections", "flax"} & packages and not own


@pytest.mark.parametrize(
    "name,most", [("linear_separability", 5), ("mixture_separability", 21)]
)
def test_a_metric_loads_neither_data_sets_nor_checkpoints(name, most):
    packages, own = loaded(f"import imae_jax; imae_jax.{name}")
    heavy = {"tensorflow_datasets", "orbax", "dm_pix", "matplotlib", "ml_collections"}
    assert not heavy & packages and 2 <= own <= most


def test_what_the_package_offers():
    assert imae_jax.load is pretrained.load
    assert imae_jax.train is loop.train and imae_jax.evaluate is evaluation.evaluate
    assert imae_jax.linear_separability is separability.linear_separability
    assert imae_jax.mixture_separability is separability.mixture_separability
    assert {"load", "mixture_separability", "__version__"} <= set(dir(imae_jax))
    with pytest.raises(AttributeError, match="'imae_jax' has no attribute 'lod'"):
        _ = imae_jax.lod
