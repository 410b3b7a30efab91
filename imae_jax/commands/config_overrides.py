"""Loads a config file and applies overrides from the command line."""

import difflib
import runpy
from collections.abc import Callable, Mapping, Sequence

from absl import flags
from ml_collections import ConfigDict, FrozenConfigDict, config_flags
from ml_collections.config_dict import placeholder

from imae_jax.commands.command_line import CONFIG, FLAG, FLAG_ERRORS, best_first, message
from imae_jax.errors import UserError, one_line


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

    Args:
      config: changed in place.
      arguments: words of the command line.
      presets: returns other configs by file, which messages name if they have a key.
    Raises:
      UserError: for unknown keys, values of another type, and stray arguments.
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
        rest = values(["main.py", *arguments])[1:]
    except IndexError as error:  # an index into something that has none
        raise UserError(f"{CONFIG}: {error}") from None
    except FLAG_ERRORS as error:
        raise UserError(message(error, arguments)) from None
    if rest:
        raise UserError(f"unexpected argument {rest[0]!r}")


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
