"""What libraries print about an image, caught: it names no image, and is all they say of damage."""

import contextlib
import os
import threading
from collections.abc import Iterator

_STDERR = 2
_lock = threading.Lock()  # the process has one standard error


@contextlib.contextmanager
def remarks_caught(remarks: list[str]) -> Iterator[None]:
    """Append to `remarks` what the block's C code prints to standard error, a line each.

    Decoders go on behind what is damaged, and print no more than its kind.
    """
    with _lock:
        try:
            terminal = os.dup(_STDERR)
        except OSError:  # closed: nothing is printed
            yield
            return
        out, into = os.pipe()
        try:
            os.set_blocking(out, False)
            os.set_blocking(into, False)  # what a full pipe does not hold is dropped
            os.dup2(into, _STDERR)
            try:
                yield
            finally:
                os.dup2(terminal, _STDERR)
            with contextlib.suppress(BlockingIOError):  # there is nothing
                text = os.read(out, 4096).decode("utf-8", "replace")
                remarks += filter(None, (" ".join(line.split()) for line in text.splitlines()))
        finally:
            for descriptor in (terminal, out, into):
                os.close(descriptor)
