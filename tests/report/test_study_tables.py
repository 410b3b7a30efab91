"""A study's table from numbers alone."""

import csv
import json

import pytest

from imae_jax.report import study_tables

STUDY = {
    "name": "branches",
    "data": "shapes",
    "training": "teacher 4 epochs",
    "seeds": [0, 1, 2],
    "device": "1 x cpu",
    "columns": {"r2": "R2", "class": "class"},
    "rows": {
        "both": {
            "label": "both",
            "values": {"r2": {"0": 0.5, "1": 0.7, "2": 0.6}, "class": {"1": 0.25}},
        },
        "one": {
            "label": "one | only",
            "values": {"r2": {"0": 0.4, "1": 0.65}, "class": {}},
        },
    },
    "failed": {},
}


def test_summary_is_of_the_sample():
    found = study_tables.summary([0.5, 0.7, 0.6])
    assert found == pytest.approx({"mean": 0.6, "sd": 0.1, "n": 3})
    assert study_tables.summary([0.5]) == {"mean": 0.5, "sd": None, "n": 1}
    assert study_tables.summary([]) == {"mean": None, "sd": None, "n": 0}


def test_differences_are_taken_seed_by_seed():
    assert study_tables.differences(STUDY, "one", "r2") == pytest.approx([-0.1, -0.05])
    assert study_tables.differences(STUDY, "one", "class") == []


def test_tables():
    whole, apart = study_tables.tables(STUDY)
    assert whole.columns == ["R2", "class"]
    assert whole.rows == [
        ("both", ["0.600 ± 0.100", "0.250 (n=1)"]),
        ("one | only", ["0.525 ± 0.177 (n=2)", "–"]),
    ]
    assert apart.rows == [("one | only", ["-0.075 ± 0.035 (n=2)", "–"])]
    assert "less “both”" in apart.note
    for part in ("shapes", "3 seeds (0, 1, 2)", "1 x cpu", "teacher 4 epochs", "deviation"):
        assert part in whole.note
    alone = STUDY | {"rows": {"both": STUDY["rows"]["both"]}, "seeds": [4]}
    (table,) = study_tables.tables(alone)
    assert "1 seed (4)" in table.note and "deviation" not in table.note


def test_failures_are_said():
    failed = STUDY | {"failed": {"one: imae, seed 2": "out of memory"}}
    assert "1 cell failed" in study_tables.tables(failed)[0].note
    assert study_tables.as_markdown(failed).endswith(
        "Failed: one: imae, seed 2: out of memory\n"
    )


def test_markdown_and_csv():
    lines = study_tables.as_markdown(STUDY).splitlines()
    assert lines[2:5] == [
        "| | R2 | class |",
        "|---|---|---|",
        "| both | 0.600 ± 0.100 | 0.250 (n=1) |",
    ]
    assert lines[5].startswith("| one \\| only | 0.525")
    rows = list(csv.DictReader(study_tables.as_csv(STUDY).splitlines()))
    assert len(rows) == 3 + 1 + 2
    assert rows[1] == dict(arm="both", label="both", column="r2", seed="1", value="0.7")


def test_files(tmp_path):
    study_tables.write(STUDY, tmp_path / "branches")
    assert (tmp_path / "branches" / "figures" / "study.png").stat().st_size > 1000
    assert (
        study_tables.read(tmp_path) == study_tables.read(tmp_path / "branches") == [STUDY]
    )
    assert json.loads((tmp_path / "branches" / "study.json").read_text()) == STUDY


def test_picture_has_a_panel_per_column_with_every_seed():
    figure = study_tables.draw(STUDY)
    assert [axis.get_title() for axis in figure.axes] == ["R2", "class"]
    dots = [line for line in figure.axes[0].lines if line.get_linestyle() == "None"]
    assert sorted(len(line.get_xdata()) for line in dots if line.get_marker() == "o") == [
        2,
        3,
    ]
