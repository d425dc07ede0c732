"""Errors that are told in one sentence, and the one handler at the top of every command."""

from __future__ import annotations

import errno
import importlib
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

_EXHAUSTED = (  # said by allocators that have no exception of their own
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "ALLOC_FAILED",
    "memory allocation failed",  # HDF5
)
_WORKER = re.compile(r"DataLoader worker \(pid")  # of a process that ended, not of its exception
_REMEDIES = {
    errno.ENOSPC: "make room and run the same command again",
    errno.EDQUOT: "make room and run the same command again",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENOENT: "give a path that exists",
    errno.EACCES: "change its permissions or give another path",
    errno.EPERM: "change its permissions or give another path",
    errno.EROFS: "give a path that can be written",
}


class _Sentence(click.ClickException):
    """Shown with control characters, which names of files may have, made visible."""

    def format_message(self) -> str:
        from data.keys import printable_lines  # needs NumPy, which --help does not

        return printable_lines(self.message)


class UserError(_Sentence):
    """A mistake that the user can mend, told in one sentence: argument, value, remedy.

    Every command prints it as `Error: <sentence>` on stderr, without a traceback, and exits with 2.
    """

    exit_code = 2
    of_one_process = False  # torchrun's other processes may not meet it: not only the first says so


class RunFailed(_Sentence):
    """A run that cannot go on, for a reason that is not an argument's; exit code 1."""

    exit_code = 1
    of_one_process = False


def import_extra(module: str, extra: str, user: str) -> Any:
    """Import a package that an extra of DiLo brings; UserError, naming its user: it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError:
        remedy = f"pip install 'dilo[{extra}]'"
        raise UserError(f"{user} needs {module}, which is not installed: {remedy}.") from None


def is_exhaustion(error: BaseException) -> bool:
    """Return whether an error says that the memory of the CPU or of a GPU is exhausted."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    kinds = (RuntimeError, OSError)  # HDF5's is an OSError
    return isinstance(error, kinds) and any(word in str(error) for word in _EXHAUSTED)


def damaged(
    path: str | os.PathLike,
    reason: object,
    remedy: str,
    verb: str = "cannot be read",
    name: str = "",
) -> UserError:
    """Return the error that says what is wrong with a file's content, and what to do.

    name : of the file, as its user gave it; its path by default.
    """
    text = " ".join(str(reason).split())[:300].rstrip(". ") or type(reason).__name__
    return UserError(f"{name or repr(os.fspath(path))} {verb} ({text}); {remedy}.")


@contextmanager
def damage_told(path: str | os.PathLike, remedy: str, **options: str) -> Iterator[None]:
    """Turn whatever goes wrong while a file's content is looked at into `damaged`.

    Libraries have exceptions of almost every kind for what damaged bytes say. OSError, as the
    system says it, stays one; UserError and exhausted memory stay what they are.
    """
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno:  # says nothing of what is in the file
            place = error.filename or os.fspath(path)
            raise OSError(error.errno, os.strerror(error.errno), place) from None
        raise damaged(path, error, remedy, **options) from None


@contextmanager
def errors_told() -> Iterator[None]:
    """Turn the errors of a machine into a sentence; of torchrun's processes one a host speaks.

    An `OSError` names its file, the reason and the remedy; exhausted memory, a full shared memory
    and a loading process that was killed name what to lower. Notes of the exception
    (`add_note`) take the place of the remedy. Everything else is a bug and keeps its traceback.

    Raises UserError or RunFailed.
    """
    try:
        yield
        return
    except click.ClickException as error:
        first = os.environ.get("LOCAL_RANK", os.environ.get("RANK", "0")) == "0"
        if first or getattr(error, "of_one_process", False):
            raise
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)  # as shells report Ctrl-C
    except (OSError, RuntimeError, MemoryError) as error:
        failure = as_sentence(error)
        if failure is None:
            raise
    failure.of_one_process = True
    raise failure  # here, outside the handlers, no frame holds on to tensors


def as_sentence(error: BaseException) -> UserError | RunFailed | None:
    """Return an error of the machine as one to be told; None for a bug."""
    text = str(error).strip()
    first_line, last_line = text.partition("\n")[0].rstrip(" ."), text.rpartition("\n")[2]
    remedy = "; ".join(getattr(error, "__notes__", ()))
    if isinstance(error, OSError) and not is_exhaustion(error):
        if error.errno == errno.EPIPE or (error.errno is None and not text.startswith("Caught ")):
            return None
        name = "a file" if error.filename is None else repr(os.fspath(error.filename))
        reason = error.strerror or last_line
        remedy = remedy or _REMEDIES.get(error.errno, "mend that and run the same command again")
        return UserError(f"{name} cannot be used ({reason.lower()}); {remedy}.")
    if _WORKER.search(text):
        remedy = remedy or f"run the same command again, with {_fewer()}"
        return RunFailed(
            f"a loading process was killed ({first_line}), often for want of memory; {remedy}."
        )
    if "shared memory" in text:
        return UserError(
            f"the shared memory is full ({last_line}); enlarge it (docker run --shm-size=8g), or "
            f"use {_fewer()}."
        )
    if is_exhaustion(error):
        reason = f" ({first_line})" if first_line else ""
        return UserError(f"the memory is exhausted{reason}; {remedy or f'use {_fewer()}'}.")
    return None


def _fewer() -> str:
    """What the command that runs has to lower, where memory is short."""
    context = click.get_current_context(silent=True)
    if context is None:
        return "fewer workers"
    names = {parameter.name for parameter in context.command.params}
    words = {
        "batch_size": "a smaller --batch-size",
        "workers": "fewer --workers",
        "jobs": "fewer --jobs",
        "max_side": "a smaller --max-side",
    }
    return " or ".join(words[name] for name in words if name in names) or "a larger machine"


class _Told:
    def invoke(self, ctx: click.Context) -> Any:
        with errors_told():
            return super().invoke(ctx)


class ToldCommand(_Told, click.Command):
    """A command whose errors `errors_told` tells."""


class ToldGroup(_Told, click.Group):
    """A group of commands whose errors `errors_told` tells."""

    command_class = ToldCommand
