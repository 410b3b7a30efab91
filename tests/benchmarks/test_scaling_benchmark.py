import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def test_the_table_has_a_row_for_every_slice(parity, tmp_path):
    parity("libtpu")
    path = tmp_path / "found.json"
    command = [sys.executable, "benchmarks/scaling.py", "--preset", "digits,runlocal"]
    done = subprocess.run(
        [*command, "--chips", "1", "8", "--json", str(path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k != "XLA_FLAGS"},
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(path.read_text())["rows"]
    assert [(row["chips"], row["to_a_copy"]) for row in rows] == [(1, 1), (8, 1), (8, 8)]
    assert rows[0]["collectives"] == {} and rows[0]["ratio_vs_least"] is None
    assert all(row["fits"] and row["peak"] > row["arguments"] for row in rows)
    assert done.stdout.count("\n|") == 4
