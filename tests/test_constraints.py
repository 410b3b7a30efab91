"""What may be installed: the lower bounds, the pins, and the legs that try them."""

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parent.parent
RUN = ROOT / ".ci" / "run"
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"


def requirements(path):
    lines = [line.partition("#")[0].strip() for line in path.read_text().splitlines()]
    return {found.name: found for found in map(Requirement, filter(None, lines))}


REQUIRED = requirements(ROOT / "requirements.txt")


def test_lowest_are_the_lower_bounds():
    wanted = [
        f"{name}=={specifier.version}"
        for name, required in REQUIRED.items()
        for specifier in required.specifier
        if specifier.operator == ">="
    ]
    assert len(wanted) == len(REQUIRED)
    path = ROOT / "constraints" / "lowest.txt"
    lines = [line for line in path.read_text().splitlines() if line[0] != "#"]
    assert lines == wanted, "made anew as its first lines say, below these"


def test_colabs_pins_are_allowed():
    pins = requirements(ROOT / "constraints" / "colab.txt")
    assert {"jax", "jaxlib", "flax", "numpy"} <= pins.keys()
    for name, pin in pins.items():
        (specifier,) = pin.specifier
        assert specifier.operator == "=="
        if name in REQUIRED:
            assert REQUIRED[name].specifier.contains(specifier.version), name


def test_the_next_orbax_is_not_taken():
    allowed = REQUIRED["orbax-checkpoint"].specifier
    assert not allowed.contains(Version("1.0.0"))


@pytest.mark.parametrize("where", ["functions", "comment", "workflow"])
def test_every_leg_is_named(where):
    text = RUN.read_text()
    (legs,) = re.findall(r"^LEGS=\((.*)\)$", text, re.M)
    if where == "workflow":
        (found,) = re.findall(r"leg: \[(.*)\]", WORKFLOW.read_text())
        found = found.split(", ")
        assert "bash .ci/run ${{ matrix.leg }}" in WORKFLOW.read_text()
    else:
        pattern = {"functions": r"^leg_(\w+)\(\)", "comment": r"^#   (\w+)"}[where]
        found = re.findall(pattern, text, re.M)
    assert found == legs.split()
