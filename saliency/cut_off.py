"""Quiet where worker processes are killed on purpose."""

import contextlib
import threading
import time


def expect_cut_off() -> None:
    """From now on say nothing of a failure in the thread by which loky manages its processes.

    Where they are killed with tasks waiting, that thread may clear its table of tasks before its
    queue, and then ends with a traceback of a KeyError (loky 3.5, `add_call_item_to_queue`). What
    it has left undone then is done here: else its queue's own thread would never end.
    """
    usual = threading.excepthook

    def hook(failure: threading.ExceptHookArgs) -> None:
        thread = failure.thread.name if failure.thread is not None else ""
        if thread != "ExecutorManagerThread" or failure.exc_type is not KeyError:
            usual(failure)
            return
        with contextlib.suppress(Exception):
            failure.thread.join_executor_internals()

    threading.excepthook = hook


def join_threads(seconds: float = 2.0) -> None:
    """Wait for loky's threads to end, but not for ever.

    One that ends while the interpreter does is cut off in the midst of freeing its semaphores, and
    loky's resource tracker warns of them.
    """
    deadline = time.monotonic() + seconds
    for name in ("ExecutorManagerThread", "QueueFeederThread"):  # the first ends the second
        for thread in threading.enumerate():
            if thread.name == name:
                thread.join(max(0.0, deadline - time.monotonic()))
