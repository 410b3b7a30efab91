"""A study's table from numbers alone."""

import csv
import json

import pytest
from scipy.stats import spearmanr

from imae_jax.commands import study as study_command
from imae_jax.report import study_statistics, study_tables

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
    found = study_statistics.summary([0.5, 0.7, 0.6])
    assert found == pytest.approx({"mean": 0.6, "sd": 0.1, "n": 3})
    assert study_statistics.summary([0.5]) == {"mean": 0.5, "sd": None, "n": 1}
    assert study_statistics.summary([]) == {"mean": None, "sd": None, "n": 0}


def test_differences_are_taken_seed_by_seed():
    assert study_statistics.differences(STUDY, "one", "r2") == pytest.approx([-0.1, -0.05])
    assert study_statistics.differences(STUDY, "one", "class") == []


def test_tables():
    whole, apart = study_tables.tables(STUDY)
    assert whole.columns == ["R2", "class"]
    assert whole.rows == [
        ("both", ["0.600 ± 0.100", "0.250 (n=1)"]),
        ("one | only", ["0.525 ± 0.177 (n=2)", "–"]),
    ]
    # 12.706 (Student's t, one degree of freedom) times 0.0354 / sqrt(2).
    assert apart.rows == [("one | only", ["-0.075 ± 0.318 (n=2)", "–"])]
    assert "less “both”" in apart.note
    for part in ("shapes", "3 seeds (0, 1, 2)", "1 x cpu", "teacher 4 epochs", "deviation"):
        assert part in whole.note
    alone = STUDY | {"rows": {"both": STUDY["rows"]["both"]}, "seeds": [4]}
    (table,) = study_tables.tables(alone)
    assert "1 seed (4)" in table.note and "deviation" not in table.note


def test_the_interval_is_students():
    # 2.48 standard deviations for three seeds.
    half = study_statistics.half_interval([0.5, 0.7, 0.6])
    assert half == pytest.approx(2.484 * 0.1, rel=1e-3)
    assert study_statistics.half_interval([0.5]) is None


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        (
            {"0": 0.4, "1": 0.6, "2": 0.5},
            "one | only -0.100 (95 % interval -0.100 to -0.100)",
        ),
        (
            {"0": 0.4, "1": 0.8, "2": 0.6},
            "one | only +0.000 (95 % interval -0.248 to +0.248, so no difference is shown)",
        ),
        ({"0": 0.4}, "one | only -0.100 (one seed: no interval)"),
    ],
)
def test_the_sentence_follows_the_interval(values, verdict):
    rows = json.loads(json.dumps(STUDY["rows"]))
    rows["one"]["values"]["r2"] = values
    found = study_tables.finding(STUDY | {"rows": rows, "primary": "r2"})
    assert found.startswith(
        "Primary number, named before the study ran: R2. Against “both”"
    )
    assert found.endswith(f": {verdict}.")


def test_a_primary_number_chosen_afterwards_is_said_to_be():
    study = STUDY | {"primary": "r2", "first_primary": "r2"}
    assert "named before the study ran: R2." in study_tables.finding(study)
    for first, said in (("class", STUDY["columns"]["class"]), ("gone", "gone")):
        study["first_primary"] = first
        found = study_tables.finding(study)
        assert f"chosen after the study began with {said}: R2. Against" in found


def test_the_primary_number_of_the_beginning_is_kept(tmp_path):
    assert study_command.first_primary(tmp_path, "gain") == "gain"
    assert study_command.first_primary(tmp_path, "class") == "gain"


def correlated(ys, seeds=2):
    """A study whose arms have the values 0, 1, ... and `ys`."""
    rows = {
        f"arm_{i}": {
            "label": f"arm {i}",
            "values": {
                "r2": {str(seed): i + 0.1 * seed for seed in range(seeds)},
                "class": {str(seed): y - 0.1 * seed for seed in range(seeds)},
            },
        }
        for i, y in enumerate(ys)
    }
    study = STUDY | {"rows": rows, "primary": "r2"}
    return study | {"correlation": study_statistics.correlate(study, ("r2", "class"))}


def test_rank_correlation_over_arms():
    ys = [1.0, 3.0, 2.0, 5.0, 4.0, 6.0, 6.0]
    found = correlated(ys)["correlation"]
    assert found["rho"] == pytest.approx(spearmanr(range(7), ys).statistic)
    assert found["n"] == 7 and found["low"] < found["rho"] <= found["high"] <= 1
    # Chance alone orders five arms alike too often.
    assert correlated([1.0, 2.0, 3.0, 4.0, 5.0])["correlation"] is None
    assert correlated([1.0] * 6)["correlation"] is None  # as where an accuracy saturates


def test_a_correlation_is_drawn_and_stated_without_a_cause(tmp_path):
    rising = correlated([float(y) for y in range(9)])
    assert rising["correlation"]["rho"] == pytest.approx(1)
    assert "does not say which of them" in study_tables.as_markdown(rising)
    mixed = correlated([3.0, 1.0, 2.0, 4.0, 0.0, 2.5])
    assert study_tables.as_markdown(mixed).rstrip().endswith("none is shown.")
    study_tables.write(rising, tmp_path)
    assert (tmp_path / "figures" / "correlation.png").stat().st_size > 1000
    assert len(study_tables.charts(rising)) == 2 and len(study_tables.charts(STUDY)) == 1


def test_points_near_each_other_share_a_label():
    study = correlated([0.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    values = study["rows"]["arm_3"]["values"]
    values["r2"], values["class"] = study["rows"]["arm_1"]["values"].values()
    axis = study_tables.draw_correlation(study).axes[0]
    assert len(axis.lines[0].get_xdata()) == 6
    *labels, key = (text.get_text() for text in axis.texts)
    assert sorted(labels) == ["1", "2, 4", "3", "5", "6"]
    assert key.splitlines() == [f"{n}  arm {n - 1}" for n in range(1, 7)]


def test_failures_are_said():
    failed = STUDY | {"failed": {"one: imae, seed 2": "out of memory"}}
    assert "1 cell failed" in study_tables.tables(failed)[0].note
    assert study_tables.as_markdown(failed).endswith(
        "Failed: one: imae, seed 2: out of memory\n"
    )


def test_markdown_and_csv():
    lines = study_tables.as_markdown(STUDY).splitlines()
    assert lines[2:5] == [
        "| arm | R2 | class |",
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
    for folder in (tmp_path, tmp_path / "branches"):
        assert study_tables.read(folder) == ([STUDY], {})
    assert json.loads((tmp_path / "branches" / "study.json").read_text()) == STUDY


def test_five_columns_are_two_lines_of_panels():
    columns = {f"c{n}": f"column {n}" for n in range(5)}
    row = {"label": "arm", "values": {name: {"0": 1.0} for name in columns}}
    figure = study_tables.draw(STUDY | {"columns": columns, "rows": {"arm": row}})
    assert [axis.get_title() for axis in figure.axes] == list(columns.values())


def test_picture_has_a_panel_per_column_with_every_seed():
    figure = study_tables.draw(STUDY)
    assert [axis.get_title() for axis in figure.axes] == ["R2", "class"]
    dots = [line for line in figure.axes[0].lines if line.get_linestyle() == "None"]
    assert sorted(len(line.get_xdata()) for line in dots if line.get_marker() == "o") == [
        2,
        3,
    ]
