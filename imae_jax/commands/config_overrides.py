"""Loads a config file and applies overrides from the command line."""

import difflib
import functools
import logging
import operator
import runpy
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict, FrozenConfigDict, config_flags
from ml_collections.config_dict import placeholder

from imae_jax.commands.command_line import CONFIG, FLAG, FLAG_ERRORS, best_first, message
from imae_jax.errors import UserError, one_line

logger = logging.getLogger(__name__)

# Keys of durations but for their unit, and the units in the order of
# `optim.duration_steps`, which takes the first that is set.
DURATIONS = (".train.total", ".optim.warmup")
UNITS = ("steps", "examples", "epochs", "fraction")

# Parsers of values that None unsets, and their types. Of a text, None is a text.
UNSETTABLE: dict[type, type] = {
    flags.IntegerParser: int,
    flags.FloatParser: float,
    flags.BooleanParser: bool,
}


def load(file: str) -> ConfigDict:
    """Loads the config of FILE or FILE:ARG.

    Raises:
      UserError: if there is no such file, if it is no program with a `get_config` that
        returns a config, or if that takes no such argument.
    """
    path, *argument = file.split(":", 1)
    # The file is a program of the user's: whatever it raises is theirs to read.
    try:
        made = runpy.run_path(path)
        if "get_config" not in made:
            raise ValueError("it has no function get_config")
        config = made["get_config"](*argument)
    except (Exception, SystemExit) as error:
        said = one_line(error)
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise UserError(f"--{CONFIG}={file}: {kind}{said}") from None
    if not isinstance(config, ConfigDict) or isinstance(config, FrozenConfigDict):
        kind = type(config).__name__
        raise UserError(f"--{CONFIG}={file}: get_config returns no ConfigDict, but {kind}")
    try:
        config.to_json(sort_keys=True)
    except TypeError as error:  # a value or a key of a type that JSON lacks
        raise UserError(f"--{CONFIG}={file}: {one_line(error)}") from None
    return config.lock()


def override(
    config: ConfigDict,
    arguments: Sequence[str],
    presets: Callable[[], Mapping[str, ConfigDict]] = dict,
) -> None:
    """Sets the values of `--config.KEY=VALUE` and `--config.KEY VALUE`.

    They also unset what would hide them: units that come before a duration's, and the
    width, depth and heads that the config has in place of those of a variant.

    Args:
      config: changed in place.
      arguments: words of the command line.
      presets: returns other configs by file, which messages name if they have a key.
    Raises:
      UserError: for unknown keys, values of another type, stray arguments, and durations
        in two units.
    """
    for word in arguments:
        if match := FLAG.match(word):
            _check_key(config, match["name"].removeprefix(f"{CONFIG}."), word, presets)
    values = flags.FlagValues()
    values.set_gnu_getopt(True)
    try:
        config_flags.DEFINE_config_dict(
            CONFIG, config, flag_values=values, sys_argv=list(arguments)
        )
        for name in values:
            if kind := UNSETTABLE.get(type(values[name].parser)):
                values[name].parser = _OrNone(kind, values[name].parser)
        rest = values(["main.py", *arguments])[1:]
    except IndexError as error:  # an index into something that has none
        raise UserError(f"{CONFIG}: {error}") from None
    except FLAG_ERRORS as error:
        raise UserError(message(error, arguments)) from None
    if rest:
        raise UserError(f"unexpected argument {rest[0]!r}")
    keys = config_flags.get_override_values(values[CONFIG])
    _settle_durations(config, keys)
    _settle_sizes(config, {key: values[f"{CONFIG}.{key}"].default for key in keys})


class _OrNone(flags.ArgumentParser):
    """Reads None as an unset value of a type, and the rest as another parser does."""

    def __init__(self, kind: type, parser: flags.ArgumentParser) -> None:
        self.kind, self.parser = kind, parser

    def parse(self, argument: str) -> Any:
        return placeholder(self.kind) if argument == "None" else self.parser.parse(argument)


