"""Fixtures shared by all tests."""

import gc
import os
import signal
from pathlib import Path

import hypothesis
import pytest

hypothesis.settings.register_profile("untimed", deadline=None)  # machines may be busy
hypothesis.settings.load_profile("untimed")

gc.set_threshold(100_000)  # a sixth of the tests' time went into looking for garbage

REPOSITORY = Path(__file__).resolve().parents[1]

# A shell's background job ignores Ctrl-C, and so would every process that the tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real photographs and golden intermediates; tests that need them skip without them."""
    folder = Path(os.environ.get("DILO_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("golden data is not on this machine (set DILO_TEST_DATA)")
    return folder
