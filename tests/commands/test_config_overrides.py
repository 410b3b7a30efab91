"""What an override hides, or is hidden by: units of durations, sizes, and None."""

import logging

import pytest

from imae_jax import optim
from imae_jax.commands.config_overrides import load, override
from imae_jax.config import checks
from imae_jax.errors import UserError
from imae_jax.models.factory import build_model
from imae_jax.models.transformer import VARIANTS
from imae_jax.storage.workdir import as_json, config_of

DIGITS, IMAGENET = "configs/mae.py:digits,runlocal", "configs/mae.py:imagenet"
SHAPES, DEMO = "configs/mae.py:shapes", "configs/demo.py"
STUDY = "configs/studies.py:distillation,shapes"
NUM_EXAMPLES = 3200  # 100 steps an epoch in batches of 32


@pytest.fixture
def log(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("imae_jax"), "propagate", True)
    caplog.set_level("INFO")
    return caplog


def overridden(file, *words):
    config = load(file)
    override(config, [f"--config.{word}" for word in words])
    return config


def size_of(config):
    """(width, depth, heads) and patch size of the encoder that is built."""
    config = config.copy_and_resolve_references()
    config.compute.dtype = "float32"
    model = build_model(config, (32, 32, 3), num_classes=4)
    return model.encoder_size, model.patch_size


@pytest.mark.parametrize(
    "words,steps,replaces",
    [
        (["total_epochs=10"], 1000, "train.total_epochs=10.0 replaces train.total_steps=4"),
        (["total_examples=64"], 2, "train.total_examples=64 replaces train.total_steps=4"),
        # The preset's unit comes later, or is given up, or is the same.
        (["total_steps=7"], 7, None),
        (["total_steps=None"], 15_000, None),
        (["total_steps=None", "total_epochs=2"], 200, None),
        (["total_epochs=None"], 4, None),
        (["total_steps=7", "total_steps=9"], 9, None),
    ],
)
def test_a_duration_given_is_that_of_the_run(words, steps, replaces, log):
    config = overridden(DIGITS, *(f"train.{word}" for word in words))
    assert optim.run_steps(config, NUM_EXAMPLES) == (steps, 0)
    assert log.messages == ([replaces] if replaces else [])
    checks.check_keys(config)


def test_a_warm_up_given_is_that_of_the_run(log):
    config = overridden(IMAGENET, "optim.warmup_fraction=0.2", "train.total_steps=100")
    assert optim.run_steps(config, 10**6) == (100, 20)
    assert log.messages == ["optim.warmup_fraction=0.2 replaces optim.warmup_epochs=40.0"]


def test_all_units_that_would_win_are_replaced(log):
    config = load(IMAGENET)
    config.optim.warmup_steps = 3
    override(config, ["--config.optim.warmup_fraction", "0.5"])
    sizes = dict(batch_size=1, num_examples=1, total_steps=100)
    assert optim.duration_steps(config.optim, "warmup", **sizes) == 50
    line = "optim.warmup_fraction=0.5 replaces optim.warmup_steps=3, "
    assert log.messages == [line + "optim.warmup_epochs=40.0"]


def test_units_that_would_not_win_stay():
    """Runs begun before with the same command hold them, and resume."""
    config = overridden(IMAGENET, "train.total_steps=7", "optim.warmup_steps=3")
    kept = config.train.total_epochs, config.optim.warmup_epochs
    assert (*kept, config.optim.warmup_fraction) == (800.0, 40.0, 0.1)


def test_a_duration_in_two_units_is_refused():
    message = (
        "--config.optim.warmup_steps=3 and --config.optim.warmup_fraction=0.2 are one "
        "duration: give it in one unit"
    )
    for words in (
        ["optim.warmup_steps=3", "optim.warmup_fraction=0.2"],
        ["optim.warmup_fraction=0.2", "optim.warmup_steps=3"],
    ):
        with pytest.raises(UserError) as error:
            overridden(IMAGENET, *words)
        assert str(error.value) == message
    # Those of two durations, or two runs, are no contradiction.
    overridden(IMAGENET, "train.total_epochs=2", "optim.warmup_steps=3")
    words = "imae.train.total_epochs=2", "teacher.train.total_steps=3"
    config = overridden(DEMO, *words)
    assert config.imae.train.total_epochs == 2 and config.teacher.train.total_steps == 3


def test_other_keys_that_end_in_a_unit_are_left_alone(log):
    """Of some, both count."""
    found = dict(every_steps=3, every_epochs=1.0, warmup_steps=2, warmup_epochs=4.0)
    config = config_of({"evals": {"probes": found}}).lock()
    words = "every_epochs=2", "warmup_epochs=5"
    override(config, [f"--config.evals.probes.{word}" for word in words])
    given = dict(every_epochs=2.0, warmup_epochs=5.0)
    assert config.evals.probes.to_dict() == found | given and log.messages == []


def test_a_stored_duration(log):
    config = config_of(as_json(load(DIGITS))).lock()
    override(config, ["--config.train.total_epochs=10"])
    assert optim.run_steps(config, NUM_EXAMPLES) == (1000, 0)
    assert len(log.messages) == 1
    assert as_json(config)["train"]["total_steps"] is None
    config.train.total_steps = 5  # as an arm of a study may
    assert optim.run_steps(config, NUM_EXAMPLES) == (5, 0)


def test_what_was_replaced_keeps_its_type():
    config = overridden(SHAPES, "model.variant=S/8")
    with pytest.raises(UserError, match="invalid literal for int"):
        override(config, ["--config.model.encoder.width=many"])


