"""Signals wait until a kernel is done."""

import signal
import threading

import pytest

from data.kernel_cache import uninterrupted


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