def _settle_durations(config: ConfigDict, given: Collection[str]) -> None:
    """Unsets the units that would win over the one that a duration is given in.

    Those that come after it stay. They have no effect, and without them a run that was
    begun with the same command, but before they were unset, would not resume.

    Args:
      config: changed in place.
      given: the keys that were overridden.
    Raises:
      UserError: for a duration that is given in two units.
    """
    for key in given:
        duration, _, unit = key.rpartition("_")
        is_duration = f".{duration}".endswith(DURATIONS) and unit in UNITS
        if not is_duration or _value(config, key) is None:
            continue
        winners = [f"{duration}_{other}" for other in UNITS[: UNITS.index(unit)]]
        for other in winners:
            if other in given and (value := _value(config, other)) is not None:
                raise UserError(
                    f"--{CONFIG}.{other}={value} and "
                    f"--{CONFIG}.{key}={_value(config, key)} are one duration: give it in "
                    "one unit"
                )
        _replace(config, key, winners)


def _settle_sizes(config: ConfigDict, before: Mapping[str, Any]) -> None:
    """Unsets an encoder's own size where the name of another one was given.

    Another patch size alone leaves it: its variant has the same name.

    Args:
      config: changed in place.
      before: the keys that were overridden, with the values that they had.
    """
    for key in before:
        if not f".{key}".endswith(".model.variant"):
            continue
        encoder = f"{key.removesuffix('variant')}encoder"
        names = [text.partition("/")[0] for text in (before[key], _value(config, key))]
        is_given = any(other.startswith(encoder) for other in before)
        if names[0] != names[1] and not is_given and _has(config, encoder):
            _replace(config, key, [f"{encoder}.{part}" for part in _value(config, encoder)])


def _replace(config: ConfigDict, key: str, others: Iterable[str]) -> None:
    """Unsets the other keys, as far as they are there, and logs the values they had."""
    replaced = []
    for other in others:
        path, _, name = other.rpartition(".")
        section = _value(config, path)
        if section.get(name) is not None:
            replaced.append(f"{other}={section[name]}")
            # With its type, so that it can be set again.
            section[name] = placeholder(section.get_type(name))
    if replaced:
        logger.info(f"{key}={_value(config, key)} replaces {', '.join(replaced)}")


def _value(config: ConfigDict, key: str) -> Any:
    """Returns the value of the dotted key."""
    return functools.reduce(operator.getitem, key.split("."), config)


def _check_key(
    config: ConfigDict,
    key: str,
    word: str,
    presets: Callable[[], Mapping[str, ConfigDict]],
) -> None:
    """Raises UserError naming the sibling keys if the config does not have the key.

    If it has, the value there can be overridden afterwards.
    """
    section, path = config, ""
    for name in key.split("."):
        if not isinstance(section, ConfigDict):
            raise UserError(f"{word}: {path} is a value, not a section with keys")
        plain = name.split("[")[0]  # without the index of a sequence element
        if plain not in section:
            where = path or "the config"
            names = best_first(plain, section)
            near = difflib.get_close_matches(plain, names, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            if files := [f for f, other in presets().items() if _has(other, key)]:
                hint = f"{key} is a key of {' and '.join(files)}; "
            raise UserError(
                f"{word}: {where} has no key {plain!r}; {hint}its keys: {', '.join(names)}"
            )
        if section[plain] is None and section.get_type(plain) is type(None):
            # A stored config does not know which type an unset value may have.
            with section.ignore_type():
                section[plain] = placeholder(object)
        section, path = section[plain], f"{path}.{name}".lstrip(".")
        if plain != name and isinstance(section, ConfigDict):
            raise UserError(f"{word}: {plain} is a section, which has no index")
        if plain != name and not isinstance(section, list):
            values = section if isinstance(section, tuple) else [section]
            whole = f"--{CONFIG}.{path.split('[')[0]}={','.join(map(str, values))}"
            raise UserError(f"{word}: give the whole value, as in {whole}")


def _has(config: ConfigDict, key: str) -> bool:
    """True if the config has the dotted key."""
    for name in key.split("."):
        if not isinstance(config, ConfigDict) or name not in config:
            return False
        config = config[name]
    return True
