"""Any value of any key is accepted, or refused in one line."""

import random
import sys

import pytest
from running import call

import main
from configs import imae, mae, transfer
from imae_jax.commands import config_overrides
from imae_jax.commands.failures import DEFECT
from imae_jax.config import checks
from imae_jax.data.load import load
from imae_jax.distributed import processes
from imae_jax.errors import UserError
from imae_jax.evaluators.config_checks import check_evals
from imae_jax.models.factory import build_model
from imae_jax.objectives.select import OBJECTIVES
from imae_jax.storage import pytrees

PRESETS = {
    "configs/mae.py:digits,runlocal": mae,
    "configs/imae.py:digits,runlocal": imae,
    "configs/transfer.py:digits,linear,runlocal": transfer,
    "configs/transfer.py:digits,finetune,runlocal": transfer,
}
VALUES = {
    "wrong type": ["abc", "1.5", "[1]", "{'a': 1}", "b'x'", "True", "1", "lambda: 0"],
    "negative": ["-1", "-0.5", "-1,-2"],
    "zero": ["0", "0.0", "0,0"],
    "huge": ["1e300", "9" * 30, "9" * 400, str(2**31), str(2**63)],
    "nan": ["nan", "nan,nan"],
    "inf": ["inf", "-inf", "inf,inf"],
    "empty": ["", "()", "''", "[]", "{}"],
    "unicode": ["\u03b1\u00e9\u4e2d", "\x00", "\n", "\ud7ff\u202e"],
    "none": ["None", "null"],
    "wrong length": ["0.1," * 7 + "0.1", "(0.1,)", "((0.1,0.2),(0.3,0.4))"],
}
NUM_CASES, NUM_BY_COMMAND, NUM_BY_PROCESS = 300, 60, 3


def cases(seed, count):
    """Draws (file, key, text), every kind of value and of run among them."""
    draw = random.Random(seed)
    keys = {
        file: sorted(pytrees.flatten(config_overrides.load(file).to_dict()))
        for file in PRESETS
    }
    files, kinds = list(PRESETS), list(VALUES)
    for number in range(count):
        file = files[number % len(files)]
        text = draw.choice(VALUES[kinds[number // len(files) % len(kinds)]])
        yield file, draw.choice(keys[file]), text


def outcome(file, key, text, dataset):
    """Checks a config with one value overridden, as `train` does before it compiles."""
    config = config_overrides.load(file)
    config_overrides.override(config, [f"--config.{key}={text}"])
    config = config.copy_and_resolve_references()
    checks.check_keys(config)
    if config.compute.dtype == "auto":
        config.compute.dtype = "float32"
    for name, value in (("teacher.init", "given"), ("init", "given")):
        if name in pytrees.flatten(config.to_dict()):
            is_scratch = config.model.get("mode") is None
            if name == "teacher.init" or not is_scratch:
                config.update_from_flattened_dict({name: value})
    checks.check_mesh(config.mesh.fsdp, 1)
    checks.check(config, dataset, 1, "cpu")
    model = build_model(config, dataset.image_shape, len(dataset.class_names))
    check_evals(config, model, dataset.sizes, 1)
    assert config.model.name in OBJECTIVES


@pytest.mark.parametrize("seed", [0])
def test_every_value_is_accepted_or_refused_in_one_line(seed, data_dir):
    dataset = load("digits", data_dir)
    accepted, refused, wrong = [], [], []
    for case in cases(seed, NUM_CASES):
        try:
            outcome(*case, dataset)
            accepted.append(case)
        except UserError as error:
            refused.append(case)
            if "\n" in str(error) or len(str(error)) > 2000:
                wrong.append((case, "several lines", str(error)))
        except Exception as error:
            wrong.append((case, type(error).__name__, str(error)[:200]))
    assert not wrong, "\n".join(map(str, wrong))
    # Neither all nor nothing is refused.
    assert len(accepted) > 10 and len(refused) > 100


@pytest.mark.slow
def test_the_same_through_main(data_dir, tmp_path, monkeypatch, capsys):
    # JAX runs already, so no other process can be joined.
    monkeypatch.setattr(processes, "join", lambda *args, **kwargs: None)
    dataset, workdir = load("digits", data_dir), tmp_path / "run"
    refused = 0
    for file, key, text in cases(1, NUM_CASES):
        try:
            outcome(file, key, text, dataset)
        except UserError:
            pass
        else:
            continue  # it would be trained
        if "\0" in text:
            continue  # no command line can hold it
        refused += 1
        arguments = (
            *("train", f"--config={file}", f"--config.data.dir={data_dir}"),
            *(f"--config.{key}={text}", f"--workdir={workdir}"),
        )
        if refused <= NUM_BY_PROCESS:
            done = call(*arguments)
            status, said = done.returncode, done.stderr
        else:  # the same without starting Python and loading JAX
            with monkeypatch.context() as patch:
                patch.setattr(sys, "argv", ["main.py", *arguments])
                status, said = main.main(), capsys.readouterr().err
        lines = said.strip().splitlines()
        assert status == 1 and DEFECT not in said, (key, text, lines)
        assert lines[-1].startswith("error: ") and "Traceback" not in said
        assert not (workdir / "config.json").exists()
        if refused == NUM_BY_COMMAND:
            return
    raise AssertionError(f"only {refused} cases are refused")
