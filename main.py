"""imae_jax: masked autoencoders fed mixtures of two images.

    python main.py COMMAND [--config=FILE:ARG] [--workdir=DIR] [--config.a.b=VALUE ...]

    demo     teacher, i-MAE, i-MAE without distillation on digits, and a report
    data     prepares and describes the data set of --config
    train    the run that --config describes; goes on where --workdir stands
    eval     every evaluator in the config stored in --workdir
    study    the grid of runs that --config describes, as one table
    report   the HTML report of whatever --workdir holds
    export   the weights in --workdir as --format, written to --out
    import   the weights in --checkpoint, from elsewhere, as a run in --workdir
    compile  what the step of --config needs on --topology, such as v5e:2x4, or cuda

`--config.a.b=VALUE` overrides any value of the config. Several processes, one on each
machine, work as one: a TPU pod, GKE or Slurm tells them about each other; otherwise give
each --coordinator=HOST:PORT (of the first), --num_processes=N and --process_id=0 .. N-1.
"""

import difflib
import signal
import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from imae_jax import evaluation
from imae_jax.errors import Terminated, UserError
from imae_jax.storage.local_paths import local_path

COMMANDS = ("demo", "data", "train", "eval", "study", "report")
COMMANDS += ("export", "import", "compile")
# Of the commands that need a config.
EXAMPLES = {
    "data": "configs/mae.py:digits",
    "train": "configs/mae.py:digits",
    "study": "configs/studies.py:distillation,shapes",
    "compile": "configs/imae.py:imagenet",
}
# Flags of single commands.
IMPORT_FLAGS = ("checkpoint", "image_size", "num_heads", "decoder_num_heads", "norm_pix")
OF_COMMAND = {
    "compile": ("topology", "json"),
    "export": ("format", "out", "dtype", "step"),
    "import": IMPORT_FLAGS,
}
DEMO_CONFIG = Path(__file__).parent / "configs" / "demo.py"

FLAGS = flags.FLAGS
# What absl and ml_collections raise for flags they cannot use.
FLAG_ERRORS = (flags.Error, AttributeError, KeyError, OSError, TypeError, ValueError)


