"""Only the one failure that is expected stays unsaid."""

import threading

from saliency.cut_off import expect_cut_off


def test_only_the_expected_failure_is_quiet(monkeypatch):
    told = []
    monkeypatch.setattr(threading, "excepthook", lambda failure: told.append(failure.exc_type))
    expect_cut_off()

    def fail(error):
        raise error

    for name, error in (
        ("ExecutorManagerThread", KeyError(1)),
        ("ExecutorManagerThread", RuntimeError("no such case")),
        ("another", KeyError(1)),
    ):
        thread = threading.Thread(target=fail, args=(error,), name=name)
        thread.start()
        thread.join()
    assert told == [RuntimeError, KeyError]
