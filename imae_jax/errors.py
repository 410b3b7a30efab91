"""Exceptions that end a command without a traceback."""

import contextlib
from collections.abc import Iterator


class UserError(ValueError):
    """Invalid input. The message is one line: the name, its value, and what is allowed.

    `main.py` prints it without a traceback and exits with status 1. Users of the library
    can catch it as a ValueError.
    """


class Terminated(BaseException):
    """Raised after SIGTERM, once the state has been saved.

    Not an error: like KeyboardInterrupt, it is not caught by `except Exception`.
    """


def one_line(error: object) -> str:
    """Returns the text of an error with its line breaks and indents as single spaces."""
    return " ".join(str(error).split())


def describe(error: BaseException) -> str:
    """Returns the class and the text of an error in one line; of a UserError the text."""
    text = one_line(error)
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text[:300]}"


def require(ok: bool, key: str, value: object, allowed: str) -> None:
    """Raises UserError unless `ok`, naming the key, its value and what is allowed."""
    if not ok:
        shown = " ".join(repr(value).splitlines())  # a section of a config has many
        raise UserError(f"invalid {key}={shown}: must be {allowed}")


@contextlib.contextmanager
def naming(name: str) -> Iterator[None]:
    """Context whose UserErrors say which of several runs they are about."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
