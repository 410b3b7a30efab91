"""Loads a config file and applies overrides from the command line."""

import difflib
from collections.abc import Sequence

from absl import flags
from ml_collections import ConfigDict, config_flags

from imae_jax.commands.command_line import CONFIG, FLAG, FLAG_ERRORS, best_first, message
from imae_jax.errors import UserError


def load(file: str) -> ConfigDict:
    """Loads the config of FILE or FILE:ARG.

    Raises:
      UserError: if there is no such file, or its `get_config` takes no such argument.
    """
    values = flags.FlagValues()
    try:
        config_flags.DEFINE_config_file(CONFIG, file, flag_values=values, sys_argv=[])
        values(["main.py"])
        values[CONFIG].value.keys()  # raises here if the file failed to load
    except FLAG_ERRORS as error:
        raise UserError(message(error, [f"--{CONFIG}={file}"])) from None
    return values[CONFIG].value


def override(config: ConfigDict, arguments: Sequence[str]) -> None:
    """Sets the values of `--config.KEY=VALUE` and `--config.KEY VALUE`.

    Raises:
      UserError: for unknown keys, values of another type, and stray arguments.
    """
    for word in arguments:
        if match := FLAG.match(word):
            _check_key(config, match["name"].removeprefix(f"{CONFIG}."), word)
    values = flags.FlagValues()
    values.set_gnu_getopt(True)
    try:
        config_flags.DEFINE_config_dict(
            CONFIG, config, flag_values=values, sys_argv=list(arguments)
        )
        rest = values(["main.py", *arguments])[1:]
    except FLAG_ERRORS as error:
        raise UserError(message(error, arguments)) from None
    if rest:
        raise UserError(f"unexpected argument {rest[0]!r}")


def _check_key(config: ConfigDict, key: str, word: str) -> None:
    """Raises UserError naming the sibling keys if the config does not have the key."""
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
            raise UserError(
                f"{word}: {where} has no key {plain!r}; {hint}its keys: {', '.join(names)}"
            )
        section, path = section[plain], f"{path}.{name}".lstrip(".")
