"""What the report and the tables say, from numbers alone."""

import base64
import html
import re

import pytest

from imae_jax import evaluation
from imae_jax.errors import UserError
from imae_jax.evaluators import reconstruction
from imae_jax.evaluators.tables import Table, branches_of
from imae_jax.report import (
    charts,
    figures,
    headlines,
    panels,
    questions,
    summary,
    training_curves,
)
from imae_jax.report.page import PICTURES, measured_at, write_report
from imae_jax.storage import atomic_files, workdir
from imae_jax.training.loop import train

NUMBERS = {
    "reconstruction/subordinate/mse": 0.3,
    "reconstruction/subordinate/mse_train_mean": 0.5,
    "reconstruction/subordinate/ratio": 0.6,
    "reconstruction/dominant/mse": 0.1,
    "reconstruction/dominant/mse_train_mean": 0.4,
    "reconstruction/dominant/ratio": 0.25,
    "separability/subordinate/r2": 0.34,
    "separability/dominant/r2": 0.78,
    "separability/subordinate/cross_r2": 0.5,
    "separability/dominant/cross_r2": 0.2,
    "separability/subordinate/r2_null": 0.155,
    "separability/dominant/r2_null": 0.845,
    "separability/subordinate/excess": 0.185,
    "separability/dominant/excess": -0.065,
    "separability/gain": 0.12,
    "separability/subordinate/component_r2": 0.21,
    "separability/subordinate/mlp_r2": 0.41,
    "separability/assignment_accuracy": 0.97,
    "separability/baselines/random/subordinate/r2": 0.06,
    "separability/baselines/random/dominant/r2": 0.43,
    "separability/baselines/random/assignment_accuracy": 0.9,
    "separability/baselines/random/gain": -0.51,
    "separability/baselines/raw_pixels/gain": -0.82,
    "separability/baselines/raw_pixels/assignment_accuracy": 0.86,
    "separability/alpha_0.40/subordinate/r2_null": 0.308,
    "separability/alpha_0.10/subordinate/r2_null": 0.012,
    "separability/alpha_0.40/subordinate/r2": 0.4,
    "separability/alpha_0.10/subordinate/r2": 0.1,
    "separability/alpha_0.10/baselines/random/subordinate/r2": 0.01,
    "recognition/subordinate/accuracy": 0.6,
    "recognition/dominant/accuracy": 0.9,
    "recognition/clean_accuracy": 0.99,
    "recognition/baselines/mixture_classifier/subordinate/accuracy": 0.7,
    "recognition/baselines/mixture_classifier/dominant/accuracy": 0.95,
    "semantics/subordinate/accuracy": 0.48,
    "semantics/dominant/accuracy": 0.84,
    "semantics/subordinate/other_branch_accuracy": 0.45,
    "semantics/dominant/other_branch_accuracy": 0.82,
    "semantics/teacher_on_image/subordinate/accuracy": 0.89,
    "semantics/teacher_on_image/dominant/accuracy": 0.92,
    "probes/linear/class_token/accuracy": 0.8,
    "probes/baselines/random/linear/class_token/accuracy": 0.5,
    "probes/baselines/raw_pixels/linear/accuracy": 0.6,
    "quality/alpha_0.10/mask_0.25/dominant/psnr": 17.0,
    "quality/alpha_0.10/mask_0.75/dominant/psnr": 13.0,
}


def with_config(config, folder):
    folder.mkdir(parents=True, exist_ok=True)
    atomic_files.write_json(folder / "config.json", workdir.as_json(config))
    return folder


def test_report_of_a_run_that_has_only_begun(mae_config, tmp_path):
    """Killed before its first checkpoint: a config, and nothing else."""
    with_config(mae_config(), tmp_path)
    page = write_report(tmp_path).read_text()
    assert "digits, 0 steps, 0.0 epochs, 0.0 minutes of training, unknown" in page
    assert "<table" not in page and "gain" not in page


