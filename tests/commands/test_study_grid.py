"""Which runs a study consists of, and which of them are the same."""

import json

import pytest
from ml_collections import ConfigDict

from configs import datasets, studies
from imae_jax.commands import study, study_grid
from imae_jax.errors import UserError


def make(name="distillation", **changes):
    config = studies.get_config(f"{name},digits,runlocal")
    config.seeds = (0,)
    config.update(changes)
    return config


def cell(config, arm="imae", role="imae", seed=0):
    return study_grid.make_cell(config, arm, role, seed)


@pytest.mark.parametrize("dataset", datasets.PRESETS)
@pytest.mark.parametrize("name", studies.STUDIES)
def test_every_study_of_every_data_set_has_cells(name, dataset):
    if name == "attributes" and dataset != "shapes":
        with pytest.raises(ValueError, match="no factors but the class"):
            studies.get_config(f"{name},{dataset}")
        return
    config = studies.get_config(f"{name},{dataset}")
    config.seeds = (0,)
    grid = study_grid.make_grid(config)
    for column in config.columns.values():
        assert any(role == column.run for _, role, _ in grid), column.label
    assert {role.base for arm in config.arms.values() for role in arm.runs.values()} == set(
        config.runs
    )
    for (arm, role, _), found in grid.items():
        for parent in found.parents.values():
            assert parent.training in {grid[key].training for key in grid if key[0] == arm}
        assert "run:" not in found.resolved(study_grid.Path("there")).to_json(), role


def test_a_cell_is_known_by_what_is_trained_and_what_is_measured():
    known, other_evals = cell(make()), make()
    other_evals.runs.imae.evals.separability.alpha = 0.2
    measured = cell(other_evals)
    assert measured.training == known.training
    assert measured.evaluation != known.evaluation
    other_training = make()
    other_training.runs.imae.optim.blr *= 2
    trained = cell(other_training)
    assert trained.training != known.training
    assert trained.evaluation != known.evaluation
    elsewhere = make()
    elsewhere.runs.imae.data.dir = "elsewhere"
    elsewhere.runs.imae.log.every_steps = 7
    assert cell(elsewhere).evaluation == known.evaluation


def test_new_label_maps_are_measured_anew():
    def with_maps(path):
        config = studies.get_config("distillation,folder_small")
        config.runs.imae.data.files.label_maps = path
        return cell(config)

    without, here, there = map(with_maps, ("", "here", "there"))
    assert without.training == here.training == there.training
    assert len({found.evaluation for found in (without, here, there)}) == 3


def test_a_table_names_the_devices_that_runs_were_trained_on(tmp_path):
    grid = study_grid.make_grid(make())
    cells = {found.training: found for found in grid.values()}
    for number, found in enumerate(cells.values()):
        path = found.folder(tmp_path) / "checkpoints" / "4" / "meta" / "metadata"
        path.parent.mkdir(parents=True)
        meta = {"device": "8 x TPU v5e" if number else "1 x cpu"}
        path.write_text(json.dumps(meta))
    assert study.devices(grid.values(), tmp_path) == "1 x cpu, 8 x TPU v5e"
    assert study.devices(grid.values(), tmp_path / "elsewhere") == "no device"


def test_what_a_cell_starts_from_is_part_of_it():
    known, changed = cell(make()), make()
    changed.runs.teacher.optim.blr *= 2
    assert cell(changed).training != known.training
    # Teachers that only measure change no training.
    measured = make()
    measured.runs.other_teacher.seed = 77
    assert cell(measured).evaluation == known.evaluation
    by_other = [cell(config, role="imae_by_other") for config in (make(), measured)]
    assert by_other[0].training == by_other[1].training == known.training
    assert by_other[0].evaluation != by_other[1].evaluation
    # A start that is no run of the study is known by its path.
    outside = make("mask")
    outside.runs.imae.init = "a"
    assert cell(outside, "mask_50").training != cell(make("mask"), "mask_50").training


def test_a_key_that_a_later_version_added_counts_once_it_is_set():
    now, before = make(), make()
    added = ("contrast_weight", "contrast_temperature", "uniformity_weight")
    added += ("predict_fraction",)
    for run in (before.runs.imae, before.runs.teacher):
        del run.loss.predict_fraction, run.model.decoder.attention
        del run.mask.kind, run.mask.content_weight
    for key in added[:3]:
        del before.runs.imae.loss[key]
    assert cell(now).training == cell(before).training
    changed = make()
    changed.runs.imae.model.decoder.attention = "cross"
    assert cell(changed).training != cell(before).training
    changed = make()
    changed.runs.imae.mask.kind = "grid"
    assert cell(changed).training != cell(before).training
    for key in added:
        changed = make()
        changed.runs.imae.loss[key] *= 2
        changed.runs.imae.loss[key] += 1
        assert cell(changed).training != cell(before).training, key
    now.runs.imae.log.to = before.runs.imae.log.to = ("jsonl",)
    assert cell(now).training == cell(before).training


