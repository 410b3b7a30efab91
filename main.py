"""imae_jax: masked autoencoders fed mixtures of two images.

    python main.py COMMAND [--config=FILE:ARG] [--workdir=DIR] [--config.a.b=VALUE ...]
    python main.py COMMAND --help
    python main.py --version

{commands}

`--config.a.b=VALUE` overrides any value of the config; `config` lists all there are.
Several processes, one on each machine, work as one: a TPU pod, GKE or Slurm tells them
about each other; otherwise give each --coordinator=HOST:PORT (of the first),
--num_processes=N and --process_id=0 .. N-1.
"""

import logging
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from ml_collections import ConfigDict

import imae_jax
from imae_jax import runtime
from imae_jax.commands import actions, command_line, config_overrides, failures
from imae_jax.commands.command_flags import (
    COMPILE,
    EXPORT,
    FILE,
    IMPORT,
    PROCESSES,
    PROFILE,
    SEPARABILITY,
    VALUE,
    WORKDIR,
)
from imae_jax.commands.command_line import CONFIG, OVERRIDE, Command
from imae_jax.errors import Terminated, UserError

HELP = {"-h", "--help"}
DEMO_CONFIG = Path(__file__).parent / "configs" / "demo.py"


def presets() -> dict[str, ConfigDict]:
    """Makes the ImageNet preset of each kind of run, by config file."""
    from configs import imae, mae, transfer

    return {
        "configs/mae.py": mae.get_config("imagenet"),
        "configs/imae.py": imae.get_config("imagenet"),
        "configs/transfer.py": transfer.get_config("imagenet,linear"),
    }


def import_weights(given: SimpleNamespace) -> None:
    """Imports weights trained on ImageNet, as runs of these presets."""
    from configs import transfer

    kinds = dict(zip(("mae", "imae", "encoder"), presets().values(), strict=True))
    kinds["classifier"] = transfer.get_config("imagenet,finetune")
    actions.import_weights(given, kinds)


def separability(given: SimpleNamespace) -> None:
    """Measures encoders on the data of a preset of these."""
    from configs import mae

    actions.separability(given, mae.get_config)


MAE_CONFIG = "configs/mae.py:digits"

COMMANDS = (
    Command(
        "demo",
        "Trains a teacher, i-MAE and i-MAE without distillation on drawn scenes, and "
        "reports. Minutes on two CPU cores; killed and called again, it resumes.",
        actions.demo,
        (
            replace(WORKDIR, default="runs/demo", meaning="Folder of its runs."),
            replace(FILE, default=str(DEMO_CONFIG), shown="configs/demo.py"),
            VALUE,
            *PROCESSES,
        ),
    ),
    Command(
        "data",
        "Prepares and describes the data set of --config. Looks at every image, and writes "
        "data.json and a contact sheet.",
        actions.describe_data,
        (
            FILE,
            VALUE,
            replace(WORKDIR, default="runs/data", meaning="Folder of the description."),
            *PROCESSES,
        ),
        {CONFIG: MAE_CONFIG},
    ),
    Command(
        "train",
        "Trains the run that --config describes. Resumes a run that --workdir holds.",
        actions.train,
        (FILE, VALUE, WORKDIR, PROFILE, *PROCESSES),
        {"workdir": "", CONFIG: MAE_CONFIG},
    ),
    Command(
        "eval",
        "Runs every evaluator in the config stored in --workdir. Writes eval.json, "
        "eval_settings.json and figures.",
        actions.evaluate,
        (WORKDIR, replace(VALUE, shown="what the stored config has"), *PROCESSES),
        {"workdir": ""},
    ),
    Command(
        "study",
        "Trains and scores the grid of runs that --config describes, and writes one table. "
        "Killed and called again, it resumes.",
        actions.study,
        (
            FILE,
            VALUE,
            replace(WORKDIR, meaning="Folder of this and other studies."),
            *PROCESSES,
        ),
        {"workdir": "", CONFIG: "configs/studies.py:distillation,shapes"},
    ),
    Command(
        "report",
        "Writes the HTML report of whatever --workdir holds.",
        actions.report,
        (replace(WORKDIR, meaning="Folder of a run, or of several."), *PROCESSES),
        {"workdir": ""},
    ),
    Command(
        "export",
        "Writes the weights in --workdir as a file, or folder, that other tools open.",
        actions.export_weights,
        (WORKDIR, *EXPORT, *PROCESSES),
        {"workdir": "", "out": ""},
    ),
    Command(
        "import",
        "Makes a run in --workdir of weights from elsewhere. They may then be a teacher, a "
        "start, or what imae_jax.load opens.",
        import_weights,
        (WORKDIR, *IMPORT, *PROCESSES),
        {"workdir": "", "checkpoint": ""},
    ),
    Command(
        "separability",
        "Measures whether encoders of any library separate mixtures of two images. Prints "
        "a table of each encoder and its controls; with --out, writes it, a chart and all "
        "numbers.",
        separability,
        (*SEPARABILITY, *PROCESSES),
        {"encoder": "timm:vit_small_patch16_224", "data": "cifar10"},
    ),
    Command(
        "compile",
        "Compiles the training step of --config for --topology, and says what it needs. "
        "Memory, FLOPs and traffic; no data and no TPU has to be there.",
        actions.plan_step,
        (FILE, VALUE, *COMPILE, *PROCESSES),
        {"topology": "v5e:2x4, or cuda", CONFIG: "configs/imae.py:imagenet"},
    ),
    Command(
        "config",
        "Prints every key of --config with its value, its meaning and its source.",
        actions.explain_config,
        (FILE, VALUE),
        {CONFIG: "configs/imae.py:cifar10"},
    ),
)