def parse_command(arguments: list[str]) -> str:
    """Takes the command, the first argument, out of the arguments."""
    first = arguments[0]
    if first in COMMANDS:
        return arguments.pop(0)
    near = difflib.get_close_matches(first, COMMANDS, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise UserError(
        f"{first!r} is not a command; {hint}it comes first: {', '.join(COMMANDS)}"
    )


def parse_flags(command: str, arguments: list[str]) -> None:
    """Reads --workdir and --config; `eval` starts from the config stored in the workdir."""
    for before, word in zip(["", *arguments], arguments, strict=False):
        flag, is_one_word, value = word.partition("=")
        local_path(*((value, flag) if is_one_word else (word, before)))
    default_workdir = "runs/demo" if command == "demo" else None
    flags.DEFINE_string("workdir", default_workdir, "Folder of the run.")
    flags.DEFINE_string("topology", None, "Slice of TPUs that is compiled for, or cuda.")
    flags.DEFINE_string("json", None, "File for what was found.")
    flags.DEFINE_string("format", "safetensors", "Of what export writes.")
    flags.DEFINE_string("out", None, "File, or folder, that export writes.")
    flags.DEFINE_string("dtype", "float32", "Of exported safetensors; or bfloat16.")
    flags.DEFINE_string("step", None, "Checkpoint that is exported, or best.")
    flags.DEFINE_string("checkpoint", None, "File, or folder, that import reads.")
    flags.DEFINE_string("image_size", None, "HEIGHT or HEIGHTxWIDTH of images.")
    flags.DEFINE_integer("num_heads", None, "Of the encoder that is imported.")
    flags.DEFINE_integer("decoder_num_heads", None, "Of the decoder that is imported.")
    flags.DEFINE_bool("norm_pix", None, "Whether it predicts standardised patches.")
    flags.DEFINE_string("coordinator", None, "HOST:PORT of the first of several processes.")
    flags.DEFINE_integer("num_processes", None, "How many processes there are.")
    flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.")
    flags.DEFINE_integer("wait_seconds", 60, "For a sign of the others.", lower_bound=1)
    unknown = FLAGS(["main.py", *arguments], known_only=True)[1:]
    for word in unknown:
        if word.startswith("-") and not word.lstrip("-").startswith("config"):
            raise UserError(
                f"{word} is not a flag; flags: --workdir, --config=FILE:ARG, "
                "--config.KEY=VALUE, --coordinator, --num_processes, --process_id, "
                "--wait_seconds; of single commands: "
                + ", ".join(f"--{name}" for names in OF_COMMAND.values() for name in names)
            )
    if command == "compile" and not FLAGS.topology:
        raise UserError("compile needs --topology, such as v5e:2x4, or cuda")
    for owner, names in OF_COMMAND.items():
        for name in names:
            if FLAGS[name].present and command != owner:
                raise UserError(f"--{name} is for {owner}")
    if command in ("export", "import", "report"):
        given = [x for x in arguments if x.lstrip("-").startswith("config")]
        if given:
            raise UserError(f"{given[0]}: {command} takes no config")
    for owner, name in (("export", "out"), ("import", "checkpoint")):
        if command == owner and not FLAGS[name].value:
            raise UserError(f"{owner} needs --{name}=PATH")
    if FLAGS.json:
        path = local_path(FLAGS.json, "--json").absolute()
        if path.is_dir() or not path.parent.is_dir():
            raise UserError(f"--json={FLAGS.json}: give a file in a folder that exists")
    if command == "compile" and FLAGS["workdir"].present:
        raise UserError("compile takes no --workdir: it reads and writes no run")
    if not FLAGS.workdir and command not in ("data", "compile"):
        raise UserError(f"{command} needs --workdir=DIR, the folder of the run")
    if command == "eval":
        from imae_jax.storage import workdir  # late, as in `run`

        stored = workdir.read_config(local_path(FLAGS.workdir, "--workdir"))
        config_flags.DEFINE_config_dict("config", stored)
    else:
        default = str(DEMO_CONFIG) if command == "demo" else None
        config_flags.DEFINE_config_file("config", default, lock_config=True)
    sys.argv[1:] = arguments  # where ml_collections looks for overrides
    rest = FLAGS(["main.py", *arguments])
    if FLAGS.config is not None:
        FLAGS.config.keys()  # a file that failed to load says so at its first use
    if rest[1:]:
        raise UserError(f"unexpected argument {rest[1]!r}")
    if command in EXAMPLES and FLAGS.config is None:
        raise UserError(f"{command} needs --config=FILE:ARG, such as {EXAMPLES[command]}")


def flag_message(error: Exception, arguments: list[str]) -> str:
    """One line for any of FLAG_ERRORS."""
    text = str(error)
    if "Traceback" in text:  # get_config failed: its own message comes last
        lines = text.strip().splitlines()
        return f"{lines[0].split(': Error')[0]}: {lines[-1].split(': ', 1)[-1]}"
    # Some of their messages were quoted once or twice on the way.
    text = text.replace("\\n", "\n").replace("\\", "").replace("'", "")
    lines = [line.strip(' "') for line in text.splitlines() if line.strip(' "')]
    guilty = [word for word in arguments if lines[0] in word]
    return "; ".join([*guilty[:1], *lines])


def run(command: str) -> None:
    """Carries the command out."""
    # Late: a mistyped flag is answered at once, without loading JAX.
    from imae_jax import runtime
    from imae_jax.distributed import processes

    runtime.keep_memory()
    runtime.quiet_tpu_compiler()
    if command != "compile":  # what is compiled for TPUs cannot be read back without one
        runtime.keep_compiled()
    processes.join(
        FLAGS.coordinator,
        FLAGS.num_processes,
        FLAGS.process_id,
        wait_seconds=FLAGS.wait_seconds,
    )
    with processes.ending_together():
        work(command, FLAGS.config, FLAGS.workdir)


def work(command: str, config, workdir: str) -> None:
    """What the command stands for; prints what comes of it."""
    from imae_jax.aot import plan
    from imae_jax.commands import demo, describe_data, study
    from imae_jax.interop import export_weights, import_weights
    from imae_jax.report import page
    from imae_jax.storage import atomic_files
    from imae_jax.training.loop import train

    if command == "demo":
        report = demo.demo(config, workdir)
        print(f"\n{page.read_as_text(workdir)}\nReport: {report}")
    elif command == "data":
        print(describe_data.describe(config, workdir or "runs/data"))
    elif command == "train":
        train(config, workdir)
    elif command == "study":
        folder = study.study(config, workdir)
        print(f"\n{(folder / 'table.md').read_text()}\nTable and picture: {folder}")
    elif command == "eval":
        evaluation.evaluate(config, workdir)
        print("\n" + page.read_as_text(workdir))
    elif command == "export":
        print(
            export_weights.export(workdir, FLAGS.format, FLAGS.out, FLAGS.dtype, FLAGS.step)
        )
    elif command == "import":
        options = {name: FLAGS[name].value for name in IMPORT_FLAGS[1:]}
        print(import_weights.import_file(FLAGS.checkpoint, workdir, presets(), **options))
    elif command == "compile":
        found = plan.plan(config, FLAGS.topology)
        print(plan.as_text(found))
        if FLAGS.json:
            atomic_files.write_json(local_path(FLAGS.json, "--json"), found)
    else:
        print(page.write_report(workdir))


def presets() -> dict:
    """Configs of runs that hold weights from elsewhere, which were trained on ImageNet."""
    from configs import imae, mae, transfer

    return {
        "mae": mae.get_config("imagenet"),
        "imae": imae.get_config("imagenet"),
        "encoder": transfer.get_config("imagenet,linear"),
    }


def main() -> int:
    """Returns the exit status."""
    arguments = sys.argv[1:]
    if not arguments or {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0 if arguments else 1
    try:
        command = parse_command(arguments)
        try:
            parse_flags(command, arguments)
        except UserError:  # a ValueError, whose text is final
            raise
        except FLAG_ERRORS as error:
            raise UserError(flag_message(error, arguments)) from None
        run(command)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except Terminated as end:
        print(f"terminated; {end}; the same command goes on from there", file=sys.stderr)
        return 128 + signal.SIGTERM
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last save", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
