"""`compute.dtype="auto"`: taken once, said, stored, and kept."""

import json

import pytest

from configs import demo as demo_config
from configs import imae, mae, studies
from imae_jax import evaluation
from imae_jax.aot import plan
from imae_jax.commands import demo, study, study_grid
from imae_jax.distributed import sharding
from imae_jax.errors import UserError
from imae_jax.models import layers
from imae_jax.storage.workdir import as_json, read_config, settle_dtype
from imae_jax.training import loop, trained_run

OTHER = {"float32": "bfloat16", "bfloat16": "float32"}


@pytest.fixture
def machine(monkeypatch):
    """Makes this a machine that computes a type faster."""

    def become(dtype):
        monkeypatch.setattr(layers, "fastest_type", lambda platform: dtype)

    return become


def stored(workdir):
    return json.loads((workdir / "config.json").read_text())["compute"]["dtype"]


def auto(config):
    config.compute.dtype = "auto"
    return config


def test_it_is_the_default():
    for config in (mae.get_config("digits"), imae.get_config("imagenet")):
        assert config.compute.dtype == "auto"


@pytest.mark.slow
@pytest.mark.parametrize("dtype", layers.DTYPES)
def test_a_run_keeps_the_type_it_began_with(dtype, machine, mae_config, tmp_path, capsys):
    machine(dtype)
    config = auto(mae_config())
    loop.train(config, tmp_path, stop_at=2)
    assert f"compute.dtype=auto: {dtype}, which this processor" in capsys.readouterr().out
    assert config.compute.dtype == "auto"  # the caller's own
    assert stored(tmp_path) == dtype
    machine(OTHER[dtype])
    loop.train(config, tmp_path)
    assert f"compute.dtype=auto: {dtype}, as what has begun" in capsys.readouterr().out
    assert stored(tmp_path) == dtype
    evaluation.evaluate(config, tmp_path)
    evaluation.evaluate(read_config(tmp_path), tmp_path)
    run = trained_run.load_run(tmp_path, "workdir", sharding.make_mesh())
    assert run.model.compute.operands == dtype
    assert run.meta["config"]["compute"]["dtype"] == dtype
    # One that is named is compared, as ever.
    config.compute.dtype = OTHER[dtype]
    with pytest.raises(UserError, match=f"compute.dtype is '{dtype}' there"):
        loop.train(config, tmp_path)


def test_all_runs_of_a_study_are_of_one_type(machine, data_dir, tmp_path, monkeypatch):
    def make():
        config = studies.get_config("branches,digits,runlocal")
        config.seeds, config.data_dir = (0,), data_dir
        return config

    trained = []

    def begin(config, workdir, **options):
        trained.append((workdir, config.compute.dtype))
        workdir.mkdir(parents=True)
        text = json.dumps(as_json(config))
        (workdir / "config.json").write_text(text)
        raise UserError("the machine was taken away")

    monkeypatch.setattr(study, "train", begin)
    machine("bfloat16")
    with pytest.raises(UserError, match="taken away"):
        study.study(make(), tmp_path)
    assert [dtype for _, dtype in trained] == ["bfloat16"]
    # On another machine it goes on where it was, in its type.
    machine("float32")
    found = []
    monkeypatch.setattr(
        study, "run_cells", lambda cells, workdir: found.extend(cells) or {}
    )
    study.study(make(), tmp_path)
    assert {cell.config.compute.dtype for cell in found} == {"bfloat16"}
    assert trained[0][0] in [cell.folder(tmp_path) for cell in found]
    assert all(isinstance(cell, study_grid.Cell) for cell in found)
    stored_study = json.loads((tmp_path / "branches" / "study_config.json").read_text())
    types = {run["compute"]["dtype"] for run in stored_study["runs"].values()}
    assert types == {"bfloat16"}


def test_all_runs_of_a_demo_are_of_one_type(machine, data_dir, tmp_path, monkeypatch):
    config = demo_config.get_config("digits,runlocal")
    for name in ("teacher", *demo.STUDENTS):
        config[name].data.dir = data_dir
    (tmp_path / "teacher").mkdir()
    begun = as_json(config.teacher)
    begun["compute"]["dtype"] = "bfloat16"
    (tmp_path / "teacher" / "config.json").write_text(json.dumps(begun))
    machine("float32")
    found = []

    def begin(config, workdir, **options):
        found.extend(run.compute.dtype for run in demo_runs.values())
        raise UserError("enough")

    demo_runs = {name: config[name] for name in ("teacher", *demo.STUDENTS)}
    monkeypatch.setattr(demo, "train", begin)
    with pytest.raises(UserError, match="enough"):
        demo.demo(config, tmp_path)
    assert found == ["bfloat16"] * 3


def test_runs_of_both_types_leave_it_to_the_machine(machine, mae_config, tmp_path):
    for dtype in layers.DTYPES:
        (tmp_path / dtype).mkdir()
        config = mae_config()
        config.compute.dtype = dtype
        text = json.dumps(as_json(config))
        (tmp_path / dtype / "config.json").write_text(text)
    for dtype in layers.DTYPES:
        machine(dtype)
        config = auto(mae_config())
        settle_dtype([config], sorted(tmp_path.iterdir()))
        assert config.compute.dtype == dtype


def test_tpus_are_compiled_for_in_bfloat16():
    found = plan.adapted(mae.get_config("digits"), "tpu")
    assert found.compute.dtype == "bfloat16"


def test_the_first_of_several_processes_decides(in_two_processes):
    script = """
from imae_jax.models import layers
from imae_jax.storage import workdir
from configs import mae
first = jax.process_index() == 0
layers.fastest_type = lambda platform: "float32" if first else "bfloat16"
config = mae.get_config("digits")
workdir.settle_dtype([config], [])
print(config.compute.dtype)
"""
    assert in_two_processes(script) == ["float32", "float32"]
