"""Checkpoints that appear whole or not at all, and are proved sound before they are used.

A folder holds `checkpoint-00001200.pt` and its like, the number being the step. A file is written
under a temporary name, flushed to the disk and then renamed, so a crash leaves the earlier ones.
PyTorch's files are zip archives with a CRC-32 for every tensor; all are checked before anything
is loaded, and loading goes with `weights_only=True`, so nothing in a file can run code.
"""

from __future__ import annotations

import os
import pickle
import re
import zipfile
import zlib
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from data.errors import UserError
from data.files import PendingFile

_NAME = re.compile(r"checkpoint-(\d{8,})\.pt")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was loaded.

    Attributes
    ----------
    path, step : where it was, and its step.
    state : what was saved.
    damaged : newer files that are not sound, each with the reason; newest first.
    """

    path: Path
    step: int
    state: dict[str, Any]
    damaged: list[tuple[Path, str]] = field(default_factory=list)


def checkpoints(folder: str | os.PathLike) -> list[tuple[int, Path]]:
    """Return (step, path) of a folder's checkpoints, oldest first; [] when there is no folder."""
    folder = Path(folder)
    if not folder.is_dir():
        return []
    matches = ((_NAME.fullmatch(path.name), path) for path in folder.iterdir())
    return sorted((int(match[1]), path) for match, path in matches if match)


def save(folder: str | os.PathLike, step: int, state: dict[str, Any], keep: int = 2) -> Path:
    """Write a checkpoint atomically, then remove all but the `keep` newest up to this step.

    Parameters
    ----------
    folder : made if need be.
    step : number in the file's name.
    state : tensors, numbers, strings, and lists and dicts of them.
    keep : checkpoints to keep, this one among them; at least 2 leave one to fall back to.

    Returns
    -------
    The new file's path.
    """
    if keep < 1:
        raise ValueError(f"keep is {keep}; at least this checkpoint itself is kept")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"checkpoint-{step:08d}.pt"
    write_atomically(path, state)
    older = [old for number, old in checkpoints(folder) if number < step]
    for old in older[: max(0, len(older) - (keep - 1))]:
        old.unlink(missing_ok=True)
    # of a process that was killed while it wrote
    for forsaken in folder.glob(".checkpoint-*.pt.*.tmp"):
        forsaken.unlink(missing_ok=True)
    return path


def write_atomically(path: Path, state: dict[str, Any]) -> None:
    """`torch.save` under a temporary name, flush, rename, flush the folder.

    Raises UserError when the disk is full or the file cannot be written; nothing is left of it.
    """
    pending = PendingFile(path)  # which remembers a failed write, for torch.save would hide it
    try:
        torch.save(state, pending)
        pending.publish()
    finally:
        pending.discard()


def load(path: str | os.PathLike, map_location: str | torch.device = "cpu") -> dict[str, Any]:
    """Load one checkpoint after checking it.

    Raises
    ------
    UserError
        Missing, damaged, or holding what `weights_only=True` refuses.
    """
    reason = damage(path)
    if reason is None:
        try:
            return torch.load(path, map_location=map_location, weights_only=True)
        except (
            RuntimeError,
            EOFError,
            ValueError,
            KeyError,
            OSError,
            pickle.UnpicklingError,
        ) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
    raise UserError(f"the checkpoint {os.fspath(path)} cannot be used: {reason}.")


def load_newest(
    folder: str | os.PathLike,
    map_location: str | torch.device = "cpu",
    *,
    holding: Collection[str] = (),
) -> Checkpoint | None:
    """Load the newest sound checkpoint of a folder; None when it holds none at all.

    A damaged one is passed over for the one before it and named in `damaged`, for the caller to
    say so. So is a file that somebody else made, without the entries named in `holding`.

    Raises
    ------
    UserError
        There are checkpoints, and not one is sound.
    """
    damaged: list[tuple[Path, str]] = []
    for step, path in reversed(checkpoints(folder)):
        try:
            state = load(path, map_location)
            lacking = [name for name in holding if not isinstance(state, dict) or name not in state]
            if not lacking:
                return Checkpoint(path, step, state, damaged)
            damaged.append((path, f"no checkpoint of such a run (it holds no {lacking[0]!r})"))
        except UserError as error:
            damaged.append((path, error.message.split(" cannot be used: ", 1)[-1].rstrip(".")))
    if damaged:
        raise UserError(
            f"none of the {len(damaged)} checkpoints in {os.fspath(folder)} is sound "
            f"({damaged[0][0].name}: {damaged[0][1]}); start again in a new folder."
        )
    return None


def set_aside(checkpoint: Checkpoint) -> None:
    """Rename the damaged files that `load_newest` passed over to `....pt.damaged`."""
    for path, _ in checkpoint.damaged:
        os.replace(path, path.with_name(path.name + ".damaged"))


def damage(path: str | os.PathLike) -> str | None:
    """Return what is wrong with a file of `torch.save`; None if every CRC-32 is right."""
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except FileNotFoundError:
        return "there is no such file"
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError) as error:
        return f"the file is damaged ({error})"
    except OSError as error:
        return f"the file cannot be read ({error.strerror or error})"
    return None if bad is None else f"the file is damaged (its part {bad} has a wrong checksum)"
