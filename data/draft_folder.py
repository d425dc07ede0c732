"""A hidden folder in which a set of files is made, before it takes the place of an older set."""

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from data.errors import UserError
from data.files import lock


@contextlib.contextmanager
def draft_folder(out: str | os.PathLike, what: str) -> Iterator[Path]:
    """Make `OUT/.<what>.<random>.tmp` for the block, and remove it with all it still holds.

    It lies in OUT, so that a file is moved from it to OUT at once, also where OUT is a link or the
    root of a disk of its own. OUT is made when it is missing, and goes again if nothing was put
    there. The folder is locked as long as its maker lives, where the file system has locks; what
    makers that were killed left is removed first.

    Raises
    ------
    UserError
        OUT cannot be made or written to.
    """
    out = Path(out)
    try:
        made = not out.exists()
        out.mkdir(parents=True, exist_ok=True)
        _remove_stale(out, what)
        draft = out / f".{what}.{secrets.token_hex(4)}.tmp"
        draft.mkdir()
        descriptor = os.open(draft, os.O_RDONLY)
    except OSError as error:
        raise UserError(
            f"{str(out)!r} cannot be written to ({str(error.strerror or error).lower()}); "
            "mend that, or give another folder."
        ) from None
    try:
        lock(descriptor)
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        os.close(descriptor)
        if made:
            with contextlib.suppress(OSError):  # it is not empty: the set is there
                out.rmdir()


def _remove_stale(out: Path, what: str) -> None:
    for draft in out.glob(f".{what}.*.tmp"):
        with contextlib.suppress(OSError):
            descriptor = os.open(draft, os.O_RDONLY)
            try:
                if lock(descriptor) is not False:
                    shutil.rmtree(draft, ignore_errors=True)
            finally:
                os.close(descriptor)
