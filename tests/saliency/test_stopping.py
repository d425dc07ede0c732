"""A signal stops a run also where the exception out of its handler is lost."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")

_LOST = """
import os, signal
from saliency.stopping import raise_if_stopped, stop_by_signals

class Thing:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(100):
            pass

stop_by_signals()
raise_if_stopped()
Thing()
try:
    raise_if_stopped()
except KeyboardInterrupt as interruption:
    print("stopped by", interruption.args[0])
stop_by_signals()
raise_if_stopped()
"""

_IGNORED = """
import os, signal
from saliency.stopping import raise_if_stopped, stop_by_signals

signal.signal(signal.SIGINT, signal.SIG_IGN)  # as nohup does, and & in a script
stop_by_signals()
os.kill(os.getpid(), signal.SIGINT)
raise_if_stopped()
print("goes on")
"""


def run(program: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60,
        cwd=Path(__file__).resolve().parents[2],
    )  # fmt: skip


def test_an_interruption_in_a_destructor_is_not_lost():
    done = run(_LOST)
    assert (done.stdout, done.stderr) == ("stopped by 15\n", "")


def test_an_ignored_signal_stays_ignored():
    done = run(_IGNORED)
    assert (done.stdout, done.stderr) == ("goes on\n", "")
