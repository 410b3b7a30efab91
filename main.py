"""imae_jax: masked autoencoders fed mixtures of two images.

    python main.py COMMAND [--config=FILE:ARG] [--workdir=DIR] [--config.a.b=VALUE ...]

    demo     teacher, i-MAE, i-MAE without distillation on digits, and a report
    train    the run that --config describes; goes on where --workdir stands
    eval     every evaluator in the config stored in --workdir
    report   the HTML report of whatever --workdir holds

`--config.a.b=VALUE` overrides any value of the config.
"""

import difflib
import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from imae_jax.errors import UserError

COMMANDS = ("demo", "train", "eval", "report")
DEMO_CONFIG = Path(__file__).parent / "configs" / "demo.py"

FLAGS = flags.FLAGS


def parse_command(arguments: list[str]) -> str:
    """Takes the command out of the arguments."""
    for command in COMMANDS:
        if command in arguments:
            arguments.remove(command)
            return command
    words = [word for word in arguments if not word.startswith("-")]
    near = difflib.get_close_matches(words[0] if words else "", COMMANDS, n=1)
    raise UserError(
        f"{words[0]!r} is not a command; "
        if words
        else "no command is given; "
        f"{f'did you mean {near[0]!r}? ' if near else ''}commands: {', '.join(COMMANDS)}"
    )


def parse_flags(command: str, arguments: list[str]) -> None:
    """Reads --workdir and --config; `eval` starts from the config stored in the workdir."""
    from imae_jax import runs

    default_workdir = "runs/demo" if command == "demo" else None
    flags.DEFINE_string("workdir", default_workdir, "Folder of the run.")
    FLAGS(["main.py", *arguments], known_only=True)
    workdir = FLAGS.workdir
    if not workdir:
        raise UserError(f"{command} needs --workdir=DIR, the folder of the run")
    if command == "eval":
        stored = runs.read_config(Path(workdir).expanduser())
        config_flags.DEFINE_config_dict("config", stored)
    else:
        default = str(DEMO_CONFIG) if command == "demo" else None
        config_flags.DEFINE_config_file("config", default, lock_config=True)
    # ml_collections looks for overrides of a config in sys.argv.
    sys.argv[1:] = arguments
    try:
        rest = FLAGS(["main.py", *arguments])
        config = FLAGS.config
    except (flags.Error, AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        raise UserError(flag_message(error, arguments)) from None
    if rest[1:]:
        raise UserError(f"unexpected argument {rest[1]!r}")
    if command == "train" and config is None:
        raise UserError("train needs --config=FILE:ARG, such as configs/mae.py:digits")


def flag_message(error: Exception, arguments: list[str]) -> str:
    """One line for what absl and ml_collections raise."""
    text = error.args[0] if isinstance(error, KeyError) else str(error)
    lines = [line.strip() for line in str(text).splitlines() if line.strip()]
    if "Traceback" in text:  # get_config failed: its own message comes last
        return f"{lines[0].split(': Error')[0]}: {lines[-1].split(': ', 1)[-1]}"
    line = "; ".join(lines).replace("'", "").replace('\\"', '"')
    guilty = [word for word in arguments if lines and lines[0].strip("'\"") in word]
    return f"{guilty[0]}: {line}" if guilty else line


def run(command: str) -> None:
    """Carries the command out."""
    from imae_jax import demo, train
    from imae_jax.report import html, summary

    config, workdir = FLAGS.config, FLAGS.workdir
    if command == "demo":
        results, report = demo.demo(config, workdir)
        print(f"\n{summary.as_text(results)}\nReport: {report}")
    elif command == "train":
        train.train(config, workdir)
    elif command == "eval":
        print(summary.as_text(train.evaluate(config, workdir)))
    else:
        print(html.write_report(workdir))


def main() -> int:
    """Returns the exit status."""
    arguments = sys.argv[1:]
    if not arguments or {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0 if arguments else 1
    try:
        command = parse_command(arguments)
        parse_flags(command, arguments)
        run(command)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last save", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