def test_report_tells_the_runs_of_a_folder_apart(imae_config, tmp_path):
    for name, error in (("first", 0.1234), ("second", 0.5678)):
        numbers = NUMBERS | {"reconstruction/dominant/mse": error}
        folder = with_config(imae_config(), tmp_path / name)
        atomic_files.write_json(folder / "eval.json", numbers)
    (tmp_path / "no_run").mkdir()
    page = write_report(tmp_path).read_text()
    assert "<h3>first</h3>" in page and "<h3>second</h3>" in page
    assert "0.123" in page and "0.568" in page
    assert "<h3>Linear separability (second)</h3>" in page
    assert page.count("<h3>Reconstruction of both images from their mixture</h3>") == 1
    # A run's own folder reports on that run.
    own = write_report(tmp_path / "second").read_text()
    assert "0.568" in own and "0.123" not in own


def test_settings_with_markup_are_escaped(mae_config, tmp_path):
    config = mae_config()
    config.init = "<script>alert(1)</script>"
    with_config(config, tmp_path)
    assert "<script>" not in write_report(tmp_path).read_text()


def test_report_of_nothing(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        write_report(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_static_pictures_are_in_the_page(imae_config, tmp_path):
    with_config(imae_config(), tmp_path)
    (tmp_path / "figures").mkdir()
    for name in PICTURES:
        (tmp_path / "figures" / name).write_bytes(name.encode())
    page = write_report(tmp_path).read_text()
    for name in PICTURES:
        assert base64.b64encode(name.encode()).decode() in page


@pytest.mark.slow
def test_baseline_of_other_patches_is_refused(imae_config, teacher, tmp_path):
    config = imae_config()
    train(config, tmp_path / "imae", stop_at=1)
    other = imae_config()
    other.model.variant = "mu/4"
    other.teacher.init = ""
    other.loss.distill_weight = 0.0
    other.evals.quality.mask_ratios = (0.25, 0.5)
    train(other, tmp_path / "other", stop_at=1)
    baselines = config.evals.separability.baseline_runs
    baselines.without_distillation = str(tmp_path / "other")
    with pytest.raises(UserError, match="without_distillation=.* its patch size is 4"):
        evaluation.evaluate(config, tmp_path / "imae")


def test_tables_say_only_what_was_measured():
    assert summary.all_tables({"run": {}}, {}) == []
    (table,) = summary.all_tables(
        {"run": {"reconstruction/mse": 0.25, "reconstruction/mse_train_mean": 0.5}}, {}
    )
    assert table.rows == [
        ("the mean training image", ["0.500", "1.000"]),
        ("run", ["0.250", "–"]),
    ]


def test_tables_of_a_run():
    tables = {table.title: table for table in summary.all_tables({"mine": NUMBERS}, {})}
    separability = tables["Linear separability"]
    assert separability.rows == [
        (
            "superposition (null)",
            ["0.000", "0.155", "0.000", "0.845", "0.000", "0.845", "0.155", "–"],
        ),
        ("mine", ["0.120", "0.340", "0.185", "0.780", "-0.065", "0.500", "0.200", "0.970"]),
        ("random weights", ["-0.510", "0.060", "–", "0.430", "–", "–", "–", "0.900"]),
        ("raw pixels", ["-0.820", "–", "–", "–", "–", "–", "–", "0.860"]),
    ]
    # Runs of version 0.1.0 have no null.
    old = {k: v for k, v in NUMBERS.items() if "null" not in k and "gain" not in k}
    (table,) = (
        t for t in summary.all_tables({"a": old}, {}) if t.title == separability.title
    )
    assert [label for label, _ in table.rows] == ["a", "random weights", "raw pixels"]
    components = tables["Linear separability: every component, and beyond linear"]
    assert components.columns == ["subordinate, by component", "subordinate, by MLP"]
    assert components.rows == [("mine", ["0.210", "0.410"])]
    probes = tables["Class of whole images, from the frozen encoder"]
    assert dict(probes.rows)["raw pixels, no network"][:2] == ["0.600", "–"]
    assert all(len(cells) == len(probes.columns) for _, cells in probes.rows)


def test_tables_say_what_they_were_measured_on():
    common = {"split": "test", "checkpoint": 9}
    settings = {
        "separability/subordinate/r2": {"count": 300, "alpha": 0.45, "mask_ratio": 0.5},
        "probes/linear/class_token/accuracy": {"count": 299, "alpha": None},
    }
    settings = {"mine": {k: {"mask_ratio": None} | v | common for k, v in settings.items()}}
    found = summary.all_tables({"mine": NUMBERS}, settings)
    notes = {table.title: table.note for table in found}
    assert notes["Linear separability"].endswith(
        "Measured on 300 mixtures of the test split, alpha 0.45, mask ratio 0.5."
    )
    assert notes["Class of whole images, from the frozen encoder"].endswith(
        "Measured on 299 images of the test split."
    )
    assert "Measured" not in notes["Reconstruction of both images from their mixture"]
    key = "reconstruction/subordinate/mse"
    differing = {
        run: {key: common | dict(count=count, alpha=0.1, mask_ratio=0.5)}
        for run, count in (("mine", 300), ("his", 9), ("hers", 9))
    }
    found = summary.all_tables(dict.fromkeys(differing, NUMBERS), differing)
    (note,) = (table.note for table in found if table.title.startswith("Reconstruction"))
    assert note.endswith(
        "Runs were measured differently: mine: on 300 mixtures of the test split, alpha "
        "0.1, mask ratio 0.5; his, hers: on 9 mixtures of the test split, alpha 0.1, mask "
        "ratio 0.5."
    )
    assert measured_at(settings["mine"]) == "alpha 0.45, mask ratio 0.5"


def test_text_is_aligned_and_fits():
    text = summary.as_text({"mine": NUMBERS}, {}, 200)
    lines = text.splitlines()
    (row,) = (line for line in lines if line.startswith("  mine: what"))
    head = lines[lines.index(row) - 1]
    assert len(row) == len(head) and row.endswith("0.900") and head.endswith("dominant")


def test_columns_that_do_not_fit_stand_below_with_their_labels():
    table = summary.Table("t", "n", ["first", "second", "third one"], [])
    table.rows.extend([("a", ["1.000", "2.000", "3.000"]), ("longer", ["4", "5", "6"])])
    # Labels take 2 + 8 characters, columns 8, 9 and 12.
    assert len(list(summary._in_columns(table, 39))) == 3
    for width in (27, 38):
        assert list(summary._in_columns(table, width)) == [
            "             first   second",
            "  a          1.000    2.000",
            "  longer         4        5",
            "             third one",
            "  a              3.000",
            "  longer             6",
        ]
    assert len(list(summary._in_columns(table, 1))) == 9  # a column at least


def test_no_cell_is_lost_in_a_narrow_terminal():
    tables = summary.all_tables({"mine": NUMBERS}, {})
    for width in (40, 80, 200):
        lines = summary.as_text({"mine": NUMBERS}, {}, width).splitlines()
        found = " ".join(lines).split()
        for table in tables:
            for label, cells in table.rows:
                assert any(line.strip().startswith(label) for line in lines)
                assert set(cells) <= set(found)
        assert width < 80 or max(map(len, lines)) <= width


def test_headlines_in_plain_words():

    def say(numbers):
        return " ".join(
            text
            for section in questions.sections({"mine": numbers}, {}, {"mine"})
            for text in section.sentences.get("mine", ())
        ).replace("\N{NO-BREAK SPACE}", " ")

    whole = say(NUMBERS | {"separability/dominant/r2": 0.83})
    assert "hold both images better than their sum does by a gain of +0.12" in whole
    said = say(NUMBERS)
    assert "hold more than the sum of both images by a gain of +0.12, all of" in said
    assert "it of the subordinate image, where pure" in said
    assert "superposition has 0; untrained -0.51; raw pixels -0.82." in said
    assert "explains 34 % of the teacher's latents of the subordinate image alone" in said
    assert "(superposition: 16 %) and 78 % of the dominant one's (84 %)" in said
    none = say(NUMBERS | {"separability/gain": -0.03})
    assert "hold no more of both images than their sum (gain -0.03)" in none
    assert "explains 50 % of the dominant image, more than of its own" in said
    assert "In 97 % of the mixtures" in said and "raw pixels: 86 %, untrained: 90 %" in said
    assert "50 %)" not in said
    assert "0.60 times the error of the mean training image" in said
    assert "from 60 % of the reconstructed subordinate and 90 % of the dominant" in said
    assert "names the class of 80 % of whole images" in said
    assert "of 48 % of the subordinate images from their branch's latents" in said
    assert "from the other branch's, 45 % and 82 %; from the teacher's latents" in said
    assert "proves nothing" not in said
    easy = NUMBERS | {"probes/baselines/raw_pixels/linear/accuracy": 0.8}
    assert "on these images a probe proves nothing" in say(easy)
    separated = NUMBERS | {"separability/subordinate/cross_r2": 0.1}
    assert "10 % of the dominant image, less than" in say(separated)
    lacking = {k: v for k, v in NUMBERS.items() if k.endswith(("y/gain", "/r2_null"))}
    assert "separability/gain" in lacking and say(lacking) == ""
    assert say({}) == ""


def test_the_numbers_of_three_images():
    numbers = {"separability/gain": 0.25, "separability/assignment_accuracy": 0.6}
    for n, branch in enumerate(("subordinate", "middle_1", "dominant"), start=1):
        numbers[f"separability/{branch}/r2"] = 0.2 * n
        numbers[f"separability/{branch}/r2_null"] = 0.1 * n
        numbers[f"separability/{branch}/cross_r2"] = 0.05 * n
        numbers[f"separability/alpha_0.30/{branch}/r2"] = 0.2 * n
        numbers[f"reconstruction/{branch}/mse"] = 0.3 * n
        numbers[f"reconstruction/{branch}/ratio"] = 0.9
    for row in ("raw_pixels", "random"):
        numbers[f"separability/baselines/{row}/assignment_accuracy"] = 0.5
    texts = [*headlines.separated(numbers), *headlines.told_apart(numbers)]
    said = " ".join([*texts, *headlines.reconstructed(numbers)])
    said = said.replace("\N{NO-BREAK SPACE}", " ")
    assert "hold all 3 images better than their sum does by a gain of +0.25" in said
    assert "subordinate 20 % (10 %), middle 1 40 % (20 %), dominant 60 % (30 %)." in said
    assert (
        "In 60 % of the mixtures the latents are nearer to their own images' than" in said
    )
    assert "middle 1 0.90 times" in said
    both = {"three": numbers, "mine": NUMBERS}
    tables = {table.title: table for table in summary.all_tables(both, {})}
    found = tables["Linear separability (three)"]
    assert found.columns[1::2][:3] == ["R2, sub.", "R2, mid. 1", "R2, dom."]
    null, own = (dict(zip(found.columns, row, strict=True)) for _, row in found.rows[:2])
    assert null["cross, sub."] == null["cross, mid. 1"] == "0.300"
    assert null["cross, dom."] == "0.200" and own["R2, mid. 1"] == "0.400"
    assert "over S - 1" in found.note
    assert "over S - 1" not in tables["Linear separability (mine)"].note
    titles = [title for title in tables if title.startswith("Reconstruction of")]
    assert len(titles) == 2 and "Reconstruction of all 3 images from" in titles[1]
    (panel, *_) = charts.separability(numbers, "three")
    assert "middle_1" in {table.title for table in panel.tables}


def test_charts_show_the_sweep_and_its_numbers():
    assert charts.sweep(NUMBERS, "separability", "subordinate/r2") == [
        (0.1, 0.1),
        (0.4, 0.4),
    ]

    def drawn(numbers):
        found = questions.sections({"mine": numbers}, {}, {"mine"})
        return {chart.title: chart for section in found for chart in section.charts}

    found = drawn(NUMBERS)
    assert found.keys() == {"Separability over alpha", "PSNR of the reconstructions"}
    chart = found["Separability over alpha"]
    (table,) = chart.tables  # nothing was measured of the dominant branch
    assert table.title == "subordinate" and list(table.columns) == ["0.10", "0.40"]
    assert table.rows == [
        ("mine", ["0.100", "0.400"]),
        ("random weights", ["0.010", "–"]),
        ("superposition (null)", ["0.012", "0.308"]),
    ]
    svg = chart.svg("here")
    # In the page's colour, also where that is dark.
    assert charts.INK not in svg and "currentColor" in svg
    assert ">subordinate</text>" in svg and "http-equiv" not in svg
    assert "<title>mine: 0.400 at 0.4</title>" in svg
    assert svg.count("<title>") == len(chart.values) == 5
    # Ids are the page's: those of another chart do not clash.
    assert set(re.findall(r'\bid="(.*?)_', svg)) == {"here"}
    assert set(re.findall(r"(?:href=\"#|url\(#)(\w+?)_", svg)) == {"here"}
    assert drawn({}) == {}


def test_every_run_stands_below_the_mean_image_that_it_is_relative_to():
    other = NUMBERS | {"reconstruction/subordinate/mse_train_mean": 0.25}
    found = reconstruction.tables({"a": NUMBERS, "b": NUMBERS, "c": other})
    table = [*found][1]
    mean = "the mean training image"
    assert [label for label, _ in table.rows] == [mean, "a", "b", mean, "c"]


@pytest.mark.parametrize(
    "gain,untrained,said",
    [
        (0.12, -0.51, "hold more than the sum of both images: gain +0.12"),
        (0.03, -0.51, "show no separation of both images: gain +0.03"),
        (0.12, 0.1, "show no separation of both images: gain +0.12"),
        (-0.03, -0.51, "hold no more than the sum of both images: gain -0.03"),
    ],
)
def test_a_small_gain_is_not_called_separation(gain, untrained, said):
    changed = {"separability/gain": gain, "separability/baselines/random/gain": untrained}
    assert said in headlines.lead(NUMBERS | changed, "i-MAE")
    (first, *_) = headlines.separated(NUMBERS | changed)
    assert ("all of it of the subordinate" in first) == ("hold more" in said)
    assert ("show no separation" in first) == ("show no separation" in said)


@pytest.mark.parametrize(
    "dominant,said", [(0.85, "hold both"), (0.83, "hold both"), (0.81, "hold more than")]
)
def test_images_are_held_if_none_falls_below_superposition(dominant, said):
    numbers = NUMBERS | {"separability/dominant/r2": dominant}
    assert f"latents {said}" in headlines.lead(numbers, "i-MAE")
    (first, *_) = headlines.separated(numbers)
    assert f"mixture {said}" in first


def test_a_class_may_be_called_as_a_branch_is():
    numbers = NUMBERS | {
        "segmentation/iou/middle_1": 0.5,
        "segmentation/iou/middle_lobe": 0.5,
    }
    assert branches_of(numbers) == ("subordinate", "dominant")


def test_the_page_begins_with_the_gain_and_its_null(imae_config, tmp_path):
    folder = with_config(imae_config(), tmp_path / "run")
    atomic_files.write_json(folder / "eval.json", NUMBERS)
    page = html.unescape(write_report(folder).read_text())
    assert (
        "<h1>The i-MAE's latents hold more than the sum of both images: gain +0.12 ("
        in page
    )
    assert "For comparison: untrained -0.51; raw pixels -0.82." in page
    atomic_files.write_json(folder / "eval.json", NUMBERS | {"separability/gain": -0.03})
    page = write_report(folder).read_text()
    assert "hold no more than the sum of both images: gain -0.03" in page
    # Every entry of the contents leads somewhere.
    anchors = re.findall(r'<a href="#(.*?)"', page)
    assert {"separability", "reconstruction", "runs"} <= set(anchors)
    assert all(f'id="{anchor}"' in page for anchor in anchors)


def test_tables_of_a_users_own_evaluator_are_in_the_page(monkeypatch):
    own = Table("Brightness", "Mean.", ["mean"], [("run", ["0.5"])])
    monkeypatch.setattr(questions.summary, "all_tables", lambda *_: [own])
    (section,) = questions.sections({"run": {}}, {}, {"run"})
    assert (section.title, section.tables) == ("Other numbers", [own])


def test_the_short_table_has_the_nulls():
    table = summary.short_table({"mine": NUMBERS, "empty": {}})
    assert table.columns == ["gain", "error, sub.", "error, dom.", "probe"]
    assert table.rows == [
        ("null", ["0.000", "1.000", "1.000", "0.600"]),
        ("mine", ["0.120", "0.600", "0.250", "0.800"]),
    ]
    assert summary.as_text({"mine": NUMBERS}, {}, 200).startswith("In short")
    assert not summary.short_table({"empty": {}}).rows


def test_the_first_pair_shown_is_the_median_one():
    layout = {
        "alphas": [0.1, 0.3, 0.5],
        "mask_ratios": [0.25, 0.5, 0.75],
        "trained_mask_ratio": 0.6,
        # [N][R][A][S]: worst, best and middle pair, in the order of the errors' sums.
        "mse": [[[[1, 1]] * 3] * 3, [[[0, 0.1]] * 3] * 3, [[[0.9, 0]] * 3] * 3],
        "mse_train_mean": [[[1, 1]] * 3] * 3,
    }
    assert panels.choose_start(layout) == {"pair": 2, "alpha": 1, "ratio": 1}


def test_only_a_chart_of_one_panel_is_narrow():
    line = {"epoch": 1.0, "loss/total": 0.5}
    assert charts.training({"a": [line]}).is_narrow
    assert not charts.training({"a": [line], "b": [line]}).is_narrow


def test_losses_are_drawn_for_runs_of_any_age():
    lines = [
        {"epoch": 1.0, "loss/total": 2.0, "loss/reconstruction": 2.0},
        {"epoch": 2.0, "loss/total": 1.0, "loss/reconstruction": 1.0},
    ]
    terms = {"loss/contrast": 2.0, "loss/uniformity": 0.1, "contrast/accuracy": 0.5}
    contrast = [line | terms for line in lines]
    runs = {"mae": lines, "begun": [], "contrast": contrast}
    figure = charts.training(runs).figure
    first, second, third = figure.axes
    # The sum of one part is not drawn over it.
    assert [line.get_label() for line in first.lines] == ["reconstruction"]
    assert not second.lines
    labels = [line.get_label() for line in third.lines]
    assert labels == ["contrast", "reconstruction", "total", "uniformity"]
    assert figures.as_png(figure).startswith(b"\x89PNG")


def test_what_was_measured_in_training_is_drawn():
    assert not list(training_curves.measured({"old": [{"epoch": 1.0}]}))
    lines = [
        {"epoch": 1.0, "during_training/gain": -0.2, "during_training/effective_rank": 9.0},
        {"epoch": 1.5},
        {"epoch": 2.0, "during_training/gain": 0.3},
    ]
    (chart,) = training_curves.measured({"run": lines, "old": [{"epoch": 1.0}]})
    gain, rank = chart.figure.axes
    first, *_, null, _, _ = gain.lines  # each is followed by its marks
    assert first.get_xydata().tolist() == [[1, -0.2], [2, 0.3]]
    assert null.get_xydata().tolist() == [[1, 0], [2, 0]]
    assert rank.lines[0].get_xydata().tolist() == [[1, 9]]
    assert "run: 0.300 at 2" in chart.values