OF_OWN_SIZE = [SHAPES, "configs/imae.py:digits", "configs/mae.py:cifar10_small"]
OF_OWN_SIZE += ["configs/transfer.py:folder_small,finetune"]


@pytest.mark.parametrize("file", OF_OWN_SIZE)
def test_a_variant_given_is_the_size_of_the_encoder(file, log):
    config = overridden(file, "model.variant=S/8")
    assert size_of(config) == (VARIANTS["S"], 8)
    (line,) = log.messages
    assert line.startswith("model.variant=S/8 replaces model.encoder.depth=")
    for part in ("depth", "heads", "width"):
        assert f"model.encoder.{part}={load(file).model.encoder[part]}" in line
    checks.check_keys(config)


def test_another_patch_size_leaves_the_encoder(log):
    config = overridden(SHAPES, "model.variant=mu/4")
    assert size_of(config) == ((64, 4, 4), 4) and log.messages == []


def test_a_size_given_with_a_variant_stays(log):
    config = overridden(SHAPES, "model.variant=S/8", "model.encoder.depth=2")
    assert size_of(config) == ((64, 2, 4), 8) and log.messages == []


def test_a_variant_in_place_of_another(log):
    config = overridden("configs/mae.py:tiny_imagenet", "model.variant=B/16")
    assert size_of(config) == (VARIANTS["B"], 16) and log.messages == []


@pytest.mark.parametrize("file,runs", [(DEMO, ""), (STUDY, "runs.")])
def test_one_run_of_several(file, runs, log):
    words = "imae.model.variant=S/8", "imae.optim.warmup_fraction=0.5"
    words += "imae.train.total_steps=8", "teacher.model.encoder.depth=2"
    config = load(file)
    several = config.runs if runs else config
    several.imae.optim.warmup_epochs = several.teacher.optim.warmup_epochs = 1.0
    override(config, [f"--config.{runs}{word}" for word in words])
    assert size_of(several.imae) == (VARIANTS["S"], 8)
    assert size_of(several.teacher) == ((64, 2, 4), 8)
    assert optim.run_steps(several.imae, NUM_EXAMPLES) == (8, 4)
    assert optim.run_steps(several.teacher, NUM_EXAMPLES)[1] == NUM_EXAMPLES // 64
    prefix = f"{runs}imae"
    first, second = log.messages
    assert first == (
        f"{prefix}.optim.warmup_fraction=0.5 replaces {prefix}.optim.warmup_epochs=1.0"
    )
    assert second.startswith(f"{prefix}.model.variant=S/8 replaces {prefix}.model.encoder.")


@pytest.mark.parametrize("form", ["{}=None", "{} None"])
@pytest.mark.parametrize("file", [SHAPES, "stored"])
def test_none_unsets(file, form):
    config = load(SHAPES)
    config.optim.clip_norm = 1.0
    if file == "stored":
        config = config_of(as_json(config)).lock()
    words = []
    for key in ("optim.clip_norm", "data.evaluate_on.train", "train.total_epochs"):
        words += form.format(f"--config.{key}").split()
    override(config, words)
    assert config.optim.clip_norm is None and config.data.evaluate_on.train is None
    assert config.train.total_epochs is None
    assert as_json(config)["optim"]["clip_norm"] is None
    checks.check_keys(config)
    # They keep their types.
    override(config, ["--config.optim.clip_norm=2"])
    assert config.optim.clip_norm == 2.0
    with pytest.raises(UserError, match="could not convert string to float: many"):
        override(config, ["--config.optim.clip_norm=many"])


@pytest.mark.parametrize("key", ["seed", "optim.blr", "loss.norm_pix"])
def test_none_is_refused_by_the_rules_of_keys_that_need_a_value(key):
    config = overridden(SHAPES, f"{key}=None")
    with pytest.raises(UserError, match=f"invalid {key}=None: must be"):
        checks.check_keys(config)


def test_the_last_of_a_keys_values_counts():
    words = ["optim.clip_norm=None", "optim.clip_norm=2", "optim.weight_decay=0.1"]
    config = overridden(SHAPES, *words, "optim.weight_decay=None", "seed=None", "seed=4")
    assert config.optim.clip_norm == 2.0 and config.optim.weight_decay is None
    assert config.seed == 4


def test_none_is_a_text_like_others():
    config = load(SHAPES)
    override(config, ["--config.data.name=None", "--config.init", "None"])
    assert (config.data.name, config.init) == ("None", "None")


@pytest.mark.parametrize("file", [DIGITS, IMAGENET, DEMO, STUDY])
def test_nothing_given_changes_nothing(file, log):
    config = overridden(file)
    assert as_json(config) == as_json(load(file)) and log.messages == []
    assert config.is_locked and config.is_type_safe


def test_values_that_refer_to_others_still_do():
    file, size = "configs/mae.py:folder_small", "data.files.image_size"
    config = overridden(file, f"{size}=64x96", "model.variant=Ti/8", "train.total_steps=3")
    assert config.data.files.image_size == "64x96"
    reference = config.data.files.get_ref("image_size")
    override(config, [f"--config.{size}=48", "--config.optim.clip_norm=None"])
    assert reference.get() == config.data.files.image_size == 48
    config = overridden(STUDY, "data_dir=x", "runs.imae.model.variant=S/8")
    assert {run.data.dir for run in config.runs.values()} == {"x"}
