"""The error a user can cause."""

import click


class UserError(click.ClickException):
    """A mistake that the user can mend, told in one sentence: argument, value, remedy.

    Every command prints it as `Error: <sentence>` on stderr, without a traceback, and exits with 2.
    """

    exit_code = 2
    of_one_process = False  # torchrun's other processes may not meet it: not only the first says so
