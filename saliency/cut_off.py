"""Quiet where worker processes are killed on purpose."""

import threading


def expect_cut_off() -> None:
    """From now on say nothing of a failure in the thread by which loky manages its processes.

    Where they are killed with tasks waiting, that thread may clear its table of tasks before its
    queue, and then ends with a traceback of a KeyError (loky 3.5, `add_call_item_to_queue`).
    """
    usual = threading.excepthook

    def hook(failure: threading.ExceptHookArgs) -> None:
        thread = failure.thread.name if failure.thread is not None else ""
        if thread != "ExecutorManagerThread" or failure.exc_type is not KeyError:
            usual(failure)

    threading.excepthook = hook