def read(command: Command, arguments: list[str]) -> SimpleNamespace:
    """Returns the flags of a command, with `config` loaded from its file."""
    given, rest = command_line.parse(command, arguments, COMMANDS)
    names = {flag.name for flag in command.flags}
    if CONFIG in names:
        given.config_file = given.config
        given.config = config_overrides.load(given.config_file)
    elif OVERRIDE in names:
        from imae_jax.storage import workdir  # imported late, as in `run`

        given.config = workdir.read_config(given.workdir)
    if OVERRIDE in names:
        config_overrides.override(given.config, rest, presets)
    elif rest:
        raise UserError(f"unexpected argument {rest[0]!r}")
    return given


def run(command: Command, given: SimpleNamespace) -> None:
    """Runs a command, possibly as one of several processes."""
    # Late: help and errors appear at once, without loading JAX.
    runtime.check_environment()
    from imae_jax.distributed import processes

    runtime.tune_malloc()
    runtime.quiet_tpu_compiler()
    # Compiled TPU programs cannot be loaded without a TPU.
    if command.name != "compile":
        runtime.enable_compilation_cache()
    processes.join(
        given.coordinator,
        given.num_processes,
        given.process_id,
        wait_seconds=given.wait_seconds,
    )
    runtime.check_devices()
    if not processes.is_first():
        runtime.show_log(logging.WARNING)
    with processes.abort_all_on_error(lambda error: failures.explain(error, sys.argv)):
        command.run(given)


def answer(arguments: list[str]) -> int:
    """Runs a command line; returns the exit status."""
    if not arguments or arguments[0] in HELP:
        print(__doc__.format(commands=command_line.help_of_all(COMMANDS)).strip())
        return 0 if arguments else 1
    if arguments[0] == "--version":
        print(f"imae_jax {imae_jax.__version__}")
        return 0
    command = command_line.find_command(arguments[0], COMMANDS)
    if HELP & set(arguments):
        print(command_line.help_of(command))
        return 0
    runtime.show_log()
    runtime.quiet_threads()
    given = read(command, arguments[1:])
    if command.name == "config":
        command.run(given)
    else:
        run(command, given)
    return 0


def terminate(*_: object) -> None:
    """Ends a command on SIGTERM, but for a training, which first saves its state."""
    raise Terminated


def main() -> int:
    """Runs the command line, and turns errors into messages; returns the exit status."""
    runtime.print_any_text()
    try:
        return answer(sys.argv[1:])
    except BrokenPipeError:  # whoever read the output, such as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except Exception as error:
        print(f"error: {failures.explain(error, sys.argv)}", file=sys.stderr)
        return 1
    except Terminated as end:
        said = "; ".join(("terminated", *end.args, "rerun the same command to resume"))
        print(said, file=sys.stderr)
        return 128 + signal.SIGTERM
    except KeyboardInterrupt:
        print("interrupted; rerun the same command to resume", file=sys.stderr)
        return 130


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, terminate)
    os.environ["MPLBACKEND"] = "agg"  # files are drawn, whatever a notebook has left there
    sys.exit(main())
