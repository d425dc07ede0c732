"""`probe` under torchrun: which process speaks, and what several can do."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from data.errors import UserError


def speaks() -> bool:
    """Whether this process speaks to the user: the first of those on this host."""
    return os.environ.get("LOCAL_RANK", os.environ.get("RANK", "0")) == "0"


def count() -> int:
    """How many processes torchrun started for this work, on all hosts; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def refuse_several(command: str) -> None:
    """Raise a UserError where several processes would do the same and write the same files."""
    if count() > 1:
        raise UserError(
            f"probe {command} runs in one process, and WORLD_SIZE is {count()}, as under torchrun; "
            "start it without torchrun, which is for probe linear."
        )


class OneVoice(click.Group):
    """Commands whose errors are told once: torchrun's other processes end without a word."""

    def invoke(self, context: click.Context) -> Any:
        """Run the command that the user named."""
        try:
            return super().invoke(context)
        except click.ClickException as error:
            if speaks():
                raise
            sys.exit(error.exit_code)
