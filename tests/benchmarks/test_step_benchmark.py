"""benchmarks/step.py, small: its numbers are there and agree with each other."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def test_the_benchmark_counts_what_the_compiler_counts(tmp_path):
    path = tmp_path / "step.json"
    command = [sys.executable, "benchmarks/step.py", "--size=digits", "--dtype=bfloat16"]
    command += ["--batch-size=8", "--rounds=1", f"--json={path}"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    found = json.loads(path.read_text())["digits"]
    assert found.keys() == {"mae bfloat16", "imae bfloat16", "imae shared mask bfloat16"}
    for row in found.values():
        assert row["images_per_second"] == pytest.approx(8 / row["seconds"])
        # The compiler counts what is no matrix product, too: much at this small width.
        assert 0.5 < row["gflop_counted"] / row["gflop_compiled"] < 1
    plain, shared = found["imae bfloat16"], found["imae shared mask bfloat16"]
    assert 1 < shared["ratio_vs_mae_counted"] < plain["ratio_vs_mae_counted"] < 2
