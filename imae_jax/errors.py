"""What ends a command early: a user's mistake, or a wish to stop."""


class UserError(ValueError):
    """Bad input. The message is one line: what, which value, what would be right.

    `main.py` prints it without a traceback and exits with status 1. Whoever calls the
    library may catch it as the ValueError that it is.
    """


class Terminated(BaseException):
    """SIGTERM has come, and what was there has been saved.

    No failure: as KeyboardInterrupt, it is not what `except Exception` is for.
    """


def require(ok: bool, key: str, value, allowed: str) -> None:
    """Raises UserError unless `ok`, naming the key, its value and what is allowed."""
    if not ok:
        raise UserError(f"{key}={value!r} is not possible: it must be {allowed}")
