"""A part of the benchmark that fails is told, and what comes after it is measured all the same."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable
from typing import TypeVar

import click
import torch

T = TypeVar("T")


class PartFailed(Exception):
    """A part could not be measured; the reason in a sentence."""


class Failures:
    """Runs parts, and remembers which of them failed.

    Attributes
    ----------
    names : of the parts that failed; the benchmark's exit code is 1 if there are any.
    """

    def __init__(self) -> None:
        self.names: list[str] = []

    def attempt(self, name: str, measure: Callable[[], T], tell: Callable[[str], None]) -> T | None:
        """Return what a part measures, or None after telling the reason why it could not."""
        try:
            return measure()
        except Exception as error:  # whatever it is: the parts after it are of worth without it
            reason = sentence(error)
            if not isinstance(error, click.ClickException | PartFailed):
                traceback.print_exc()
        self.names.append(name)
        if torch.cuda.is_initialized():  # what a failed part allocated, its frames gone by now
            with contextlib.suppress(RuntimeError):  # parts in other processes may work even so
                torch.cuda.empty_cache()
        tell(reason)
        return None


def sentence(error: Exception) -> str:
    """Return an exception's first line, with its kind where that is not a sentence of ours."""
    first = (str(error).strip() or "no message").splitlines()[0]
    if isinstance(error, click.ClickException):
        return error.message
    return first if isinstance(error, PartFailed) else f"{type(error).__name__}: {first}"
