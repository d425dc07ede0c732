"""Worker processes after OpenCV has had threads of its own in the parent."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import cv2
import numpy as np
from saliency.loading import WorkerLoader

cv2.setNumThreads(4)

class Resized:
    def __len__(self):
        return 8

    def __getitem__(self, index):
        cv2.setNumThreads(1)  # waits for threads that are there by OpenCV's books only
        return cv2.resize(np.full((900, 900, 3), index, np.float32), (700, 700))[0, 0, 0]

cv2.GaussianBlur(np.zeros((3000, 3000, 3), np.uint8), (0, 0), 5)  # now its threads are there
print([int(x) for batch in WorkerLoader(Resized(), 2, batch_size=2) for x in batch])
"""


MISTAKEN = """
from data.errors import UserError
from saliency.loading import WorkerLoader

class Broken:
    def __len__(self):
        return 8

    def __getitem__(self, index):
        raise UserError("the photograph cannot be read; remove it.")

try:
    list(WorkerLoader(Broken(), 1, batch_size=2))
except UserError as error:
    kept = error  # and with it, by its traceback, the loader and its worker
    print(error.message)
"""


def run(program):
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60,
        cwd=Path(__file__).resolve().parents[2],
    )  # fmt: skip


def test_mistake_found_by_a_worker_is_its_sentence_and_the_process_ends():
    assert run(MISTAKEN).stdout == "the photograph cannot be read; remove it.\n"


def test_workers_do_not_wait_for_threads_that_a_fork_lost():
    done = run(PROGRAM)
    assert done.stdout.split() == ["[0,", "1,", "2,", "3,", "4,", "5,", "6,", "7]"], done.stderr
