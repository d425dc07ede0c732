"""What --overwrite has still to replace, also in a run after one that was stopped.

An old shard stays until its replacement takes its name. A note in the folder says which files were
there when the overwriting began; those that still are the same files are the old ones.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from data.errors import UserError
from data.masks.write import shard_name

_PREFIX = ".overwriting-"


def old_shards(
    folder: Path, numbers: Iterable[int], settings: dict[str, Any], part: int, parts: int
) -> set[int]:
    """Begin to overwrite shards, or go on where a run with the same settings was stopped.

    Parameters
    ----------
    folder : Path
    numbers : iterable of int
        The shards to overwrite, as far as they are there.
    settings : dict
        JSON-able; under other ones all begins again.
    part, parts : int
        Each part of an array job has a note of its own.

    Returns
    -------
    set of int
        The shards that are not replaced yet.

    Raises
    ------
    UserError
        The folder cannot be written.
    """
    note = _note(folder, part, parts)
    settings = json.loads(json.dumps(settings))
    there = {number: found for number in numbers if (found := _identity(folder, number))}
    try:
        before = json.loads(note.read_text())
        if before["settings"] == settings:
            old = {int(number): identity for number, identity in before["old"].items()}
            return {number for number in there if old.get(number) == there[number]}
    except (OSError, ValueError, KeyError):  # none, or one of which only a part was written
        pass
    try:
        note.write_text(json.dumps({"settings": settings, "old": there}))
        forget(folder, part, parts, own=False)
    except OSError as error:
        raise UserError(
            f"{str(note)!r} cannot be written ({(error.strerror or str(error)).lower()}); "
            "mend that and run the same command again."
        ) from None
    return set(there)


def forget(folder: Path, part: int, parts: int, own: bool = True) -> None:
    """Remove this part's note, unless not `own`, and those of other divisions into parts."""
    for path in folder.glob(f"{_PREFIX}*.json"):
        if path == _note(folder, part, parts):
            wanted = own
        else:
            wanted = not path.name.endswith(f"-of-{parts}.json")
        if wanted:
            path.unlink(missing_ok=True)


def _note(folder: Path, part: int, parts: int) -> Path:
    return folder / f"{_PREFIX}{part}-of-{parts}.json"


def _identity(folder: Path, number: int) -> list[int] | None:
    """What tells a file from one that took its name later; None where there is none."""
    try:
        facts = os.stat(folder / shard_name(number))
    except FileNotFoundError:
        return None
    return [facts.st_ino, facts.st_size, facts.st_mtime_ns]
