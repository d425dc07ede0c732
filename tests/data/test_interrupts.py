"""Signals wait until HDF5 is done."""

import signal
import subprocess
import sys
import threading

import pytest

from data.interrupts import uninterrupted


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_end_of_the_block(number):
    def interrupt(number, frame):
        raise KeyboardInterrupt(number)

    before = signal.signal(number, interrupt)
    steps = []
    try:
        with pytest.raises(KeyboardInterrupt), uninterrupted():
            with uninterrupted():  # blocks nest
                signal.raise_signal(number)
                steps.append("inner")
            steps.append("outer")
        assert signal.getsignal(number) is interrupt
    finally:
        signal.signal(number, before)
    assert steps == ["inner", "outer"]


def test_it_decorates_and_works_in_any_thread():
    @uninterrupted()
    def double(value):
        return 2 * value

    results = [double(1)]
    thread = threading.Thread(target=lambda: results.append(double(2)))
    thread.start()
    thread.join()
    assert results == [2, 4]


_INTERRUPTED_WRITER = """
import signal, sys
import numpy as np
from data.keys import Keys
from data.masks.write import ChunkEncoder, ShardWriter
signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
keys = Keys(f"{i:05d}" for i in range(100_000))
attributes = dict(method="rbd", parameters={}, software={}, listing_digest="x")
chunk = ChunkEncoder(8).encode(np.zeros((8, 8), np.uint8))
try:
    with ShardWriter(sys.argv[1], 0, 1, keys, 8, "zstd", attributes) as writer:
        signal.setitimer(signal.ITIMER_REAL, 0.03 + 0.037 * int(sys.argv[2]))
        for row in range(len(keys)):
            writer.write(row, chunk, (8, 8), (8, 8))
        writer.commit()
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize("moment", range(3))
def test_a_writer_that_is_interrupted_ends_clean(tmp_path, moment):
    """An exception inside HDF5's calls back into Python would crash the process."""
    done = subprocess.run(
        [sys.executable, "-c", _INTERRUPTED_WRITER, tmp_path / "shard-00000.h5", str(moment)],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted\n", "")
    assert not list(tmp_path.iterdir())
