"""Loading processes end with the one that they load for, however it drops them."""

import gc

from data.loading_workers import LoadingWorkers


def test_dropped_unclosed_they_may_end():
    workers = LoadingWorkers()
    workers.cycle = workers  # as an exception's traceback may hold a loader
    closing = workers._closing
    assert closing.value == 0
    del workers
    gc.collect()
    assert closing.value == 1
