"""The table of commands: help, flags, and what is said of those that are mistyped."""

import subprocess
import sys
from pathlib import Path

import pytest

import imae_jax
import main
from imae_jax.commands import command_line
from imae_jax.commands.config_overrides import override
from imae_jax.errors import UserError
from imae_jax.interop import export_weights, native_format
from imae_jax.storage import workdir

ROOT = Path(__file__).parents[2]
COMMANDS = {command.name: command for command in main.COMMANDS}
FLAGS = {
    (flag.name, command.name): flag for command in main.COMMANDS for flag in command.flags
}
VALUES = {str: "x", int: "3", list: "x"}
CHECKED = {"profile": "2:3"}  # of flags that do not take just any text
CONFIG = "configs/mae.py:digits,runlocal"
CONFIGS = {name: CONFIG for name in ("data", "train", "compile", "config")}
CONFIGS |= {
    "demo": "configs/demo.py:digits,runlocal",
    "study": "configs/studies.py:branches,digits,runlocal",
}
OVERRIDES = {"demo": "teacher.seed", "study": "runs.teacher.seed"}


def answered(arguments, capsys):
    """(exit status, lines printed, lines of errors) of a command line, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["main.py", *arguments])
        status = main.main()
    printed = capsys.readouterr()
    return status, printed.out, printed.err.splitlines()


def typed(flag, command):
    """A flag of a command as a user types it."""
    if flag.name == "config.KEY":
        return f"--config.{OVERRIDES.get(command, 'seed')}=3"
    if flag.name == "config":
        return f"--config={CONFIGS[command]}"
    value = CHECKED.get(flag.name, VALUES.get(flag.kind))
    return f"--no{flag.name}" if flag.kind is bool else f"--{flag.name}={value}"


def needed(command, *others):
    """The flags that a command needs, but for the others."""
    return [
        typed(flag, command.name)
        for flag in command.flags
        if flag.name in command.needs and flag.name not in others
    ]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_names_every_flag_with_its_meaning_and_default(name, capsys):
    status, text, _ = answered([name, "--help"], capsys)
    assert status == 0
    text = " ".join(text.split())
    command = COMMANDS[name]
    assert text.startswith(command.summary)
    assert f"usage: python main.py {name} " in text
    for flag in command.flags:
        assert flag.meaning.endswith(".") and len(flag.meaning.split()) >= 3
        default = flag.shown or flag.default
        assert (flag.name in command.needs) != bool(default), flag.name
        shown = f"Default: {default}." if default else "Required."
        assert f" {flag.usage()} {flag.meaning} {shown}" in text


def test_the_flags_of_export(capsys):
    text = answered(["export", "-h"], capsys)[1]
    for name in ("workdir", "format", "out", "dtype", "step"):
        assert f"\n  --{name}=" in text
    for name in (*export_weights.FORMATS, *native_format.DTYPES):
        assert name in text


def test_help_lists_the_commands(capsys):
    status, text, _ = answered(["--help"], capsys)
    assert status == 0
    text = " ".join(text.split())
    for command in main.COMMANDS:
        assert f" {command.name} {command.summary.split('. ')[0].rstrip('.')} " in text
    assert answered([], capsys)[0] == 1


@pytest.mark.parametrize("name,command", FLAGS)
def test_every_flag_is_accepted_by_its_command(name, command, monkeypatch, tmp_path):
    flag, command = FLAGS[name, command], COMMANDS[command]
    stored = main.config_overrides.load(CONFIG)
    monkeypatch.setattr("imae_jax.storage.workdir.read_config", lambda workdir: stored)
    given = main.read(command, [*needed(command, name), typed(flag, command.name)])
    if name == "config":
        assert given.config_file == CONFIGS[command.name]
    elif name == "config.KEY":
        key = OVERRIDES.get(command.name, "seed")
        assert given.config.to_dict()  # resolves references
        for part in key.split("."):
            given.config = given.config[part]
        assert given.config == 3
    else:
        wanted = {str: "x", int: 3, bool: False, list: ["x"]}[flag.kind]
        assert getattr(given, name) == CHECKED.get(name, wanted)


@pytest.mark.parametrize("name", sorted({name for name, _ in FLAGS}))
def test_every_flag_is_refused_by_other_commands_which_say_whose_it_is(name, capsys):
    owners = [command for flag, command in FLAGS if flag == name]
    for other in set(COMMANDS) - set(owners):
        word = typed(FLAGS[name, owners[0]], owners[0])
        arguments = [other, *needed(COMMANDS[other]), word]
        status, _, (line,) = answered(arguments, capsys)
        assert status == 1
        key = word.partition("=")[0]
        assert line == f"error: {key} is for {', '.join(owners)}; not for {other}"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_needed_flag_is_asked_for(name, capsys):
    command = COMMANDS[name]
    for missing in command.needs:
        status, _, (line,) = answered([name, *needed(command, missing)], capsys)
        assert status == 1 and line.startswith(f"error: {name} needs --{missing}=")


@pytest.mark.parametrize("name", COMMANDS)
def test_an_unknown_flag_names_those_of_the_command_the_nearest_first(name, capsys):
    command = COMMANDS[name]
    status, _, (line,) = answered([name, "--confg=x"], capsys)
    assert status == 1
    assert line.startswith("error: --confg=x is not a flag; flags: ")
    listed = line.partition("flags: ")[2].split(", ")
    assert sorted(listed) == sorted(flag.usage() for flag in command.flags)
    if "config" in [flag.name for flag in command.flags]:
        assert listed[0] == "--config=FILE:ARG"


@pytest.mark.parametrize("word", ["--flagfile=x", "--undefok=x", "--verbosity=1", "-v"])
def test_flags_of_libraries_are_no_flags_of_commands(word, capsys):
    assert "is not a flag" in answered(["report", "--workdir=x", word], capsys)[2][0]


def test_an_unknown_command_lists_all_the_nearest_first(capsys):
    status, _, (line,) = answered(["exprot", "--workdir=x"], capsys)
    assert status == 1 and "did you mean 'export'?" in line
    listed = line.partition("it comes first: ")[2].split(", ")
    assert listed[0] == "export" and sorted(listed) == sorted(COMMANDS)


@pytest.mark.parametrize(
    "words,message",
    [
        (
            ["--config.train.batchsize=8"],
            "--config.train.batchsize=8: train has no key 'batchsize'; did you mean "
            "'batch_size'? its keys: batch_size, accumulate, steps_per_dispatch, ",
        ),
        (
            ["--config.evals.probes.lars.blr", "8"],
            "--config.evals.probes.lars.blr: evals.probes.lars has no key 'blr'; did you "
            "mean 'blrs'? its keys: blrs, batch_size, epochs, warmup_epochs",
        ),
        (
            ["--config.xyz=8"],
            "the config has no key 'xyz'; its keys: augment, checkpoint, ",
        ),
        (["--config.seed.x=8"], "--config.seed.x=8: seed is a value, not a section"),
        (["--config.seed=many"], "--config.seed=many"),
        (["--config.seed=1", "again"], "unexpected argument 'again'"),
    ],
)
def test_overrides_that_cannot_be_used(words, message, capsys):
    arguments = ["train", f"--config={CONFIG}", "--workdir=x", *words]
    status, _, (line,) = answered(arguments, capsys)
    assert status == 1 and message in line


def test_an_unset_value_of_a_stored_config_can_be_set():
    """It has no type there."""
    for text, value in (("64", 64), ("None", None), ("many", "many")):
        config = workdir.config_of({"data": {"evaluate_on": {"train": None}}}).lock()
        override(config, [f"--config.data.evaluate_on.train={text}"])
        assert config.data.evaluate_on.train == value
        assert workdir.as_json(config) == {"data": {"evaluate_on": {"train": value}}}


def test_overrides_in_every_form():
    words = ["--config.loss.norm_pix", "--config.mask.ratio", "0.5"]
    words += ["--config.augment.crop_scale=(0.2, 1.0)", "-config.optim.clip_norm=1"]
    words += ["--config.data.name", "shapes", "--config.data.prefetch=3"]
    command = COMMANDS["train"]
    config = main.read(command, [*needed(command), *words]).config
    assert config.loss.norm_pix is True and config.mask.ratio == 0.5
    assert config.augment.crop_scale == (0.2, 1.0) and config.optim.clip_norm == 1.0
    assert (config.data.name, config.data.prefetch) == ("shapes", 3)


def test_numbers_below_one_are_refused():
    command = COMMANDS["report"]
    with pytest.raises(UserError, match="invalid --wait_seconds=0: must be at"):
        main.read(command, ["--workdir=x", "--wait_seconds=0"])


def test_best_first():
    names = ("accumulate", "batch_size", "total_steps")
    assert command_line.best_first("bath_size", names)[0] == "batch_size"
    assert command_line.best_first("q", names) == list(names)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        *([name, "--help"] for name in COMMANDS),
        ["trian"],
        ["train", "--wrkdir=x"],
        ["train", "--workdir=x", f"--config={CONFIG}", "--config.sed=1"],
        ["config", f"--config={CONFIG}"],
    ],
)
def test_answers_come_without_jax(arguments):
    program = "import sys, main; status = main.main(); assert 'jax' not in sys.modules\n"
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    if arguments == ["--version"]:
        assert done.stdout == f"imae_jax {imae_jax.__version__}\n"
