"""The one way to write: a file or a set of files appears whole under its name, or not at all.

`write_whole` takes what is in memory, `replacing` lends a temporary path to whoever writes by path,
and `draft_folder` a temporary folder for a set. Failures are plain `OSError`s that name the file.
`only_writer` keeps other processes out meanwhile.
"""

import contextlib
import errno
import fcntl
import glob
import os
import platform
import secrets
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from data.errors import UserError


def refuse_existing(path: str | os.PathLike, overwrite: bool) -> None:
    """Refuse to replace what is there (UserError), unless `overwrite`."""
    if not overwrite and os.path.lexists(path):
        raise UserError(f"{os.fspath(path)!r} is there already; name another, or --overwrite it.")


def open_regular(path: str | os.PathLike) -> BinaryIO:
    """Open a file for reading; `OSError` also for a pipe or a device, which may never end."""
    kind = stat.S_IFMT(os.stat(path).st_mode)
    if kind not in (stat.S_IFREG, stat.S_IFDIR):  # of a folder `open` says that it is one
        raise OSError(errno.EINVAL, "Not a regular file", os.fspath(path))
    return open(path, "rb")


def write_whole(path: str | os.PathLike, data: bytes | memoryview | str) -> None:
    """Write a file, replacing what is there; its folder is made when it is missing.

    Text becomes UTF-8, and what is no text in a file's name (lone surrogates) is escaped.
    `OSError` when the disk is full or the file cannot be written; then nothing is left of it.
    """
    if isinstance(data, str):
        data = data.encode("utf-8", "backslashreplace")
    with replacing(path) as temporary:
        temporary.write_bytes(data)


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Lend `.<name>.<random>.tmp` beside `path` for the block to write, then give it the name.

    The file is synced to the disk before it is renamed, the folder after it; the folder is made
    when it is missing. If the block raises, the temporary file is removed and `path` stays as it
    was. Temporary files of the same name that killed processes left are removed at the end.

    The name ends in `.tmp`, so writers that tell formats by their ending must be given the format.
    `OSError` as for `write_whole`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    before = _identity(path)
    try:
        yield temporary
        try:
            _sync(temporary)
            os.replace(temporary, path)
        except FileNotFoundError:
            # Another process has written the same file meanwhile, and taken ours for a left-over.
            if _identity(path) in (None, before):
                raise
    except OSError as error:
        if error.errno and error.filename in (None, str(temporary)):  # name the file that counts
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise
    finally:
        temporary.unlink(missing_ok=True)
    for left_over in path.parent.glob(_temporary_names(path.name)):
        left_over.unlink(missing_ok=True)
    sync_folder(path.parent)


@contextlib.contextmanager
def draft_folder(out: str | os.PathLike, name: str, token: str = "") -> Iterator[Path]:
    """Make `OUT/.<name>.<token>.tmp` for the block, and remove it with all it still holds.

    It lies in OUT, so that a file is moved from it to OUT at once, also where OUT is a link or the
    root of a disk of its own. OUT is made when it is missing, and goes again if nothing was put
    there. What makers that were killed left is removed first, so only one at a time may work here;
    but a draft of the same token is gone on with. Links are not followed.
    `OSError` where OUT cannot be made or written to.

    token : eight hex digits; random ones where there are none.
    """
    out = Path(out)
    made = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    draft = out / f".{name}.{token or secrets.token_hex(4)}.tmp"
    for left_over in out.glob(_temporary_names(name)):
        if left_over.is_symlink():
            left_over.unlink()
        elif left_over != draft:
            shutil.rmtree(left_over, ignore_errors=True)
    try:
        draft.mkdir(exist_ok=True)
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        if made:
            with contextlib.suppress(OSError):  # it is not empty: the set is there
                out.rmdir()


def private_folder(name: str) -> Path | None:
    """Return `<name>-<user id>` among the temporary files, made if need be, which nobody else can
    write to; None where it is somebody else's.
    """
    user = os.getuid()
    folder = Path(tempfile.gettempdir()) / f"{name}-{user}"
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        facts = folder.lstat()
        if stat.S_ISDIR(facts.st_mode) and facts.st_uid == user and not facts.st_mode & 0o077:
            return folder
    return None


def sync_folder(folder: str | os.PathLike) -> None:
    """Make a folder's new names survive a power cut, where its file system can."""
    with contextlib.suppress(OSError):
        _sync(folder)


def _sync(path: str | os.PathLike) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _temporary_names(name: str) -> str:
    return f".{glob.escape(name)}.{'[0-9a-f]' * 8}.tmp"


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells a file from another of its name; None where there is none."""
    try:
        facts = path.stat()
    except FileNotFoundError:
        return None
    return facts.st_ino, facts.st_mtime_ns


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
                holder = stack.enter_context(_lock_file(lock, shared))
                if holder is not None:
                    what = f"{argument} {str(folder / file)!r} is being written by "
                    who = holder or "another process"
                    raise UserError(f"{what}{who}; wait for its end, or give another.")
            yield
    finally:
        if made:
            with contextlib.suppress(OSError):  # it is not empty
                folder.rmdir()


@contextlib.contextmanager
def _lock_file(path: Path, shared: bool) -> Iterator[str | None]:
    """Lock a file for the block; yield None, or who has it."""
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    while True:
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
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
