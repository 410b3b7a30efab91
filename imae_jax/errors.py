"""The one exception that means: the user asked for something that cannot be done."""


class UserError(Exception):
    """Bad input. The message is one line: what, which value, what would be right.

    `main.py` prints it without a traceback and exits with status 1.
    """
