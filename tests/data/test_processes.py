"""What a killed group leaves in shared memory; signals wait until a kernel is done."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from data.processes import uninterrupted

SHARED = Path("/dev/shm")
PROGRAM = """
import os, pathlib, time
from data.processes import sweep_after_death
shared, pid = pathlib.Path("/dev/shm"), os.getpid()
(shared / f"sem.loky-{pid}-abc").touch()
(shared / f"joblib_memmapping_folder_{pid}_abc").mkdir()
(shared / f"joblib_memmapping_folder_{pid}_abc" / "array").touch()
sweep_after_death()
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(not os.access(SHARED, os.W_OK), reason="needs /dev/shm")
def test_a_killed_group_leaves_no_names(tmp_path):
    other = SHARED / f"sem.loky-{os.getpid()}-of-another"
    other.touch()
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        assert process.stdout.readline() == b"ready\n"
        names = f"*{process.pid}*"
        assert len(list(SHARED.glob(names))) == 2
        os.killpg(process.pid, signal.SIGTERM)
        os.killpg(process.pid, signal.SIGKILL)
        assert process.stdout.read() == b""  # nobody holds it open
        process.wait()
        deadline = time.monotonic() + 20
        while list(SHARED.glob(names)) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not list(SHARED.glob(names)) and other.exists()
    finally:
        other.unlink()


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
