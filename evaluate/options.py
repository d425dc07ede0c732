"""Options that several probes share, and how they speak to the user."""

from collections.abc import Callable
from pathlib import Path

import click


def say(text: str) -> None:
    """Tell the user something that is not the result: on stderr, so that `--json` stays JSON."""
    click.echo(text, err=True)


def out_options(command: Callable) -> Callable:
    """`--out FOLDER` and `--overwrite`."""
    for option in (
        click.option(
            "--overwrite", is_flag=True, help="Replace results that are in the folder --out."
        ),
        click.option(
            "--out",
            type=click.Path(path_type=Path),
            help="Folder for the results.  [default: probe-output/<command>-<number>]",
        ),
    ):
        command = option(command)
    return command


def json_option(command: Callable) -> Callable:
    """`--json`: print JSON in place of the table."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print the results as JSON in place of the table."
    )(command)
