"""Command line: tables of commands and flags, parsing, and generated help.

Nothing here loads JAX, so help and errors are fast.
"""

import dataclasses
import difflib
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from absl import flags

from imae_jax.errors import UserError
from imae_jax.storage.local_paths import local_path

# Exceptions of absl and ml_collections for invalid flags.
FLAG_ERRORS = (flags.Error, AttributeError, LookupError, OSError, TypeError, ValueError)
FLAG = re.compile(r"--?(?P<name>[A-Za-z][^=]*)")
CONFIG, OVERRIDE = "config", "config.KEY"
WIDTH = 92


@dataclasses.dataclass(frozen=True)
class Flag:
    """A flag of one or several commands.

    Attributes:
      name: name without dashes.
      value: placeholder of the value in help, such as "DIR".
      meaning: one or several sentences.
      kind: str, int, bool, or list for a flag that may be repeated.
      default: default value; None: no default.
      shown: description of the default, if it is not the value itself.
      check: called with the value and "--name"; raises UserError.
      is_path: False for a text that may look like an address of an object store.
    """

    name: str
    value: str
    meaning: str
    kind: type = str
    default: Any = None
    shown: str = ""
    check: Callable[[Any, str], Any] | None = None
    is_path: bool = True

    def usage(self) -> str:
        """Formats the flag as it is typed."""
        return f"--[no]{self.name}" if self.kind is bool else f"--{self.name}={self.value}"

    def is_named(self, name: str) -> bool:
        """True if a name on the command line, without dashes, is this flag's."""
        if self.name == OVERRIDE:
            return name.startswith(f"{CONFIG}.")
        return name == self.name or (self.kind is bool and name == f"no{self.name}")


@dataclasses.dataclass(frozen=True)
class Command:
    """A command of main.py.

    Attributes:
      name: first word of the command line.
      summary: one or several sentences; the first is shown in the list of commands.
      run: executes the command; its argument has an attribute for each flag.
      flags: all flags of the command.
      needs: {required flag: an example, or ""}.
    """

    name: str
    summary: str
    run: Callable[[SimpleNamespace], None]
    flags: Sequence[Flag]
    needs: Mapping[str, str] = dataclasses.field(default_factory=dict)


def best_first(word: str, names: Iterable[str]) -> list[str]:
    """Sorts the names, those spelled similarly to the word first."""
    names = list(names)
    near = difflib.get_close_matches(word, names, n=3)
    return [*near, *(name for name in names if name not in near)]


def find_command(word: str, commands: Iterable[Command]) -> Command:
    """Returns the command of this name; raises UserError if there is none."""
    by_name = {command.name: command for command in commands}
    if word in by_name:
        return by_name[word]
    near = difflib.get_close_matches(word, by_name, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    names = ", ".join(best_first(word, by_name))
    raise UserError(f"{word!r} is not a command; {hint}it comes first: {names}")


def parse(
    command: Command, arguments: Sequence[str], commands: Iterable[Command]
) -> tuple[SimpleNamespace, list[str]]:
    """Parses a command's flags.

    Returns:
      The values by name, and the remaining arguments: overrides of the config.
    Raises:
      UserError: for unknown flags, missing flags and invalid values.
    """
    _check_names(command, arguments, commands)
    others = {flag.name for flag in command.flags if not flag.is_path}
    for before, word in zip(["", *arguments], arguments, strict=False):
        typed, is_one_word, value = word.partition("=")
        name, text = (typed, value) if is_one_word else (before, word)
        if name.lstrip("-") not in others:
            local_path(text, name)
    found = flags.FlagValues()
    define: dict[type, Callable] = {
        str: flags.DEFINE_string,
        int: flags.DEFINE_integer,
        bool: flags.DEFINE_bool,
        list: flags.DEFINE_multi_string,
    }
    own = [flag for flag in command.flags if flag.name != OVERRIDE]
    for flag in own:
        define[flag.kind](flag.name, flag.default, flag.meaning, flag_values=found)
    found.set_gnu_getopt(True)
    try:
        rest = found(["main.py", *arguments], known_only=True)[1:]
    except FLAG_ERRORS as error:
        raise UserError(message(error, arguments)) from None
    values = SimpleNamespace(**{flag.name: found[flag.name].value for flag in own})
    for flag in own:
        value = getattr(values, flag.name)
        if flag.name in command.needs and not value:
            raise UserError(_need(command, flag))
        if value is not None and flag.check:
            flag.check(value, f"--{flag.name}")
    return values, rest


def _need(command: Command, flag: Flag) -> str:
    """Formats the message for a missing flag."""
    example = command.needs[flag.name]
    meaning = flag.meaning[0].lower() + flag.meaning[1:].rstrip(".")
    hint = f", such as {example}" if example else f": {meaning}"
    return f"{command.name} needs {flag.usage()}{hint}"


def _check_names(
    command: Command, arguments: Sequence[str], commands: Iterable[Command]
) -> None:
    """Raises UserError for a flag that is not the command's."""
    for word in arguments:
        match = FLAG.match(word)
        if not match or any(flag.is_named(match["name"]) for flag in command.flags):
            continue
        owners = [
            other.name
            for other in commands
            if any(flag.is_named(match["name"]) for flag in other.flags)
        ]
        if owners:
            raise UserError(
                f"--{match['name']} is for {', '.join(owners)}; not for {command.name}"
            )
        usages = {flag.name: flag.usage() for flag in command.flags}
        names = [usages[name] for name in best_first(match["name"], usages)]
        raise UserError(f"{word} is not a flag; flags: {', '.join(names)}")


def message(error: Exception, arguments: Sequence[str]) -> str:
    """Formats any of `FLAG_ERRORS` in one line."""
    text = str(error)
    # Some messages are quoted once or twice.
    text = text.replace("\\n", "\n").replace("\\", "").replace("'", "")
    lines = [line.strip(' "') for line in text.splitlines() if line.strip(' "')]
    guilty = [word for word in arguments if lines[0] in word]
    return "; ".join([*guilty[:1], *lines])


def help_of(command: Command) -> str:
    """Formats a command's summary, usage, and flags with meaning and default."""
    usages = [
        flag.usage() if flag.name in command.needs else f"[{flag.usage()}]"
        for flag in command.flags
    ]
    first = f"usage: python main.py {command.name} "
    indent = " " * len("usage: ")
    usage = textwrap.fill(
        " ".join(usages),
        WIDTH,
        initial_indent=first,
        subsequent_indent=indent,
        break_on_hyphens=False,
    )
    blocks = [textwrap.fill(command.summary, WIDTH), usage]
    for flag in command.flags:
        if flag.name in command.needs:
            default = "Required."
        elif flag.shown or flag.default is not None:
            default = f"Default: {flag.shown or flag.default}."
        else:
            default = "Default: none."
        text = textwrap.indent(
            textwrap.fill(f"{flag.meaning} {default}", WIDTH - 6), " " * 6
        )
        blocks.append(f"  {flag.usage()}\n{text}")
    return "\n\n".join(blocks[:2]) + "\n\n" + "\n".join(blocks[2:])


def help_of_all(commands: Iterable[Command]) -> str:
    """Formats a list of the commands with the first sentence of their summaries."""
    commands = list(commands)
    width = max(len(command.name) for command in commands) + 2
    lines = []
    for command in commands:
        summary = command.summary.split(". ")[0].rstrip(".")
        indent = " " * (width + 2)
        line = textwrap.fill(
            summary, WIDTH, initial_indent=indent, subsequent_indent=indent
        )
        lines.append(f"  {command.name:{width}}{line.lstrip()}")
    return "\n".join(lines)
