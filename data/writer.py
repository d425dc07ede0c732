"""One writer at a time: a folder or file is locked while its writer lives, and says who that is."""

import contextlib
import errno
import os
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from data.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


@contextlib.contextmanager
def only_writer(
    folder: str | os.PathLike, argument: str, part: str = "", file: str = ""
) -> Iterator[None]:
    """Hold the lock of what a command writes; it goes with the block, or with the process.

    The lock is a file in the folder, `.writer.tmp`, removed at the end. The folder is made where it
    is missing, and goes again if nothing was put there. Where a file system has no locks or cannot
    be written, nothing is held.

    argument : how its user named it, for the sentence.
    part : of a work that several processes share; only the same part is refused then, and a writer
        of the whole.
    file : the one file in the folder that is written.

    Raises UserError: another process has it; the sentence says which.
    """
    folder = Path(folder)
    locks = [folder / (f".{file}.writer.tmp" if file else ".writer.tmp")]
    if part:
        locks.append(folder / f".writer-{part}.tmp")
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with contextlib.ExitStack() as stack:
            for lock in locks:
                shared = bool(part) and lock == locks[0]
                holder = stack.enter_context(_locked(lock, shared))
                if holder is not None:
                    raise UserError(
                        f"{argument} {str(folder / file)!r} is being written by "
                        f"{holder or 'another process'}; wait for its end, or give another."
                    )
            yield
    finally:
        if made:
            with contextlib.suppress(OSError):  # it is not empty
                folder.rmdir()


@contextlib.contextmanager
def _locked(path: Path, shared: bool) -> Iterator[str | None]:
    """Lock a file for the block; yield None, or who has it."""
    if fcntl is None:
        yield None
        return
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    while True:
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EROFS):
                raise
            yield None  # nobody writes here: a run may still say that it is complete
            return
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(file, 1000, 0).decode("utf-8", "replace")
            os.close(file)
            yield holder
            return
        except OSError:  # a file system without locks
            pass
        if _is_still(path, file):
            break
        os.close(file)  # its holder ended, and removed it, after it was opened here
    try:
        os.truncate(file, 0)
        os.pwrite(file, _who().encode("utf-8", "backslashreplace"), 0)
        yield None
    finally:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody shares it
            path.unlink()
        os.close(file)


def _is_still(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(file))
    except FileNotFoundError:
        return False


def _who() -> str:
    program = Path(sys.argv[0])
    name = program.parent.name if program.stem == "__main__" else program.name
    command = " ".join([name, *sys.argv[1:]])
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    shown = "".join(c if c.isprintable() else "?" for c in command)[:300]
    return f"process {os.getpid()} on {platform.node()} since {since} ({shown})"
