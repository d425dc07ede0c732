"""Ends of a run that no check of its settings foresees, each told in one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click
import torch

from data import checkpoint
from data.errors import UserError
from data.exhaustion import is_exhaustion
from pretrain.run_folder import RunFolder


class TrainingFailed(click.ClickException):
    """A run that cannot go on, for a reason that is not an argument's; exit code 1."""

    exit_code = 1


@contextmanager
def failures_told(run: RunFolder, batch_size: int, device: torch.device) -> Iterator[None]:
    """Tell a full disk, exhausted memory and a killed loading process in one sentence each.

    Raises
    ------
    UserError
        A file cannot be written or read; the batch does not fit into memory.
    TrainingFailed
        A loading process has ended.
    """
    try:
        yield
        return
    except OSError as error:
        reason = str(error.strerror or error).lower()
        failure: click.ClickException = UserError(
            f"the run in {str(run.path)!r} has to end, because {error.filename or 'a file'} cannot "
            f"be used ({reason}); mend that and go on with --resume."
        )
    except (RuntimeError, MemoryError) as error:
        text = str(error)
        if "DataLoader worker" in text:
            failure = TrainingFailed(
                f"a loading process has ended ({text.splitlines()[0].strip(' .')}), often for want "
                f"of memory; {last_good(run)}; go on with --resume, and fewer workers."
            )
        elif is_exhaustion(error):
            failure = UserError(
                f"batch_size is {batch_size}, and needs more memory than {device} has; give a "
                "smaller one, or compute it in parts by accumulate = 2."
            )
        else:
            raise
    failure.of_one_process = True
    raise failure  # here, outside the handlers, no frame holds on to tensors


def last_good(run: RunFolder) -> str:
    """Return in words which checkpoint a run can go on from."""
    good = checkpoint.checkpoints(run.checkpoints)
    return f"the last good checkpoint is {good[-1][1]}" if good else "there is no checkpoint yet"
