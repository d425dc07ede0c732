"""A file that appears whole under its name, or not at all."""

import contextlib
import errno
import io
import os
import secrets
from pathlib import Path

from data.errors import UserError

try:
    import fcntl
except ImportError:  # Windows: without locks; there, a file that is open cannot be removed
    fcntl = None


class PendingFile(io.RawIOBase):
    """A new file under a hidden temporary name, which `publish` gives its own name.

    It serves h5py as a file object. HDF5 cannot recover from a write that fails (it keeps the file
    open and complains until the process ends), so a failure is remembered here instead of raised
    there: from then on writes do nothing, and `check` and `publish` raise it as a sentence.

    Parameters
    ----------
    path
        The final name. The temporary one is `.<name>.<random>.tmp` in the same folder, which is
        made when it is missing. The file is locked as long as its writer lives, where the file
        system has locks: see `remove_if_stale`.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        super().__init__()
        self.path = Path(path)
        self._failure: OSError | None = None
        self._position = 0
        self._end = 0
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.temporary, descriptor = _create_locked(self.path)
            self._descriptor: int | None = descriptor
        except OSError as error:
            raise UserError(_sentence(self.path, error)) from None

    def check(self) -> None:
        """Raise UserError if a write has failed."""
        if self._failure is not None:
            raise UserError(_sentence(self.path, self._failure))

    def publish(self) -> None:
        """Sync the file, give it its name (replacing what is there), and sync the folder."""
        try:
            self.check()
            try:
                os.fsync(self._descriptor)
                os.replace(self.temporary, self.path)
            except OSError as error:
                raise UserError(_sentence(self.path, error)) from None
            sync_folder(self.path.parent)
        finally:
            self.discard()

    def discard(self) -> None:
        """Close and remove the temporary file, if it is still there; later writes do nothing."""
        if self._failure is None:
            self._failure = OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
            with contextlib.suppress(OSError):
                self.temporary.unlink(missing_ok=True)

    # What h5py asks of a file object --------------------------------------------------------------

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._end}[whence]
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def write(self, data) -> int:
        rest = memoryview(data).cast("B")
        count = len(rest)
        place = self._position
        while rest and self._failure is None:
            try:
                done = os.pwrite(self._descriptor, rest, place)
            except OSError as error:
                self._failure = error
                break
            rest, place = rest[done:], place + done
        self._position += count
        self._end = max(self._end, self._position)
        return count

    def readinto(self, buffer) -> int:
        view = memoryview(buffer).cast("B")
        found = b""
        if self._failure is None:
            try:
                found = os.pread(self._descriptor, len(view), self._position)
            except OSError as error:
                self._failure = error
        view[: len(found)] = found
        view[len(found) :] = bytes(len(view) - len(found))  # a hole, or what could not be written
        self._position += len(view)
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        self._end = self._position if size is None else size
        if self._failure is None:
            try:
                os.ftruncate(self._descriptor, self._end)
            except OSError as error:
                self._failure = error
        return self._end

    def flush(self) -> None:
        """Do nothing: nothing is buffered."""

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


def remove_if_stale(path: Path, certain: bool = False) -> bool:
    """Remove a temporary file unless its writer lives; return whether it is gone.

    Where the file system has no locks nobody can tell, and the file is removed unless `certain`.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | getattr(os, "O_CLOEXEC", 0))
    except OSError:
        return False
    try:
        locked = lock(descriptor)
        if locked is False or (locked is None and certain):
            return False
        path.unlink(missing_ok=True)
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _create_locked(path: Path) -> tuple[Path, int]:
    """Create a temporary file for `path`, and lock it for as long as it is open."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        descriptor = os.open(temporary, flags, 0o666)
        if lock(descriptor) is not False and os.fstat(descriptor).st_nlink:
            return temporary, descriptor
        os.close(descriptor)  # another command has just taken it for a left-over


def lock(descriptor: int) -> bool | None:
    """Lock a file for this process; False: another one has it; None: there are no locks here."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def sync_folder(folder: str | os.PathLike) -> None:
    """Make a folder's new names survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems cannot sync a folder
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sentence(path: Path, error: OSError) -> str:
    reason = str(error.strerror or error).lower()
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return (
            f"the disk that holds {str(path.parent)!r} is full ({reason}); "
            "make room and run the same command again."
        )
    return f"{str(path)!r} cannot be written ({reason}); mend that and run the same command again."