def test_a_seed_covers_teacher_and_student():
    config = make(seeds=(3, 5))
    grid = study_grid.make_grid(config)
    for (_, role, seed), found in grid.items():
        assert found.config.seed == seed + (1000 if role == "other_teacher" else 0)
        for parent in found.parents.values():
            assert parent.config.seed % 1000 == seed
    assert [key[2] for key in grid] == sorted(key[2] for key in grid)  # table by table
    arms = [grid["imae", role, 3] for role in ("teacher", "imae")]
    assert grid["random", "imae", 3].evaluation == arms[1].evaluation
    assert len({found.training for found in grid.values()}) == 2 * 4


def test_the_folder_of_the_data_is_said_once():
    config = make("mae_vs_imae")
    config.data_dir = "elsewhere"
    for found in study_grid.make_grid(config).values():
        assert found.config.data.dir == "elsewhere"


def test_two_studies_share_a_teacher():
    one, two = (
        cell(make(name), arm, "teacher")
        for name, arm in (
            ("distillation", "imae"),
            ("branches", "both"),
        )
    )
    assert one.training == two.training and one.evaluation == two.evaluation


def test_parents_stand_before_their_children():
    grid = study_grid.make_grid(make("mae_vs_imae"))
    names = [found.name for found in grid["imae", "finetune", 0].ancestors()]
    assert names[0] == "i-MAE: teacher, seed 0"
    assert names[-1] == "i-MAE: student, seed 0"


def test_parents_workdirs_are_filled_in(tmp_path):
    found = cell(make())
    teacher = found.parents["teacher.init"]
    config = found.resolved(tmp_path)
    assert config.teacher.init == str(teacher.folder(tmp_path))
    assert found.config.teacher.init == "run:teacher"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(seeds=()), "seeds=(): a study needs at least one of each"),
        (dict(seeds=(0, 1, 0)), "invalid seeds=(0, 1, 0)"),
        (dict(seeds=(-1,)), "invalid seeds=(-1,)"),
    ],
)
def test_impossible_grids(change, message):
    with pytest.raises(UserError) as error:
        study_grid.make_grid(make(**change))
    assert message in str(error.value)


@pytest.mark.parametrize(
    "key,value", [("primary", "gian"), ("correlate", ("gain", "gian"))]
)
def test_columns_that_do_not_exist(key, value):
    with pytest.raises(
        UserError, match=f"{key}='gian' is no column; columns: gain, r2_sub"
    ):
        study_grid.make_grid(make(**{key: value}))


def test_a_study_without_arms():
    config = make()
    config.arms = ConfigDict()
    with pytest.raises(UserError, match="0 arms and seeds"):
        study_grid.make_grid(config)


def test_configs_that_are_no_study():
    with pytest.raises(UserError, match="--config describes no study: it has no 'name'"):
        study_grid.make_grid(ConfigDict())


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("runs.imae.teacher.init", "run:teecher", "arms.imae: there is no run 'teecher'"),
        ("runs.imae.teacher.init", "run:imae", "it starts from itself, by imae"),
        ("arms.imae.runs.imae.base", "imay", "arms.imae.runs.imae.base='imay' is no run"),
    ],
)
def test_references_that_lead_nowhere(key, value, message):
    config = make()
    config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError) as error:
        study_grid.make_grid(config)
    assert message in str(error.value)


def test_changes_of_keys_that_do_not_exist():
    config = make()
    config.arms.imae.runs.imae.change = ConfigDict(dict(mix=dict(alfa=0.1)))
    with pytest.raises(UserError, match=r"arms.imae.runs.imae.change: .*alfa"):
        study_grid.make_grid(config)


def test_unknown_study_or_data_set():
    with pytest.raises(
        ValueError, match="no study 'destillation'; studies: heads, distillation"
    ):
        studies.get_config("destillation,digits")
    with pytest.raises(ValueError, match="no preset for data set 'digit'"):
        studies.get_config("mask,digit")
